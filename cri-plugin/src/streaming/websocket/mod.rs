//! Sessions over WebSocket: the channel protocols `channel.k8s.io` to `v5.channel.k8s.io` ([`channel`], pure), and SPDY
//! tunnelled in binary messages ([`tunnel`]).
//!
//! A WebSocket has no flow control of its own either: a channel whose process takes nothing stops the reading of all. kubectl
//! gives a connection up that does not answer its pings for a minute, so while reading stands still pongs are sent unasked
//! (RFC 6455, 5.5.3).

pub mod channel;
pub mod tunnel;

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use self::channel::{Codec, Input};
use super::line::Line;
use super::streams::{Budget, Closed, Feed, Gone, Inlet};

/// A client may send a whole file in one message, and some do.
const MESSAGE_MAX_BYTES: usize = 16 << 20;
/// Messages that wait to be sent.
const QUEUE_MESSAGES: usize = 8;
/// What one of our messages carries; clients' buffers are that large.
const PIECE_MAX_BYTES: usize = 32 << 10;
const PONG_EVERY: Duration = Duration::from_secs(5);
/// As for SPDY.
const LINGER: Duration = Duration::from_secs(5);

/// What a channel is for, as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Nothing: what comes is dropped.
    Nothing,
    /// The client sends.
    Read,
    /// The client is sent to.
    Write,
    /// Both.
    Both,
}

/// A connection with a client; dropping it ends it.
#[derive(Debug)]
pub struct Channels {
    /// One per channel, as asked for.
    pub channels: Vec<Channel>,
    /// Tells when the client is gone.
    pub gone: Gone,
    _open: oneshot::Sender<()>,
}

/// A channel's two directions, as far as they are used.
#[derive(Debug)]
pub struct Channel {
    /// What the client sends.
    pub inlet: Option<Inlet>,
    /// What it is sent.
    pub outlet: Option<Outlet>,
}

/// Where bytes for a channel go.
#[derive(Debug)]
pub struct Outlet {
    channel: u8,
    codec: Codec,
    queue: mpsc::Sender<Message>,
}

impl Outlet {
    /// Sends, in as many messages as it takes; nothing is a message too.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        let first = bytes.chunks(PIECE_MAX_BYTES).next().unwrap_or_default();
        let rest = bytes.get(first.len()..).unwrap_or_default();
        for piece in std::iter::once(first).chain(rest.chunks(PIECE_MAX_BYTES)) {
            self.queue.send(self.codec.encode(self.channel, piece)).await.map_err(|_| Closed)?;
        }
        Ok(())
    }
}

/// What a server's WebSocket is like.
pub fn upgraded<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> impl Future<Output = WebSocketStream<S>> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX_BYTES)).max_frame_size(Some(MESSAGE_MAX_BYTES));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config))
}

/// Speaks a channel protocol over a connection; the future carries it, as with SPDY's `connect`.
pub fn connect<S>(
    socket: WebSocketStream<S>,
    line: Line,
    plan: (Codec, &[Use]),
    idle: Duration,
) -> (Channels, impl Future<Output = ()> + Send + use<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (codec, uses) = plan;
    let (queue, queued) = mpsc::channel(QUEUE_MESSAGES);
    let (open, closing) = oneshot::channel();
    let (tell_gone, gone) = Gone::new();
    let (budget, mut feeds, mut channels) = (Budget::default(), Vec::new(), Vec::new());
    for (number, what) in (0u8..).zip(uses) {
        let (feed, inlet) = budget.stream();
        let (reads, writes) = (matches!(what, Use::Read | Use::Both), matches!(what, Use::Write | Use::Both));
        feeds.push(reads.then_some(feed));
        let outlet = Outlet { channel: number, codec, queue: queue.clone() };
        channels.push(Channel { inlet: reads.then_some(inlet), outlet: writes.then_some(outlet) });
    }
    let (to, from) = socket.split();
    let reader = Reader { from, feeds, codec, queue: Some(queue) };
    let carried = carry(reader, line, to, Ends { queued, closing, tell_gone }, idle);
    (Channels { channels, gone, _open: open }, carried)
}

/// The connection's ends of what its user holds.
struct Ends {
    queued: mpsc::Receiver<Message>,
    closing: oneshot::Receiver<()>,
    tell_gone: watch::Sender<bool>,
}

async fn carry<S>(reader: Reader<S>, line: Line, to: SplitSink<WebSocketStream<S>, Message>, ends: Ends, idle: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut reading = pin!(reader.read(&line, ends.closing));
    let mut writing = pin!(write(to, ends.queued));
    let written = tokio::select! {
        () = &mut reading => None,
        written = &mut writing => Some(written),
        () = line.idle(idle) => None,
    };
    if let Some(Ok(())) = written {
        let _ = timeout(LINGER, reading).await;
        return;
    }
    ends.tell_gone.send_replace(true);
}

type WriteError = tokio_tungstenite::tungstenite::Error;

async fn write<S>(
    mut to: SplitSink<WebSocketStream<S>, Message>,
    mut queued: mpsc::Receiver<Message>,
) -> Result<(), WriteError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = queued.recv().await {
        to.send(message).await?;
    }
    to.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await
}

struct Reader<S> {
    from: SplitStream<WebSocketStream<S>>,
    feeds: Vec<Option<Feed>>,
    codec: Codec,
    /// For pongs; given up when the session ends, so that the writer sees its end.
    queue: Option<mpsc::Sender<Message>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Reader<S> {
    /// Returns when the client is gone or broke the protocol; after `closing`, when it has hung up.
    async fn read(mut self, line: &Line, mut closing: oneshot::Receiver<()>) {
        loop {
            let message = tokio::select! {
                _ = &mut closing => break,
                message = self.from.next() => message,
            };
            // Pings are answered by the library as it reads on.
            let payload = match message {
                Some(Ok(Message::Binary(payload))) => payload,
                Some(Ok(Message::Text(text))) => Bytes::from(text),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                // Reading on sends the answer to a close.
                Some(Ok(Message::Close(_))) => return drop(timeout(LINGER, self.from.next()).await),
                Some(Err(_)) | None => return,
            };
            let (feeds, queue) = (&mut self.feeds, &self.queue);
            tokio::select! {
                taken = take(feeds, self.codec.decode(payload)) => if taken.is_err() { return },
                () = line.hung_up() => return,
                () = pong(queue.as_ref()) => return,
            }
        }
        self.queue = None;
        while let Some(Ok(_)) = self.from.next().await {}
    }
}

/// What the client did makes no sense in its protocol.
struct Broken;

async fn take(feeds: &mut [Option<Feed>], input: Input) -> Result<(), Broken> {
    match input {
        Input::Data(channel, bytes) => {
            if let Some(Some(feed)) = feeds.get(usize::from(channel)) {
                let _ = feed.push(bytes).await;
            }
            Ok(())
        }
        Input::End(channel) => feeds.get_mut(usize::from(channel)).map(|feed| *feed = None).ok_or(Broken),
        Input::Nothing => Ok(()),
        Input::Broken => Err(Broken),
    }
}

/// Sends pongs for as long as it is polled; returns when nobody sends any more.
async fn pong(queue: Option<&mpsc::Sender<Message>>) {
    let Some(queue) = queue else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PONG_EVERY).await;
        if let Err(mpsc::error::TrySendError::Closed(_)) = queue.try_send(Message::Pong(Bytes::new())) {
            return;
        }
    }
}
