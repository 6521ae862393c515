//! CNI against executed plugins: scripts that misbehave on purpose, and the ones every node has.

#![expect(clippy::expect_used, reason = "a test says what it expected")]

mod faults;
mod folder;
mod lab;
mod protocol;
mod real;
mod recovery;
