//! The pump of one output stream: from the pipe or terminal the process writes to, into its sink and to the clients.
//!
//! A pump is a task that owns the read end and the sink. It ends at the end of the stream, or when it is told to cut
//! ([`Phase`]), and in both cases writes the unfinished line and closes everything. A batch goes to the log first and to the
//! clients second, so a slow client delays no record.

use std::{future::pending, io, sync::Arc, time::Duration};

use rustix::{
    io::{Errno, fcntl_dupfd_cloexec},
    pipe::{fcntl_getpipe_size, fcntl_setpipe_size},
};
use tokio::{io::Interest, sync::watch, task::yield_now, time::timeout};

use super::{
    scratch::{self, BATCH},
    sink::Sink,
    sys,
    tap::Taps,
    transfer::{Ready, Step, Watched, read_step, write_some, write_whole},
};

/// After this many batches in a row the other tasks of the shim have their turn.
const TURNS: u32 = 16;
/// When output pauses for this long the copy buffer is given back.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a terminal nobody has open is looked at.
const HANGUP_POLL: Duration = Duration::from_millis(250);
/// What a pipe that is writable takes at once (pipe(7), PIPE_BUF).
const PIPE_BUF: usize = 4096;

/// More than a terminal holds of unread output, in bytes.
const TERMINAL_HOLDS: usize = 64 * 1024;

/// How far the process is, as far as its output is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It runs.
    Running,
    /// It has exited: what is left in the pipes is copied, and a terminal that is hung up stays so.
    Exited,
    /// The time for that is over.
    Cut,
}

/// One output stream on its way.
#[derive(Debug)]
pub struct Pump {
    /// What the process writes to.
    pub source: Arc<Watched>,
    /// Whether that is a terminal's master.
    pub terminal: bool,
    /// The first destination.
    pub sink: Sink,
    /// Further listeners.
    pub taps: Arc<Taps>,
    /// What the process is doing.
    pub phase: watch::Receiver<Phase>,
}

impl Pump {
    /// Copies until the stream ends or is cut.
    pub async fn run(mut self) {
        let (mut phase, mut exited) = (self.phase.clone(), self.phase.clone());
        let room = LastRoom::of(&self);
        tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase == Phase::Cut) => {}
            () = async {
                let _ = exited.wait_for(|phase| *phase >= Phase::Exited).await;
                room.make();
                pending().await
            } => {}
            () = self.copy() => {}
        }
        self.sink.finish();
        self.taps.close();
        if scratch::is_warm() {
            scratch::cool();
        }
    }

    async fn copy(&mut self) {
        let mut turns = 0;
        loop {
            self.taps.settle().await;
            match self.step().await {
                Ok(Step::Moved(_)) => turns += 1,
                Ok(Step::Blocked) => self.rest().await,
                Err(error) if self.terminal && is_hangup(&error) => {
                    // It can be opened again while the process lives, as a getty does.
                    if !self.wait_for_slave().await {
                        return;
                    }
                }
                Ok(Step::Ended) | Err(_) => return,
            }
            if turns == TURNS {
                turns = 0;
                yield_now().await;
            }
        }
    }

    async fn step(&mut self) -> io::Result<Step> {
        match &self.sink {
            Sink::Pipe(_) => match self.pipe_step().await {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    // Only a logger that died breaks a pipe. Its container goes on without it.
                    self.sink = Sink::Discard;
                    Ok(Step::Moved(0))
                }
                other => other,
            },
            _ => {
                let (sink, taps) = (&mut self.sink, &self.taps);
                read_step(&self.source, BATCH, |bytes, memory| {
                    sink.write(bytes, memory);
                    taps.offer(bytes);
                })
                .await
            }
        }
    }

    async fn pipe_step(&self) -> io::Result<Step> {
        let Sink::Pipe(target) = &self.sink else { return Ok(Step::Blocked) };
        let ready = Ready::of(&self.source, target).await?;
        // Asked only now: a client may have come while we waited.
        if !self.terminal && self.taps.is_empty() {
            return ready.splice().await;
        }
        let mut rest = Vec::new();
        let mut outcome = Ok(0);
        let step = read_step(&self.source, PIPE_BUF, |bytes, _| {
            outcome = write_some(target, bytes);
            rest.extend_from_slice(&bytes[outcome.as_ref().map_or(0, |n| *n)..]);
            self.taps.offer(bytes);
        })
        .await?;
        outcome?;
        // Empty unless the readiness was old news.
        write_whole(target, &rest).await?;
        Ok(step)
    }

    /// Nothing to read: gives the shared buffer back if it stays like that.
    async fn rest(&self) {
        if scratch::is_warm() && timeout(PAUSE, self.source.readable()).await.is_err() {
            scratch::cool();
        }
    }

    /// Waits a little for somebody to open the terminal again; false when the process had exited before the last read.
    async fn wait_for_slave(&mut self) -> bool {
        if *self.phase.borrow() >= Phase::Exited {
            return false;
        }
        let _ = timeout(HANGUP_POLL, self.phase.wait_for(|phase| *phase >= Phase::Exited)).await;
        // A second registration, because the first one remembers the hang-up for ever.
        let again = fcntl_dupfd_cloexec(&*self.source, 0).map_err(io::Error::from);
        match again.and_then(|master| sys::register(master, Interest::READABLE)) {
            Ok(again) => self.source = Arc::new(again),
            Err(_) => return false,
        }
        true
    }
}

/// The pipe behind a pump and the one before it.
#[derive(Debug)]
struct LastRoom(Option<(Arc<Watched>, Arc<Watched>)>);

impl LastRoom {
    fn of(pump: &Pump) -> Self {
        match &pump.sink {
            Sink::Pipe(target) => Self(Some((pump.source.clone(), target.clone()))),
            _ => Self(None),
        }
    }

    /// Enlarges the target by what the source can hold and a page, as only a pipe with room shows the source's end: all the
    /// process left behind fits then, whatever its reader does, and waits there for it after we are gone. Where the kernel
    /// refuses, the drain's limit decides.
    fn make(&self) {
        if let Some((source, target)) = &self.0
            && let Ok(size) = fcntl_getpipe_size(&**target)
        {
            let held = fcntl_getpipe_size(&**source).unwrap_or(TERMINAL_HOLDS);
            let _ = fcntl_setpipe_size(&**target, size + held + PIPE_BUF);
        }
    }
}

fn is_hangup(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}
