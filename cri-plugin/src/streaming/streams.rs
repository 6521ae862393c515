//! A session's byte streams, whatever protocol carries them.
//!
//! What a client sends waits in a queue that is bounded per stream and, by [`Budget`], per connection: when either is full
//! the connection is read no further until the process takes something. Other sessions never notice.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::{spdy, websocket};

/// Pieces that wait on one stream.
const QUEUE_PIECES: usize = 32;
/// Bytes that wait on all streams of a connection.
const BUDGET_BYTES: usize = 8 << 20;
/// What a piece costs beside its bytes.
const PIECE_OVERHEAD_BYTES: usize = 128;

/// The client is gone, or wants no more on this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct Closed;

/// The streams of an exec or an attach, those that were asked for.
#[derive(Debug, Default)]
pub struct Streams {
    /// What the client sends to the process.
    pub stdin: Option<Inlet>,
    /// Where the process's output goes; a terminal's too.
    pub stdout: Option<Outlet>,
    /// Where its complaints go.
    pub stderr: Option<Outlet>,
    /// Sizes of the client's terminal, as they change.
    pub resize: Option<Resizes>,
    /// Tells when the client is gone.
    pub gone: Gone,
}

/// What a client sends on one stream.
#[derive(Debug)]
pub struct Inlet(mpsc::Receiver<Piece>);

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Inlet {
    /// The next piece; None once the client has ended the stream, or is gone.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await.map(|piece| piece.bytes)
    }
}

/// The connection's end of an [`Inlet`].
#[derive(Debug, Clone)]
pub struct Feed {
    to: mpsc::Sender<Piece>,
    budget: Budget,
}

impl Feed {
    /// Waits for room and hands a piece on.
    ///
    /// # Errors
    /// `Closed` where nobody reads the stream: what it carries is then dropped.
    pub async fn push(&self, bytes: Bytes) -> Result<(), Closed> {
        let cost = (bytes.len() + PIECE_OVERHEAD_BYTES).min(BUDGET_BYTES);
        let room = tokio::select! {
            room = self.budget.0.clone().acquire_many_owned(u32::try_from(cost).unwrap_or(u32::MAX)) => room,
            () = self.to.closed() => return Err(Closed),
        };
        let piece = Piece { bytes, _room: room.map_err(|_| Closed)? };
        self.to.send(piece).await.map_err(|_| Closed)
    }
}

/// What may wait on all streams of one connection.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_BYTES)))
    }
}

impl Budget {
    /// A stream of this connection.
    pub fn stream(&self) -> (Feed, Inlet) {
        let (to, from) = mpsc::channel(QUEUE_PIECES);
        (Feed { to, budget: self.clone() }, Inlet(from))
    }
}

/// Where bytes for the client go.
#[derive(Debug)]
pub enum Outlet {
    /// A SPDY stream.
    Spdy(spdy::Outlet),
    /// A channel of a WebSocket.
    WebSocket(websocket::Outlet),
}

impl Outlet {
    /// Waits until the connection has taken all of it.
    ///
    /// # Errors
    /// `Closed`: the client is gone, or has reset the stream.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Closed> {
        match self {
            Self::Spdy(outlet) => outlet.write(bytes).await,
            Self::WebSocket(outlet) => outlet.write(&bytes).await,
        }
    }

    /// Says that nothing follows. A WebSocket has no word for that before its own end.
    ///
    /// # Errors
    /// As `write`.
    pub async fn finish(&mut self) -> Result<(), Closed> {
        match self {
            Self::Spdy(outlet) => outlet.finish().await,
            Self::WebSocket(_) => Ok(()),
        }
    }

    /// Ends the stream in both directions.
    ///
    /// # Errors
    /// As `write`.
    pub async fn reset(&mut self) -> Result<(), Closed> {
        match self {
            Self::Spdy(outlet) => outlet.reset().await,
            Self::WebSocket(_) => Ok(()),
        }
    }
}

/// Tells when a client is gone.
#[derive(Debug, Clone)]
pub struct Gone(watch::Receiver<bool>);

impl Gone {
    /// The teller and what it tells; a teller that is dropped has told.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Returns when it is.
    pub async fn wait(&self) {
        let _ = self.0.clone().wait_for(|gone| *gone).await;
    }
}

impl Default for Gone {
    /// Of nobody: gone already.
    fn default() -> Self {
        Self::new().1
    }
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Sizes, one JSON object after the other: `{"Width":80,"Height":24}`.
#[derive(Debug)]
pub struct Resizes {
    from: Inlet,
    text: Vec<u8>,
}

/// A client that sends this much without an object in it is not telling sizes.
const RESIZE_MAX_BYTES: usize = 4096;

impl Resizes {
    /// Reads them from a stream.
    pub fn new(from: Inlet) -> Self {
        Self { from, text: Vec::new() }
    }

    /// The next size; None at the end of the stream, or where it is no longer understood.
    pub async fn next(&mut self) -> Option<Size> {
        loop {
            let mut sizes = serde_json::Deserializer::from_slice(&self.text).into_iter::<Size>();
            let first = sizes.next();
            let end = sizes.byte_offset();
            match first {
                Some(Ok(size)) => {
                    self.text.drain(..end);
                    return Some(size);
                }
                Some(Err(e)) if !e.is_eof() => return None,
                _ if self.text.len() > RESIZE_MAX_BYTES => return None,
                _ => self.text.extend_from_slice(&self.from.next().await?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sizes_are_read_wherever_they_are_cut() {
        let (feed, inlet) = Budget::default().stream();
        for part in [
            "{\"Width\":80,\"He",
            "ight\":24}\n{\"Width\":1,\"Height\":2}{\"Width",
            "\":3,\"Height\":4}",
            "what?",
            "{}",
        ] {
            feed.push(Bytes::from(part)).await.expect("push");
        }
        let mut sizes = Resizes::new(inlet);
        for (width, height) in [(80, 24), (1, 2), (3, 4)] {
            assert_eq!(sizes.next().await, Some(Size { width, height }));
        }
        assert_eq!(sizes.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_one_budget_and_a_stream_nobody_reads_takes_none() {
        let budget = Budget::default();
        let ((full, mut inlet), (other, unread)) = (budget.stream(), budget.stream());
        full.push(Bytes::from(vec![0; BUDGET_BYTES])).await.expect("all of it");
        let second = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(second, other.push(Bytes::from_static(b"x"))).await.is_err(), "no room is left");
        drop(unread);
        assert_eq!(other.push(Bytes::from_static(b"x")).await, Err(Closed));
        assert_eq!(inlet.next().await.map(|bytes| bytes.len()), Some(BUDGET_BYTES));
        full.push(Bytes::from_static(b"x")).await.expect("room again");
    }
}
