//! Exec and attach: gathers the streams that were asked for, hands them to the container, and tells how it ended.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cleat_proto::cri::v1::{AttachRequest, ExecRequest};
use tokio::time::timeout;

use super::Workloads;
use super::handshake::Version;
use super::spdy;
use super::status;
use super::streams::{Outlet, Resizes, Streams};
use super::websocket::{Channels, Use};
use crate::Result;

/// What is to be done with the streams.
#[derive(Debug)]
pub enum Command {
    /// Run another process.
    Exec(ExecRequest),
    /// Join the one that runs.
    Attach(AttachRequest),
}

/// Which streams a command has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wants {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Command {
    fn wants(&self) -> Wants {
        let (stdin, stdout, stderr, tty) = match self {
            Self::Exec(r) => (r.stdin, r.stdout, r.stderr, r.tty),
            Self::Attach(r) => (r.stdin, r.stdout, r.stderr, r.tty),
        };
        Wants { stdin, stdout, stderr: stderr && !tty, tty }
    }

    async fn run(self, workloads: &dyn Workloads, streams: &mut Streams) -> Result<i32> {
        match self {
            Self::Exec(request) => workloads.exec(request, streams).await,
            Self::Attach(request) => workloads.attach(request, streams).await.map(|()| 0),
        }
    }
}

/// Over SPDY: the client opens a stream for each.
pub async fn over_spdy(
    workloads: Arc<dyn Workloads>,
    command: Command,
    mut connection: spdy::Connection,
    (version, patience): (Version, Duration),
) {
    let mut gathered = Gathered::default();
    gathered.streams.gone = connection.gone.clone();
    let complete = timeout(patience, gathered.complete(&mut connection, command.wants(), version)).await;
    let (Ok(Some(())), Some(error)) = (complete, gathered.error.take()) else {
        tracing::debug!("a streaming client did not open its streams");
        return;
    };
    finish(&*workloads, command, &mut gathered.streams, (error, version)).await;
    // Only now: a client closes its own side of a stream when it sees ours closed.
    drop(gathered);
}

/// Over a WebSocket: the channels have fixed numbers.
pub async fn over_websocket(
    workloads: Arc<dyn Workloads>,
    command: Command,
    mut connection: Channels,
    version: Version,
) {
    let mut channels = std::mem::take(&mut connection.channels).into_iter();
    let mut next =
        || channels.next().map(|channel| (channel.inlet, channel.outlet.map(Outlet::WebSocket))).unwrap_or_default();
    let ((stdin, _), (_, stdout), (_, stderr), (_, error), (resize, _)) = (next(), next(), next(), next(), next());
    let Some(mut error) = error else { return };
    let resize = resize.map(Resizes::new).filter(|_| command.wants().tty);
    let mut streams = Streams { stdin, stdout, stderr, resize, gone: connection.gone.clone() };
    // Clients take an empty message on the first channel they read as the sign that all is set up.
    let first = streams.stdout.as_mut().or(streams.stderr.as_mut()).unwrap_or(&mut error);
    if first.write(Bytes::new()).await.is_ok() {
        finish(&*workloads, command, &mut streams, (error, version)).await;
    }
}

/// What each channel of a WebSocket is for: stdin, stdout, stderr, error, resize.
pub fn channels(command: &Command) -> [Use; 5] {
    let wants = command.wants();
    let when = |wanted: bool, what: Use| if wanted { what } else { Use::Nothing };
    [
        when(wants.stdin, Use::Read),
        when(wants.stdout, Use::Write),
        when(wants.stderr, Use::Write),
        Use::Write,
        when(wants.tty, Use::Read),
    ]
}

/// Runs the command, ends the output, and then says how it went. A client that is gone is told nothing.
async fn finish(
    workloads: &dyn Workloads,
    command: Command,
    streams: &mut Streams,
    (mut error, version): (Outlet, Version),
) {
    let outcome = command.run(workloads, streams).await;
    if let Err(e) = &outcome {
        tracing::info!(error = %e, "a streaming session failed");
    }
    for output in [&mut streams.stdout, &mut streams.stderr].into_iter().flatten() {
        let _ = output.finish().await;
    }
    let text = status::text(&outcome, version);
    if !text.is_empty() && error.write(text.into()).await.is_err() {
        return;
    }
    let _ = error.finish().await;
}

/// The streams that have been opened so far.
#[derive(Default)]
struct Gathered {
    streams: Streams,
    error: Option<Outlet>,
    /// Our directions of streams that only the client sends on.
    silent: Vec<spdy::Outlet>,
}

impl Gathered {
    /// Returns when all that were asked for are there; None where the client is gone before.
    async fn complete(&mut self, connection: &mut spdy::Connection, wants: Wants, version: Version) -> Option<()> {
        while !self.is_complete(wants, version) {
            self.add(connection.incoming.recv().await?, wants).await;
        }
        Some(())
    }

    fn is_complete(&self, wants: Wants, version: Version) -> bool {
        let streams = &self.streams;
        self.error.is_some()
            && streams.stdin.is_some() == wants.stdin
            && streams.stdout.is_some() == wants.stdout
            && streams.stderr.is_some() == wants.stderr
            && (streams.resize.is_some() || !wants.tty || version < Version::V3)
    }

    async fn add(&mut self, stream: spdy::Stream, wants: Wants) {
        let spdy::Stream { headers, inlet, mut outlet, .. } = stream;
        let streams = &mut self.streams;
        match headers.get("streamtype").unwrap_or_default() {
            "error" if self.error.is_none() => self.error = Some(Outlet::Spdy(outlet)),
            "stdout" if wants.stdout && streams.stdout.is_none() => streams.stdout = Some(Outlet::Spdy(outlet)),
            "stderr" if wants.stderr && streams.stderr.is_none() => streams.stderr = Some(Outlet::Spdy(outlet)),
            "stdin" if wants.stdin && streams.stdin.is_none() => {
                streams.stdin = Some(inlet);
                self.silent.push(outlet);
            }
            "resize" if wants.tty && streams.resize.is_none() => {
                streams.resize = Some(Resizes::new(inlet));
                self.silent.push(outlet);
            }
            other => {
                tracing::debug!(stream = other, "a stream that was not asked for");
                let _ = outlet.reset().await;
            }
        }
    }
}
