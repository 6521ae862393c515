//! `cleatd`: the daemon that answers kubelet over CRI and drives one shim per pod.
//!
//! A library so that the binary stays a command line and so that tests reach the parts. Nothing here links the shim:
//! daemon and shim meet on the wire.

pub mod cni;
pub mod config;
pub mod error;
pub mod id;
pub mod images;
pub mod netns;
pub mod service;
pub mod spec;

pub use error::{Error, Result};
