//! Between a client's streams and the fifos of a process: stdin one way, output the other.
//!
//! Each waits for its slower side and holds little: a client that stalls stops its own process, nobody else. Only the tail
//! that a process leaves at its end is read at once, since the shim closes its side soon after.

use std::convert::Infallible;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, mpsc, watch};

use super::process::{DRAIN_DEADLINE, Folder};
use crate::streaming::Streams;
use crate::streaming::streams::{Closed, Inlet, Outlet, Resizes, Size};
use crate::tasks::{Shim, Stdio};
use crate::{Error, Result};

/// Bytes read of an output before the client has taken them.
const AHEAD_BYTES: usize = 256 << 10;
/// The same, once the process has ended: its pipe, the fifo, and room for what children in the background say.
const TAIL_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 32 << 10;

/// The write end of a stdin fifo.
pub(super) struct Writer {
    sender: pipe::Sender,
    /// Keeps the fifo open while the shim has not opened it yet.
    held: Option<std::fs::File>,
}

impl Writer {
    /// Opens a fifo that may have no reader yet.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let both = std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
        let held = both.map_err(Error::io("open", path))?;
        let sender = pipe::OpenOptions::new().open_sender(path).map_err(Error::io("open", path))?;
        Ok(Self { sender, held: Some(held) })
    }

    /// The shim has opened it: from now on its going shows.
    pub(super) fn release(&mut self) {
        self.held = None;
    }

    /// Writes what the client sends, until it ends the stream or the process takes nothing more.
    pub(super) async fn feed(mut self, mut from: Inlet) {
        while let Some(bytes) = from.next().await {
            if self.sender.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

/// Passes an output on until its end, or for a bounded time after `exited`; an error where the client is gone.
async fn pump(mut fifo: pipe::Receiver, outlet: &mut Outlet, exited: impl Future<Output = ()>) -> Result<(), Closed> {
    let (to, mut from) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(AHEAD_BYTES));
    let read = async {
        let mut over = pin!(async {
            exited.await;
            room.add_permits(TAIL_BYTES);
            tokio::time::sleep(DRAIN_DEADLINE).await;
        });
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            let count = tokio::select! {
                read = fifo.read_buf(&mut buffer) => read.unwrap_or(0),
                () = &mut over => 0,
            };
            if count == 0 {
                break;
            }
            let wanted = u32::try_from(count).unwrap_or(u32::MAX);
            let permit = tokio::select! {
                Ok(permit) = room.clone().acquire_many_owned(wanted) => permit,
                () = &mut over => break,
            };
            if to.send((buffer.split().freeze(), permit)).is_err() {
                break;
            }
        }
        drop(to);
        Ok(())
    };
    let write = async {
        while let Some((bytes, _room)) = from.recv().await {
            outlet.write(bytes).await?;
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(drop)
}

/// The fifos of a process, and the client's streams that they carry.
pub(super) struct Pipes<'a> {
    /// What the client sends.
    pub(super) stdin: Option<(Writer, Inlet)>,
    /// What it is sent.
    pub(super) output: Output<'a>,
    /// The sizes of its terminal.
    pub(super) sizes: Option<Resizes>,
}

/// The streams that a process writes, as far as somebody wants them.
pub(super) struct Output<'a> {
    stdout: Option<(pipe::Receiver, &'a mut Outlet)>,
    stderr: Option<(pipe::Receiver, &'a mut Outlet)>,
}

impl<'a> Pipes<'a> {
    /// Makes a fifo for each of the streams, and opens our ends; the shim is to open its own by the names.
    pub(super) fn make(folder: &Folder, streams: &'a mut Streams, tty: bool) -> Result<(Stdio, Self)> {
        let mut stdio = Stdio { terminal: tty, ..Stdio::default() };
        let mut stdin = None;
        if let Some(inlet) = streams.stdin.take() {
            let path = folder.fifo("stdin")?;
            stdio.stdin = path.to_string_lossy().into_owned();
            stdin = Some((Writer::open(&path)?, inlet));
        }
        let stdout = output(folder, "stdout", streams.stdout.as_mut(), &mut stdio.stdout)?;
        // A terminal has one output.
        let stderr = output(folder, "stderr", streams.stderr.as_mut().filter(|_| !tty), &mut stdio.stderr)?;
        Ok((stdio, Self { stdin, output: Output { stdout, stderr }, sizes: streams.resize.take() }))
    }
}

fn output<'a>(
    folder: &Folder,
    name: &str,
    outlet: Option<&'a mut Outlet>,
    path: &mut String,
) -> Result<Option<(pipe::Receiver, &'a mut Outlet)>> {
    let Some(outlet) = outlet else { return Ok(None) };
    let (made, fifo) = folder.output(name)?;
    *path = made;
    Ok(Some((fifo, outlet)))
}

impl Output<'_> {
    /// Whether there is any.
    pub(super) fn is_some(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    /// Passes it on to its end; with `exited`, for a bounded time after that turns true. A client that is gone is its end too.
    pub(super) async fn pump(self, exited: Option<watch::Receiver<bool>>) {
        tokio::join!(pump_some(self.stdout, exited.clone()), pump_some(self.stderr, exited));
    }
}

async fn pump_some(stream: Option<(pipe::Receiver, &mut Outlet)>, exited: Option<watch::Receiver<bool>>) {
    if let Some((fifo, outlet)) = stream {
        let _ = pump(fifo, outlet, turned(exited)).await;
    }
}

async fn turned(exited: Option<watch::Receiver<bool>>) {
    match exited {
        // Whoever told it no more has ended with the process.
        Some(mut exited) => drop(exited.wait_for(|exited| *exited).await),
        None => std::future::pending().await,
    }
}

/// Passes the client's terminal sizes on to a process, for as long as it is polled; `exec` is empty for the container's own.
pub(super) async fn resizes(from: Option<Resizes>, shim: &Shim, container: &str, exec: &str) -> Infallible {
    if let Some(mut sizes) = from {
        while let Some(Size { width, height }) = sizes.next().await {
            if let Err(e) = shim.resize(container, exec, width, height).await {
                tracing::debug!(container, error = %e, "resizing a terminal");
            }
        }
    }
    std::future::pending().await
}
