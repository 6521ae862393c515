// Pins critest. Its package is a lone test file, so there is nothing that a tool line or an import could name:
//   go test -c -o critest -ldflags "-X sigs.k8s.io/cri-tools/pkg/version.Version=1.36.0" sigs.k8s.io/cri-tools/cmd/critest
module cleat/tools/critest

go 1.26.2

require sigs.k8s.io/cri-tools v1.36.0
