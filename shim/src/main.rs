//! `containerd-shim-cleat-v2`.

fn main() {}
