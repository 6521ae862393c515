//! The services `cleat.shim.v1.Io` and `cleat.shim.v1.Oom`, for ttrpc and async.
//!
//! A service `X` is the trait `X` to implement, `create_x` to register it with a server, and `XClient` to call it. The
//! messages belong to the `protobuf` crate, as all of ttrpc's do.

mod generated {
    #![allow(clippy::all, clippy::pedantic, clippy::unwrap_used, reason = "generated code")]
    #![allow(clippy::allow_attributes_without_reason, missing_docs, unused_qualifications, reason = "generated code")]
    include!(concat!(env!("OUT_DIR"), "/shim/mod.rs"));
}

pub use generated::io::{AttachRequest, AttachResponse, KilledRequest, KilledResponse, ReopenRequest, ReopenResponse};
pub use generated::io_ttrpc::{Io, IoClient, Oom, OomClient, create_io, create_oom};
