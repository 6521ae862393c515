//! Cleat's shim: one process per pod, between a daemon that speaks shim v2 and an OCI runtime.
//!
//! ```text
//! main -> bootstrap (start) -> serve -> service -> container -> runtime
//!      -> delete, info                              \-> io, events, reaper
//! ```
//! The process has one thread. Whatever blocks for longer than a syscall on local memory - an OCI runtime, a peer - is a
//! child or a future. Deliberately absent: anything the daemon can do as well without being the containers' parent.

pub mod args;
pub mod bootstrap;
mod bundle;
mod cgroup;
mod container;
pub mod delete;
mod error;
mod events;
pub mod info;
pub mod io;
mod options;
pub mod pause;
mod reaper;
mod report;
mod runtime;
mod sandbox;
pub mod serve;
mod service;
mod shim;
mod signals;
mod sys;

pub use sys::close_inherited;

pub use error::{Error, Result};
