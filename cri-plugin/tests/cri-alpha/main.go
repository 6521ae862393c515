// Calls Version of runtime.v1alpha2 as kubelet did in 1.22: the socket dialled by its path, with a dialer of its own,
// so that the path is also the authority. Prints the four fields, one a line.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := version(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func version(ctx context.Context, socket string) error {
	dial := func(ctx context.Context, target string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", target)
	}
	conn, err := grpc.DialContext(ctx, socket, grpc.WithInsecure(), grpc.WithBlock(), grpc.WithContextDialer(dial))
	if err != nil {
		return fmt.Errorf("dial %s: %w", socket, err)
	}
	defer conn.Close()
	answer, err := runtime.NewRuntimeServiceClient(conn).Version(ctx, &runtime.VersionRequest{})
	if err != nil {
		return err
	}
	fmt.Println(answer.Version)
	fmt.Println(answer.RuntimeName)
	fmt.Println(answer.RuntimeVersion)
	fmt.Println(answer.RuntimeApiVersion)
	return nil
}
