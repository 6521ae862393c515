//! `cleatd`: the daemon that answers kubelet over CRI and drives one shim per pod.
//!
//! A library so that the binary stays a command line and so that tests reach the parts. Nothing here links the shim:
//! daemon and shim meet on the wire.

pub mod claims;
mod clock;
pub mod cni;
pub mod config;
pub mod container;
pub mod daemon;
pub mod error;
mod features;
pub mod id;
pub mod images;
pub mod netns;
pub mod pods;
pub mod recover;
pub mod sandbox;
pub mod service;
pub mod spec;
pub mod store;
pub mod streaming;
pub mod tasks;

pub use error::{Error, Result};

/// Runs a blocking call off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(done) => done,
        Err(e) => Err(Error::failed("a blocking call", e)),
    }
}
