//! Port forwarding: each pair of streams is one TCP connection into the pod.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Workloads;
use super::spdy;
use super::streams::{Inlet, Outlet};
use super::websocket::{Channels, Use};

const READ_BYTES: usize = 32 << 10;

/// Into which pod, and by whom.
#[derive(Clone)]
pub struct Forwarder {
    /// Connects.
    pub workloads: Arc<dyn Workloads>,
    /// The pod.
    pub sandbox: String,
}

/// Over SPDY: the client opens pairs of streams, for as long as it likes.
pub async fn over_spdy(forwarder: Forwarder, mut connection: spdy::Connection, patience: Duration) {
    let (mut pairs, mut forwards) = (BTreeMap::<String, Half>::new(), JoinSet::new());
    loop {
        let oldest = pairs.values().map(|half| half.since).min();
        tokio::select! {
            stream = connection.incoming.recv() => match stream {
                Some(stream) => if let Some(pair) = pair(&mut pairs, stream).await {
                    forwards.spawn(forwarder.clone().forward(pair));
                },
                None => return,
            },
            () = deadline(oldest, patience) => give_up(&mut pairs, patience).await,
            // Their owner reaps them.
            Some(_) = forwards.join_next() => {}
        }
    }
}

/// Over a WebSocket: a pair of channels for each port that was asked for.
pub async fn over_websocket(forwarder: Forwarder, mut connection: Channels, ports: Vec<u16>) {
    let mut channels = std::mem::take(&mut connection.channels).into_iter();
    let mut forwards = JoinSet::new();
    for port in ports {
        let (Some(data), Some(error)) = (channels.next(), channels.next()) else { return };
        let (Some(inlet), Some(outlet), Some(error)) = (data.inlet, data.outlet, error.outlet) else { return };
        let mut pair = Pair { port, inlet, data: Outlet::WebSocket(outlet), error: Outlet::WebSocket(error) };
        // The port, little end first, is the first message on both.
        let greeting = port.to_le_bytes();
        let greeted =
            pair.data.write(greeting.to_vec().into()).await.and(pair.error.write(greeting.to_vec().into()).await);
        if greeted.is_err() {
            return;
        }
        forwards.spawn(forwarder.clone().forward(pair));
    }
    let done = async { while forwards.join_next().await.is_some() {} };
    tokio::select! {
        () = done => {}
        () = connection.gone.wait() => {}
    }
}

/// What each channel of a WebSocket is for.
pub fn channels(ports: &[u16]) -> Vec<Use> {
    ports.iter().flat_map(|_| [Use::Both, Use::Write]).collect()
}

/// The streams of one connection.
struct Pair {
    port: u16,
    inlet: Inlet,
    data: Outlet,
    error: Outlet,
}

/// The first stream of a pair.
struct Half {
    stream: spdy::Stream,
    kind: Kind,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// Joins a stream to the one it belongs to. A stream that makes no sense is reset.
async fn pair(pairs: &mut BTreeMap<String, Half>, mut stream: spdy::Stream) -> Option<Pair> {
    let Some((kind, port, id)) = place(&stream) else {
        let _ = stream.outlet.reset().await;
        return None;
    };
    let Some(half) = pairs.remove(&id) else {
        pairs.insert(id, Half { stream, kind, since: Instant::now() });
        return None;
    };
    let (data, error) = match (half.kind, kind) {
        (Kind::Data, Kind::Error) => (half.stream, stream),
        (Kind::Error, Kind::Data) => (stream, half.stream),
        (Kind::Data, Kind::Data) | (Kind::Error, Kind::Error) => {
            let _ = stream.outlet.reset().await;
            pairs.insert(id, half);
            return None;
        }
    };
    Some(Pair { port, inlet: data.inlet, data: Outlet::Spdy(data.outlet), error: Outlet::Spdy(error.outlet) })
}

/// What a stream is, its port, and what it has in common with its other half. Clients before Kubernetes 1.2 send no
/// requestID: their error stream comes first and the data stream next.
fn place(stream: &spdy::Stream) -> Option<(Kind, u16, String)> {
    let port = stream.headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let (kind, error_id) = match stream.headers.get("streamtype")? {
        "data" => (Kind::Data, stream.id.saturating_sub(2)),
        "error" => (Kind::Error, stream.id),
        _ => return None,
    };
    let id = stream.headers.get("requestid").map_or_else(|| format!("stream {error_id}"), str::to_string);
    Some((kind, port, id))
}

async fn deadline(oldest: Option<Instant>, patience: Duration) {
    match oldest {
        Some(oldest) => sleep_until(oldest + patience).await,
        None => std::future::pending().await,
    }
}

async fn give_up(pairs: &mut BTreeMap<String, Half>, patience: Duration) {
    let overdue: Vec<_> =
        pairs.iter().filter(|(_, half)| half.since.elapsed() >= patience).map(|(id, _)| id.clone()).collect();
    for id in overdue {
        if let Some(mut half) = pairs.remove(&id) {
            let _ = half.stream.outlet.reset().await;
        }
    }
}

impl Forwarder {
    async fn forward(self, mut pair: Pair) {
        let connected = self.workloads.connect(&self.sandbox, pair.port).await;
        let carried = match connected {
            Ok(tcp) => return carry(tcp, pair).await,
            Err(e) => e,
        };
        let text = format!("error forwarding port {} to pod {}: {carried}", pair.port, self.sandbox);
        tracing::info!(error = text, "a port cannot be forwarded");
        let _ = pair.error.write(text.into()).await;
        let _ = pair.error.finish().await;
        let _ = pair.data.reset().await;
    }
}

/// Copies both ways until both are at their end, or the client's side breaks.
async fn carry(mut tcp: TcpStream, pair: Pair) {
    let Pair { mut inlet, mut data, mut error, .. } = pair;
    let (mut from_pod, mut to_pod) = tcp.split();
    let up = async {
        while let Some(bytes) = inlet.next().await {
            if to_pod.write_all(&bytes).await.is_err() {
                // It reads no more, but may still be sending.
                return;
            }
        }
        let _ = to_pod.shutdown().await;
    };
    let down = async {
        let mut read = BytesMut::new();
        loop {
            read.reserve(READ_BYTES);
            match from_pod.read_buf(&mut read).await {
                Ok(1..) => data.write(read.split().freeze()).await?,
                Ok(0) | Err(_) => return data.finish().await,
            }
        }
    };
    let (_, down) = tokio::join!(up, down);
    if down.is_ok() {
        let _ = error.finish().await;
    }
}
