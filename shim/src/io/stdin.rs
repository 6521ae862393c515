//! A process's stdin: one pipe or terminal that the shim holds open, fed by a fifo and by clients that attach.
//!
//! ```text
//! Absent                                   no stdin was asked for
//! Waiting --connect--> Open --close--> Closed
//!    \--close--> WaitingToClose --connect--> Closed      (a terminal comes later than a request to close)
//! ```
//! A feed is a task per source. The process sees the end of its stdin when the state is Closed and the last feed has let go
//! of the target, so nothing that was written before the close is lost. A feed that is to close goes on to its source's own
//! end - a writer may be in the middle of a large write - or until the source was silent for [`SILENCE`].

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, open},
    termios::{LocalModes, SpecialCodeIndex, tcgetattr},
};
use tokio::{io::Interest, sync::watch, time::timeout};

use super::{
    error::{Error, Result},
    sink::is_fifo,
    transfer::{Ready, Step, Watched, read_step, watch as watch_fd, write_some, write_whole},
};

/// A source that is to close and is silent for this long has said everything.
const SILENCE: Duration = Duration::from_secs(1);
/// How much a terminal is fed at once: it takes little, and the rest waits in the source.
const TERMINAL_BATCH: usize = 1024;

/// What the process reads from.
#[derive(Debug)]
pub struct Target {
    fd: Arc<Watched>,
    terminal: bool,
    closed: AtomicBool,
    /// Whether the last byte written was in the middle of a line, in which an end-of-file character only ends the line.
    in_line: AtomicBool,
}

impl Target {
    fn new(fd: Arc<Watched>, terminal: bool, closed: bool) -> Arc<Self> {
        Arc::new(Self { fd, terminal, closed: AtomicBool::new(closed), in_line: AtomicBool::new(false) })
    }
}

impl Drop for Target {
    /// Closing the last copy of a pipe is its end; a terminal stays open for output and is sent its end-of-file character,
    /// if it is in the mode in which that means the end.
    fn drop(&mut self) {
        if self.terminal
            && self.closed.load(Ordering::Relaxed)
            && let Ok(modes) = tcgetattr(&*self.fd)
            && modes.local_modes.contains(LocalModes::ICANON)
        {
            let eof = [modes.special_codes[SpecialCodeIndex::VEOF]; 2];
            let _ = write_some(&self.fd, if self.in_line.load(Ordering::Relaxed) { &eof } else { &eof[..1] });
        }
    }
}

#[derive(Debug)]
enum State {
    Absent,
    Waiting,
    WaitingToClose,
    Open(Arc<Target>),
    Closed,
}

/// Where the stdin of a process comes from, as the request says.
#[derive(Debug)]
pub enum Origin {
    /// The process has none.
    Null,
    /// A file or device the process reads itself.
    File(OwnedFd),
    /// A fifo: its read end to feed from, and a writer that is held until the close, so that a client which goes and comes
    /// again does not end it.
    Fifo {
        /// The read end.
        reader: Watched,
        /// The write end.
        writer: OwnedFd,
    },
    /// Only clients that attach.
    Attached,
}

impl Origin {
    /// Opens the fifo at `path` at both ends without waiting for its writer; anything else there is opened as it is.
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("open {} for reading", path.display());
        let open_as = |access| open(path, access | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty());
        let found = rustix::fs::stat(path).map_err(|error| Error::io(what(), error))?;
        if rustix::fs::FileType::from_raw_mode(found.st_mode) != rustix::fs::FileType::Fifo {
            return Ok(Self::File(open_as(OFlags::RDONLY).map_err(|error| Error::io(what(), error))?));
        }
        let reader = open_as(OFlags::RDONLY | OFlags::NONBLOCK).map_err(|error| Error::io(what(), error))?;
        let writer = open_as(OFlags::WRONLY | OFlags::NONBLOCK).map_err(|error| Error::io(what(), error))?;
        Ok(Self::Fifo { reader: watch_fd(reader, Interest::READABLE, &path.display().to_string())?, writer })
    }
}

/// Opens a client's stdin fifo, which may or may not have a writer yet.
pub fn client_fifo(path: &Path) -> Result<Watched> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fifo = open(path, flags, Mode::empty());
    let fifo = fifo.map_err(|error| Error::io(format!("open {} for reading", path.display()), error))?;
    if !is_fifo(&fifo) {
        return Err(Error::Invalid(format!("attach to {}: not a fifo", path.display())));
    }
    watch_fd(fifo, Interest::READABLE, &path.display().to_string())
}

/// The stdin of one process.
#[derive(Debug)]
pub struct Stdin {
    inner: Mutex<Inner>,
    closing: watch::Sender<bool>,
    once: bool,
}

#[derive(Debug)]
struct Inner {
    state: State,
    writer: Option<OwnedFd>,
}

impl Stdin {
    /// The stdin of a process that has none.
    pub fn absent() -> Self {
        Self::with(State::Absent, false)
    }

    /// A stdin that waits for its target; `once`: the end of the first client is its end.
    pub fn waiting(once: bool) -> Self {
        Self::with(State::Waiting, once)
    }

    fn with(state: State, once: bool) -> Self {
        Self { inner: Mutex::new(Inner { state, writer: None }), closing: watch::Sender::new(false), once }
    }

    /// Keeps the fifo's write end until the close.
    pub fn hold(&self, writer: OwnedFd) {
        self.lock().writer = Some(writer);
    }

    /// Gives stdin its target: a pipe's write end, or a terminal's master. `None` if none is wanted (any more).
    pub fn connect(&self, fd: Arc<Watched>, terminal: bool) -> Option<Arc<Target>> {
        let mut inner = self.lock();
        let closed = match inner.state {
            State::Waiting => false,
            State::WaitingToClose => true,
            State::Absent | State::Open(_) | State::Closed => return None,
        };
        let target = Target::new(fd, terminal, closed);
        inner.state = if closed { State::Closed } else { State::Open(target.clone()) };
        Some(target)
    }

    /// What a client's stdin would be fed to, while it is open.
    pub fn target(&self) -> Option<Arc<Target>> {
        match &self.lock().state {
            State::Open(target) => Some(target.clone()),
            _ => None,
        }
    }

    /// Ends stdin as soon as everything already written is delivered; a second time does nothing.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.writer = None;
        inner.state = match std::mem::replace(&mut inner.state, State::Closed) {
            State::Absent => State::Absent,
            State::Waiting | State::WaitingToClose => State::WaitingToClose,
            State::Open(target) => {
                target.closed.store(true, Ordering::Relaxed);
                State::Closed
            }
            State::Closed => State::Closed,
        };
        drop(inner);
        self.closing.send_replace(true);
    }

    /// The process has exited: lets go of everything at once.
    pub fn abandon(&self) {
        let mut inner = self.lock();
        inner.writer = None;
        inner.state = State::Closed;
    }

    /// Feeds what the origin's fifo delivers, to the end of stdin.
    pub async fn feed_from_origin(&self, source: Watched, target: Arc<Target>) {
        // Whether the fifo or the process is at its end: there is nothing more to come or nobody to take it.
        self.feed(source, target).await;
        self.close();
    }

    /// Feeds what a client delivers. Its end is stdin's end only if that was asked for, and never for a terminal, whose
    /// user detaches from it and comes back.
    pub async fn feed_from_client(&self, source: Watched, target: Arc<Target>) {
        let ends_with_client = self.once && !target.terminal;
        self.feed(source, target).await;
        if ends_with_client {
            self.close();
        }
    }

    async fn feed(&self, source: Watched, target: Arc<Target>) {
        let mut closing = self.closing.subscribe();
        loop {
            let is_closing = *closing.borrow_and_update();
            // Only the waiting may be interrupted: a step has bytes in its hands.
            let ready = tokio::select! {
                ready = wait(&source, &target, is_closing) => ready,
                _ = closing.changed() => continue,
            };
            let step = match ready {
                Ok(Some(_)) if target.terminal => terminal_step(&source, &target).await,
                Ok(Some(ready)) => ready.splice().await,
                Ok(None) | Err(_) => return,
            };
            if !matches!(step, Ok(Step::Moved(_) | Step::Blocked)) {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until a step is possible; `None` for a source that is to close and silent.
async fn wait<'a>(source: &'a Watched, target: &'a Target, is_closing: bool) -> io::Result<Option<Ready<'a>>> {
    if is_closing && timeout(SILENCE, source.readable()).await.is_err() {
        return Ok(None);
    }
    Ready::of(source, &target.fd).await.map(Some)
}

async fn terminal_step(source: &Watched, target: &Target) -> io::Result<Step> {
    let mut rest = Vec::new();
    let mut outcome = Ok(0);
    let step = read_step(source, TERMINAL_BATCH, |bytes, _| {
        target.in_line.store(bytes.last().is_some_and(|last| !matches!(last, b'\n' | b'\r')), Ordering::Relaxed);
        outcome = write_some(&target.fd, bytes);
        rest.extend_from_slice(&bytes[outcome.as_ref().map_or(0, |n| *n)..]);
    })
    .await?;
    outcome?;
    write_whole(&target.fd, &rest).await?;
    Ok(step)
}
