//! Our own content store, registry client and unpacking.

mod content;
mod flights;
mod leases;
mod store;
mod stream;
