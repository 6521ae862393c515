// Prints the published CRI, one line for each thing that is part of the interface, for ../descriptors.rs to compare.
package main

import (
	"fmt"
	"sort"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	_ "google.golang.org/protobuf/types/descriptorpb" // options are nil without it
	_ "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	protoregistry.GlobalFiles.RangeFilesByPackage("runtime.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			printService(file.Services().Get(i))
		}
		printEnums(file.Enums())
		printMessages(file.Messages())
		return true
	})
}

func printService(service protoreflect.ServiceDescriptor) {
	fmt.Printf("service %s%s\n", service.FullName(), options(service))
	for i := range service.Methods().Len() {
		m := service.Methods().Get(i)
		fmt.Printf("method %s takes %s%s returns %s%s%s\n", m.FullName(), stream(m.IsStreamingClient()),
			m.Input().FullName(), stream(m.IsStreamingServer()), m.Output().FullName(), options(m))
	}
}

func stream(is bool) string {
	if is {
		return "stream "
	}
	return ""
}

func printEnums(enums protoreflect.EnumDescriptors) {
	for i := range enums.Len() {
		enum := enums.Get(i)
		fmt.Printf("enum %s%s\n", enum.FullName(), options(enum))
		for j := range enum.Values().Len() {
			value := enum.Values().Get(j)
			fmt.Printf("value %s.%s %d%s\n", enum.FullName(), value.Name(), value.Number(), options(value))
		}
		printReserved(enum.FullName(), enum.ReservedNames())
		for j := range enum.ReservedRanges().Len() {
			r := enum.ReservedRanges().Get(j)
			fmt.Printf("reserved %s %d to %d\n", enum.FullName(), r[0], r[1])
		}
	}
}

func printMessages(messages protoreflect.MessageDescriptors) {
	for i := range messages.Len() {
		message := messages.Get(i)
		fmt.Printf("message %s%s\n", message.FullName(), options(message))
		for j := range message.Fields().Len() {
			printField(message.Fields().Get(j))
		}
		printReserved(message.FullName(), message.ReservedNames())
		for j := range message.ReservedRanges().Len() {
			r := message.ReservedRanges().Get(j)
			fmt.Printf("reserved %s %d to %d\n", message.FullName(), r[0], r[1]-1)
		}
		printEnums(message.Enums())
		printMessages(message.Messages())
	}
}

func printReserved(parent protoreflect.FullName, names protoreflect.Names) {
	for i := range names.Len() {
		fmt.Printf("reserved %s %s\n", parent, names.Get(i))
	}
}

func printField(field protoreflect.FieldDescriptor) {
	kind := field.Kind().String()
	if field.Message() != nil {
		kind += " " + string(field.Message().FullName())
	}
	if field.Enum() != nil {
		kind += " " + string(field.Enum().FullName())
	}
	oneof := ""
	if field.ContainingOneof() != nil {
		oneof = " oneof " + string(field.ContainingOneof().Name())
	}
	fmt.Printf("field %s %d %s %s%s%s\n", field.FullName(), field.Number(), field.Cardinality(), kind, oneof, options(field))
}

// The options that are set, sorted by name.
func options(descriptor protoreflect.Descriptor) string {
	var set []string
	descriptor.Options().ProtoReflect().Range(func(option protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		set = append(set, fmt.Sprintf(" %s=%v", option.Name(), value.Interface()))
		return true
	})
	sort.Strings(set)
	return strings.Join(set, "")
}
