//! Snapshots: the root filesystems of containers, and the mounts that make them.
//!
//! `mount` is all the shim needs and is always there. The feature `store` adds what the daemon needs: the trait
//! [`Snapshotter`], its implementations, and [`apply`], which unpacks a layer. The feature `conformance` adds the
//! suite that every snapshotter passes.
//!
//! Everything here blocks: callers on an async runtime use its blocking pool.
//!
//! Deliberately absent: images, digests, compression (a layer arrives as a stream of tar), and garbage collection
//! (the daemon knows what is in use; a snapshotter only refuses to remove what has children).

#[cfg(feature = "store")]
pub mod apply;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod error;
#[cfg(feature = "store")]
mod metadata;
pub mod mount;
#[cfg(feature = "store")]
pub mod native;
#[cfg(feature = "store")]
pub mod overlay;
#[cfg(feature = "store")]
pub mod snapshotter;
#[cfg(feature = "store")]
mod store;
#[cfg(feature = "store")]
mod sweeper;
#[cfg(feature = "store")]
mod tree;

pub use error::{Error, Result};
pub use mount::Mount;
#[cfg(feature = "store")]
pub use snapshotter::{Info, Kind, Snapshotter, Usage};
