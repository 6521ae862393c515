//! SPDY/3.1 as Kubernetes' clients speak it: framing ([`frame`], pure), header blocks ([`headers`], pure), send windows
//! ([`window`], pure) and the connection that carries them ([`connection`]).
//!
//! The other side is always moby/spdystream, behind kubelet, kubectl or crictl. It neither sends WINDOW_UPDATE nor heeds it.
//! So windows bind us only once a peer has spoken of them; until then TCP holds a sender back, as between those clients and
//! every other runtime. What the peer sends is bounded by a queue per stream and a budget per connection: whoever fills
//! them is read no further, its WINDOW_UPDATEs included: a peer that both sends without end and speaks of windows must read as it
//! writes.
//!
//! Absent on purpose: streams that the server opens, priorities, CREDENTIAL frames: nothing here would use them.

pub mod connection;
mod dictionary;
pub mod frame;
pub mod headers;
mod window;

pub use connection::{Connection, Outlet, Stream, connect};

/// How a peer broke the protocol; the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A control frame of another version.
    #[error("SPDY version {0} is not 3")]
    Version(u16),
    /// A control frame longer than any client of ours sends.
    #[error("a control frame of {0} bytes")]
    TooLong(usize),
    /// A control frame whose length does not fit its type.
    #[error("a frame of type {0} with the wrong length")]
    Length(u16),
    /// A frame that needs a stream has none, or one of the server's.
    #[error("stream {0} cannot be a client's")]
    StreamId(u32),
    /// A header block that cannot be read.
    #[error("a header block: {0}")]
    Headers(&'static str),
}
