//! The wires of Cleat as Rust types: CRI v1 ([`cri`]), which kubelet speaks with `cleatd`, and Cleat's own services
//! between `cleatd` and its shim ([`shim`]).
//!
//! The interfaces stand in `proto/`, in our words. Deliberately absent: any logic, and the shim v2 protocol, whose
//! types come from `containerd-shim-protos`.

pub mod cri;
#[cfg(feature = "ttrpc")]
pub mod shim;
