//! The shim.

pub mod io;
pub mod pause;
