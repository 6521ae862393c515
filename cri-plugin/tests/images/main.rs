//! Images end to end: pulled from a real registry and from scripted ones that lie, stall and vanish; unpacked, listed,
//! removed, and found again after a crash.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod auth;
mod build;
mod faults;
mod fixture;
mod lifecycle;
mod pulls;
mod registry;
mod server;
mod tls;
