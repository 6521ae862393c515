//! Compares our CRI with the one Kubernetes publishes, both ways: nothing missing, nothing more, nothing different.
//!
//! A Go program in `cri-api/` prints the published descriptors, one line for each service, method, message, field,
//! enum and value, with all options; the same lines are made here from ours. JSON names are left out: nothing on the
//! wire has them.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::Command;

use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    ServiceDescriptor, Value,
};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cri-api");

#[test]
fn cri_is_the_published_interface() {
    let published = match published() {
        Ok(lines) => lines,
        Err(reason) => return println!("SKIP cri_is_the_published_interface: {reason}"),
    };
    assert!(published.len() > 800, "only {} lines from the published interface", published.len());
    let ours = ours();
    let mut diff = String::new();
    for line in published.symmetric_difference(&ours) {
        let side = if ours.contains(line) { "only ours      " } else { "only published " };
        writeln!(diff, "{side} {line}").unwrap();
    }
    assert!(diff.is_empty(), "proto/cri/v1 differs from k8s.io/cri-api:\n{diff}");
}

#[test]
fn all_calls_are_there() {
    let pool = DescriptorPool::decode(cleat_proto::cri::DESCRIPTORS).unwrap();
    let count = |name| pool.get_service_by_name(name).unwrap().methods().len();
    assert_eq!(count("runtime.v1.RuntimeService"), 37);
    assert_eq!(count("runtime.v1.ImageService"), 6);
}

/// The lines of the Go program, or why it cannot run here. A program that runs and fails is a failure of the test.
fn published() -> Result<BTreeSet<String>, String> {
    go(&["mod", "download"])?;
    let output = go(&["run", "."]).unwrap_or_else(|error| panic!("{error}"));
    Ok(output.lines().map(str::to_owned).collect())
}

fn go(args: &[&str]) -> Result<String, String> {
    let output = Command::new("go")
        .args(args)
        .current_dir(PROGRAM)
        .env("GOFLAGS", "-mod=readonly")
        .env("GOWORK", "off")
        .env("CGO_ENABLED", "0")
        .output()
        .map_err(|error| format!("no go: {error}"))?;
    if !output.status.success() {
        return Err(format!("go {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8(output.stdout).unwrap())
}

fn ours() -> BTreeSet<String> {
    let pool = DescriptorPool::decode(cleat_proto::cri::DESCRIPTORS).unwrap();
    let mut lines = BTreeSet::new();
    for service in pool.services() {
        add_service(&mut lines, &service);
    }
    for message in pool.all_messages() {
        add_message(&mut lines, &message);
    }
    for r#enum in pool.all_enums() {
        add_enum(&mut lines, &r#enum);
    }
    lines.retain(|line| line.contains(" runtime.v1."));
    lines
}

fn add_service(lines: &mut BTreeSet<String>, service: &ServiceDescriptor) {
    lines.insert(format!("service {}{}", service.full_name(), options(&service.options())));
    let stream = |is: bool| if is { "stream " } else { "" };
    for method in service.methods() {
        lines.insert(format!(
            "method {} takes {}{} returns {}{}{}",
            method.full_name(),
            stream(method.is_client_streaming()),
            method.input().full_name(),
            stream(method.is_server_streaming()),
            method.output().full_name(),
            options(&method.options()),
        ));
    }
}

fn add_message(lines: &mut BTreeSet<String>, message: &MessageDescriptor) {
    let name = message.full_name();
    lines.insert(format!("message {name}{}", options(&message.options())));
    lines.extend(message.fields().map(|field| field_line(&field)));
    lines.extend(message.reserved_names().map(|reserved| format!("reserved {name} {reserved}")));
    lines
        .extend(message.reserved_ranges().map(|range| format!("reserved {name} {} to {}", range.start, range.end - 1)));
}

fn field_line(field: &FieldDescriptor) -> String {
    let cardinality = match field.cardinality() {
        Cardinality::Optional => "optional",
        Cardinality::Required => "required",
        Cardinality::Repeated => "repeated",
    };
    let kind = match field.kind() {
        Kind::Message(message) => format!("message {}", message.full_name()),
        Kind::Enum(r#enum) => format!("enum {}", r#enum.full_name()),
        scalar => format!("{scalar:?}"),
    };
    let oneof = field.containing_oneof().map(|oneof| format!(" oneof {}", oneof.name())).unwrap_or_default();
    let options = options(&field.options());
    format!("field {} {} {cardinality} {kind}{oneof}{options}", field.full_name(), field.number())
}

fn add_enum(lines: &mut BTreeSet<String>, r#enum: &EnumDescriptor) {
    let name = r#enum.full_name();
    lines.insert(format!("enum {name}{}", options(&r#enum.options())));
    for value in r#enum.values() {
        lines.insert(format!("value {name}.{} {}{}", value.name(), value.number(), options(&value.options())));
    }
    lines.extend(r#enum.reserved_names().map(|reserved| format!("reserved {name} {reserved}")));
    for range in r#enum.reserved_ranges() {
        lines.insert(format!("reserved {name} {} to {}", range.start(), range.end()));
    }
}

/// The options that are set, sorted by name, each after a space.
fn options(options: &DynamicMessage) -> String {
    let mut set: Vec<String> = options
        .fields()
        .map(|(option, value)| match value {
            Value::Bool(value) => format!(" {}={value}", option.name()),
            other => format!(" {}={other:?}", option.name()),
        })
        .collect();
    set.sort();
    set.concat()
}
