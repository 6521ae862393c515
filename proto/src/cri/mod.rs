//! CRI as published by Kubernetes 0.37, and its descriptors.
//!
//! An enum field is an `i32`, as on the wire: a client may send a number this version does not know, and refusing it is
//! the handler's business.

#[cfg(feature = "json")]
mod json;
mod redact;

/// The package `runtime.v1`: messages, and with the feature `grpc` both services for server and client.
pub mod v1 {
    #![allow(clippy::all, clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated code")]
    #![allow(missing_docs, unused_qualifications, reason = "generated code")]
    include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));
}

/// An encoded `google.protobuf.FileDescriptorSet` of the package, without comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri.bin"));
