//! A SPDY connection: a reader that takes frames apart, a writer that sends what streams and reader have queued, and the
//! streams that clients open.
//!
//! The end of a connection is a GOAWAY, the end of our sending, and then a moment in which what the client still sends is read
//! and dropped: closing a socket with unread bytes would make the kernel throw away what the client has not read yet.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::Violation;
use super::frame::{self, Decoder, Event};
use super::headers::{Deflate, Headers};
use super::window::Windows;
use crate::streaming::line::Line;
use crate::streaming::streams::{Budget, Closed, Feed, Gone, Inlet};

/// Streams open at once; each forwarded TCP connection takes two.
const STREAMS_MAX: usize = 1000;
/// Frames that wait to be sent.
const QUEUE_FRAMES: usize = 8;
/// The peer is told that we took what it sent when it comes to this much.
const WINDOW_STEP_BYTES: u32 = 32 << 10;
/// How long a client may take to hang up after we have.
const LINGER: Duration = Duration::from_secs(5);
/// How long a last word may take to a client that broke the protocol.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A connection with a client; dropping it, or its close, ends it.
#[derive(Debug)]
pub struct Connection {
    /// Streams, as the client opens them.
    pub incoming: mpsc::Receiver<Stream>,
    /// Tells when the client is gone.
    pub gone: Gone,
    _open: oneshot::Sender<()>,
}

/// A stream that the client opened and that has been taken.
#[derive(Debug)]
pub struct Stream {
    /// Odd.
    pub id: u32,
    /// What it is for.
    pub headers: Headers,
    /// What the client sends on it.
    pub inlet: Inlet,
    /// What it reads from it.
    pub outlet: Outlet,
}

/// What streams and reader share.
#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    granted: Notify,
}

#[derive(Debug, Default)]
struct Table {
    windows: Windows,
    open: BTreeMap<u32, Halves>,
}

/// Which directions of a stream are still open.
#[derive(Debug, Clone, Copy)]
struct Halves {
    ours: bool,
    theirs: bool,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, id: u32, which: impl FnOnce(&mut Halves)) {
        let mut table = self.table();
        if let Some(halves) = table.open.get_mut(&id) {
            which(halves);
            if !halves.ours && !halves.theirs {
                table.open.remove(&id);
                table.windows.close(id);
            }
        }
        drop(table);
        self.granted.notify_waiters();
    }

    fn remove(&self, id: u32) {
        self.close(id, |halves| *halves = Halves { ours: false, theirs: false });
    }
}

/// Our direction of a stream. Dropped without an end it is as good as reset, only unsaid.
#[derive(Debug)]
pub struct Outlet {
    id: u32,
    queue: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    ended: bool,
}

impl Outlet {
    /// Sends, as far as the peer's windows allow at a time.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), Closed> {
        while !bytes.is_empty() {
            let mut granted = pin!(self.shared.granted.notified());
            granted.as_mut().enable();
            let taken = self.shared.table().windows.take(self.id, bytes.len().min(frame::PIECE_MAX_BYTES));
            match taken.ok_or(Closed)? {
                0 => {
                    // The queue's end is the connection's: nobody would grant any more.
                    tokio::select! {
                        () = granted => {}
                        () = self.queue.closed() => return Err(Closed),
                    }
                }
                taken => {
                    let piece = bytes.split_to(taken);
                    self.queue.send(frame::data(self.id, &piece, false)).await.map_err(|_| Closed)?;
                }
            }
        }
        Ok(())
    }

    /// Sends the end of our direction.
    pub async fn finish(&mut self) -> Result<(), Closed> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        self.shared.close(self.id, |halves| halves.ours = false);
        self.queue.send(frame::data(self.id, &[], true)).await.map_err(|_| Closed)
    }

    /// Ends the stream in both directions.
    pub async fn reset(&mut self) -> Result<(), Closed> {
        self.ended = true;
        self.shared.remove(self.id);
        self.queue.send(frame::reset(self.id, frame::CANCEL)).await.map_err(|_| Closed)
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.remove(self.id);
        }
    }
}

/// Speaks SPDY over a connection. The future carries it and must be polled for as long as the connection is in use; it ends
/// after the connection does.
pub fn connect<S>(io: S, line: Line, idle: Duration) -> (Connection, impl Future<Output = ()> + Send)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (queue, queued) = mpsc::channel(QUEUE_FRAMES);
    let (opened, incoming) = mpsc::channel(1);
    let (open, closing) = oneshot::channel();
    let (tell_gone, gone) = Gone::new();
    let reader = Reader {
        decoder: Decoder::default(),
        deflate: Deflate::default(),
        feeds: BTreeMap::new(),
        budget: Budget::default(),
        last: 0,
        unacknowledged: 0,
        queue,
        opened,
        shared: Arc::default(),
    };
    let carried = carry(io, line, reader, Ends { queued, closing, tell_gone }, idle);
    (Connection { incoming, gone, _open: open }, carried)
}

/// The connection's ends of what its user holds.
struct Ends {
    queued: mpsc::Receiver<Bytes>,
    closing: oneshot::Receiver<()>,
    tell_gone: watch::Sender<bool>,
}

async fn carry<S>(io: S, line: Line, reader: Reader, ends: Ends, idle: Duration)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (from, to) = tokio::io::split(io);
    let mut reading = pin!(reader.read(from, &line, ends.closing));
    let mut writing = pin!(write(to, ends.queued));
    let written = tokio::select! {
        () = &mut reading => None,
        written = &mut writing => Some(written),
        () = line.idle(idle) => None,
    };
    if let Some(Ok(())) = written {
        // Everything has been said: let the client hang up first.
        let _ = timeout(LINGER, reading).await;
        return;
    }
    ends.tell_gone.send_replace(true);
    if written.is_none() {
        let _ = timeout(LAST_WORD, writing).await;
    }
}

async fn write<S: AsyncWrite>(mut to: WriteHalf<S>, mut queued: mpsc::Receiver<Bytes>) -> std::io::Result<()> {
    while let Some(frame) = queued.recv().await {
        to.write_all(&frame).await?;
        if queued.is_empty() {
            to.flush().await?;
        }
    }
    to.shutdown().await
}

/// Takes frames apart.
struct Reader {
    decoder: Decoder,
    deflate: Deflate,
    feeds: BTreeMap<u32, Fed>,
    budget: Budget,
    last: u32,
    unacknowledged: u32,
    queue: mpsc::Sender<Bytes>,
    opened: mpsc::Sender<Stream>,
    shared: Arc<Shared>,
}

struct Fed {
    feed: Feed,
    unacknowledged: u32,
}

impl Reader {
    /// Returns when the client is gone or broke the protocol; after `closing`, when it has hung up.
    async fn read<S: AsyncRead>(mut self, mut from: ReadHalf<S>, line: &Line, mut closing: oneshot::Receiver<()>) {
        let mut read = BytesMut::new();
        loop {
            read.reserve(frame::PIECE_MAX_BYTES);
            tokio::select! {
                // Dropped or sent: both mean the end.
                _ = &mut closing => break,
                got = from.read_buf(&mut read) => if !matches!(got, Ok(1..)) { return },
            }
            tokio::select! {
                taken = self.take(&mut read) => if let Err(violation) = taken {
                    tracing::debug!(error = %violation, "a streaming client broke the protocol");
                    let _ = self.queue.try_send(frame::go_away(self.last, 1));
                    return;
                },
                () = line.hung_up() => return,
            }
        }
        let _ = self.queue.send(frame::go_away(self.last, 0)).await;
        drop(self);
        let mut dropped = [0; 4096];
        while let Ok(1..) = from.read(&mut dropped).await {}
    }

    async fn take(&mut self, read: &mut BytesMut) -> Result<(), Violation> {
        while let Some(event) = self.decoder.next(read)? {
            match event {
                Event::Open { id, headers, fin } => self.open(id, headers, fin).await?,
                Event::Data { id, bytes, fin } => self.data(id, bytes, fin).await,
                Event::Headers { id, fin } => self.end(id, fin),
                Event::Reset(id) => {
                    self.feeds.remove(&id);
                    self.shared.remove(id);
                }
                Event::Window(id, bytes) => self.windows(|windows| windows.grant(id, bytes)),
                Event::InitialWindow(bytes) => self.windows(|windows| windows.set_initial(bytes)),
                // An even id would be the answer to a ping of ours: we send none.
                Event::Ping(id) if !id.is_multiple_of(2) => self.send(frame::ping(id)).await,
                Event::Ping(_) | Event::GoAway => {}
            }
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, headers: Headers, fin: bool) -> Result<(), Violation> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(Violation::StreamId(id));
        }
        self.last = id;
        let full = self.shared.table().open.len() >= STREAMS_MAX;
        if full {
            self.send(frame::reset(id, frame::REFUSED_STREAM)).await;
            return Ok(());
        }
        let (feed, inlet) = self.budget.stream();
        {
            let mut table = self.shared.table();
            table.open.insert(id, Halves { ours: true, theirs: !fin });
            table.windows.open(id);
            // Streams that we ended ourselves and that the client never spoke on again.
            self.feeds.retain(|id, _| table.open.contains_key(id));
        }
        if !fin {
            self.feeds.insert(id, Fed { feed, unacknowledged: 0 });
        }
        let reply = frame::reply(&mut self.deflate, id)?;
        self.send(reply).await;
        let outlet = Outlet { id, queue: self.queue.clone(), shared: self.shared.clone(), ended: false };
        // Where nobody takes streams any more, the outlet's end is the stream's.
        let _ = self.opened.send(Stream { id, headers, inlet, outlet }).await;
        Ok(())
    }

    async fn data(&mut self, id: u32, bytes: Bytes, fin: bool) {
        let length = bytes.len() as u32;
        // Data on a stream that is closed or that nobody reads is dropped, yet it has been taken.
        if let Some(fed) = self.feeds.get_mut(&id)
            && !bytes.is_empty()
        {
            let _ = fed.feed.push(bytes).await;
            fed.unacknowledged += length;
            if fed.unacknowledged >= WINDOW_STEP_BYTES && !fin {
                let update = frame::window_update(id, std::mem::take(&mut fed.unacknowledged));
                self.send(update).await;
            }
        }
        self.unacknowledged += length;
        if self.unacknowledged >= WINDOW_STEP_BYTES {
            let update = frame::window_update(0, std::mem::take(&mut self.unacknowledged));
            self.send(update).await;
        }
        self.end(id, fin);
    }

    fn end(&mut self, id: u32, fin: bool) {
        if fin {
            self.feeds.remove(&id);
            self.shared.close(id, |halves| halves.theirs = false);
        }
    }

    fn windows(&self, change: impl FnOnce(&mut Windows)) {
        change(&mut self.shared.table().windows);
        self.shared.granted.notify_waiters();
    }

    /// A writer that is gone is noticed where it is carried.
    async fn send(&self, frame: Bytes) {
        let _ = self.queue.send(frame).await;
    }
}
