//! The stdio of a process: pipes or a terminal that the shim owns, and everything they are connected to.
//!
//! ```text
//! process --pipe or pty--> pump --> sink (CRI log, fifo, file, logger)      output.rs, sink.rs, log_file.rs, cri_log.rs
//!                              \--> taps (clients that attached)            tap.rs, attach.rs
//! process <--pipe or pty-- feed <-- fifo, clients                           stdin.rs
//! ```
//! A process never holds a fifo of anybody else's: daemons and clients come and go, it sees neither an end nor a SIGPIPE. One
//! [`Io`] serves one process, a container's init or an exec alike; it owns its tasks and descriptors, and dropping it ends
//! them all. All streams of the shim share one copy buffer (`scratch`), so an idle process costs its descriptors and a task
//! each. Everything runs on the one thread of the shim and must be called within its tokio runtime; nothing here blocks but
//! writes to regular files.

mod attach;
pub mod console;
pub mod cri_log;
mod error;
mod log_file;
mod logger;
mod output;
mod scratch;
mod sink;
mod stamp;
mod stdin;
mod sys;
mod tap;
mod transfer;
pub mod url;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    fd::OwnedFd,
    fs::fchown,
    pipe::{PipeFlags, pipe_with},
    process::{Gid, Uid},
};
use tokio::{
    io::Interest,
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use self::{
    attach::{Attachment, Streams},
    cri_log::Stream,
    log_file::{LogFile, LogStream},
    logger::Logger,
    output::{Phase, Pump},
    sink::Sink,
    stdin::{Origin, Stdin},
    tap::Taps,
    transfer::{Watched, watch as watch_fd},
    url::Endpoint,
};
pub use self::{
    error::{Error, Result},
    url::Stdio,
};

/// What the process, or the OCI runtime for it, gets as descriptors 0 to 2; to be dropped as soon as it has started, or the
/// ends of the streams are never seen. With a terminal there are none.
#[derive(Debug, Default)]
pub struct ChildEnds {
    /// Descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// Descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// Descriptor 2.
    pub stderr: Option<OwnedFd>,
}

/// Whose stdio it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owner<'a> {
    /// The user who owns the pipes, so that a process which is not root can reopen `/dev/stdout`.
    pub uid: u32,
    /// The group of the pipes.
    pub gid: u32,
    /// The containerd namespace, for a logger's environment.
    pub namespace: &'a str,
    /// The container's id, likewise.
    pub id: &'a str,
}

/// A terminal's output on its way to the terminal: where it will go, and what will feed it.
#[derive(Debug)]
struct Awaiting {
    sink: Sink,
    source: Option<Watched>,
    /// Columns and rows, if a client has told them already.
    size: Option<(u16, u16)>,
}

#[derive(Debug)]
enum Console {
    /// The process has pipes.
    None,
    Awaited(Box<Awaiting>),
    Attached(Arc<Watched>),
}

/// The stdio of one process.
#[derive(Debug)]
pub struct Io {
    streams: Arc<Streams>,
    console: Mutex<Console>,
    logs: Mutex<Vec<LogFile>>,
    logger: Option<Logger>,
    phase: watch::Sender<Phase>,
    pumps: Mutex<JoinSet<()>>,
    feeds: Mutex<JoinSet<()>>,
}

impl Io {
    /// [`Io::open_for`] an owner without a name, for streams that are no logger process.
    pub fn open(stdio: &Stdio, uid: u32, gid: u32) -> Result<(Self, ChildEnds)> {
        Self::open_for(stdio, &Owner { uid, gid, ..Owner::default() })
    }

    /// Opens the streams of a process and starts copying them; waits for nobody.
    ///
    /// With `terminal` the copying starts with [`Io::attach_console`].
    pub fn open_for(stdio: &Stdio, owner: &Owner<'_>) -> Result<(Self, ChildEnds)> {
        let sinks = Sinks::open(stdio, owner)?;
        let (stdin, origin) = open_stdin(&stdio.stdin)?;
        let taps = |sink: &Option<Sink>| {
            let taps = Taps::new();
            if sink.is_none() {
                taps.close();
            }
            taps
        };
        let mut io = Self {
            streams: Arc::new(Streams { stdout: taps(&sinks.stdout), stderr: taps(&sinks.stderr), stdin }),
            console: Mutex::new(Console::None),
            logs: Mutex::new(sinks.logs),
            logger: sinks.logger,
            phase: watch::Sender::new(Phase::Running),
            pumps: Mutex::default(),
            feeds: Mutex::default(),
        };
        if stdio.terminal {
            io.await_console(sinks.stdout, origin)?;
            return Ok((io, ChildEnds::default()));
        }
        let ends = ChildEnds {
            stdin: io.connect_stdin(origin, owner)?,
            stdout: io.connect_output(sinks.stdout, io.streams.stdout.clone(), owner)?,
            stderr: io.connect_output(sinks.stderr, io.streams.stderr.clone(), owner)?,
        };
        Ok((io, ends))
    }

    /// Waits until a logger process is ready, if there is one: at most ten seconds.
    pub async fn ready(&self) -> Result<()> {
        match &self.logger {
            Some(logger) => logger.ready().await,
            None => Ok(()),
        }
    }

    /// Starts copying a terminal's streams; `master` came over a [`console::Socket`].
    pub fn attach_console(&self, master: OwnedFd) -> Result<()> {
        let mut console = lock(&self.console);
        if !matches!(*console, Console::Awaited(_)) {
            return Err(Error::Invalid("no terminal is awaited".into()));
        }
        let master = Arc::new(watch_fd(master, Interest::READABLE | Interest::WRITABLE, "the terminal")?);
        if let Console::Awaited(awaiting) = std::mem::replace(&mut *console, Console::Attached(master.clone())) {
            if let Some((columns, rows)) = awaiting.size {
                console::resize(&*master, columns, rows)?;
            }
            let target = self.streams.stdin.connect(master.clone(), true);
            self.feed(awaiting.source, target);
            self.pump(master, true, awaiting.sink, self.streams.stdout.clone());
        }
        Ok(())
    }

    /// Sets the terminal's size in characters; a size told before the terminal is attached is set then.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let (Ok(columns), Ok(rows)) = (u16::try_from(width), u16::try_from(height)) else {
            return Err(Error::Invalid(format!("a terminal of {width} by {height} characters")));
        };
        match &mut *lock(&self.console) {
            Console::Attached(master) => console::resize(&**master, columns, rows),
            Console::Awaited(awaiting) => {
                awaiting.size = Some((columns, rows));
                Ok(())
            }
            Console::None => Err(Error::Invalid("the process has no terminal to resize".into())),
        }
    }

    /// Ends the process's stdin as soon as what was written to it is delivered; before it has started, too.
    pub fn close_stdin(&self) {
        self.streams.stdin.close();
    }

    /// Goes on logging into new files at the same paths; nothing to do for a process without a CRI log.
    ///
    /// On an error no file was created and the old one stays in use.
    pub fn reopen_log(&self) -> Result<()> {
        lock(&self.logs).iter().try_for_each(LogFile::reopen)
    }

    /// Adds a client: fifos that get a copy of all output from now on, and one whose content goes to stdin.
    ///
    /// The client must have opened its ends for reading before. It is let go when it closes them, when it does not keep up
    /// (a megabyte behind, and a second in which it does not take 64 KiB), and when the process's streams end, which it sees as the end of its own.
    pub fn attach(&self, stdio: &Stdio) -> Result<()> {
        let attachment = Attachment::open(&self.streams, stdio)?;
        let mut feeds = lock(&self.feeds);
        while feeds.try_join_next().is_some() {}
        feeds.spawn(attachment.serve());
        Ok(())
    }

    /// After the process has exited: copies what it left behind to the end, at most for `limit`, since a child in the
    /// background may hold its stdout; then closes every stream. A logger has the rest of the time to finish.
    pub async fn drain(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.phase.send_replace(Phase::Exited);
        let mut pumps = std::mem::take(&mut *lock(&self.pumps));
        while let Ok(Some(_)) = timeout_at(deadline, pumps.join_next()).await {}
        self.phase.send_replace(Phase::Cut);
        while pumps.join_next().await.is_some() {}
        self.streams.stdin.abandon();
        let mut feeds = std::mem::take(&mut *lock(&self.feeds));
        feeds.shutdown().await;
        *lock(&self.console) = Console::None;
        lock(&self.logs).clear();
        if let Some(logger) = &self.logger {
            let _ = timeout_at(deadline, logger.exited()).await;
        }
    }

    fn await_console(&mut self, sink: Option<Sink>, origin: Origin) -> Result<()> {
        let source = match origin {
            Origin::Null | Origin::Attached => None,
            Origin::Fifo { reader, writer } => {
                self.streams.stdin.hold(writer);
                Some(reader)
            }
            Origin::File(_) => return Err(Error::Invalid("a terminal's stdin must be a fifo".into())),
        };
        // Nobody may want the output, but it must be read.
        let awaiting = Awaiting { sink: sink.unwrap_or(Sink::Discard), source, size: None };
        self.console = Mutex::new(Console::Awaited(Box::new(awaiting)));
        Ok(())
    }

    fn connect_stdin(&self, origin: Origin, owner: &Owner<'_>) -> Result<Option<OwnedFd>> {
        let source = match origin {
            Origin::Null => return Ok(None),
            Origin::File(file) => return Ok(Some(file)),
            Origin::Attached => None,
            Origin::Fifo { reader, writer } => {
                self.streams.stdin.hold(writer);
                Some(reader)
            }
        };
        let (child, ours) = pipe_of(owner)?;
        let ours = Arc::new(watch_fd(ours, Interest::WRITABLE, "a stdin pipe")?);
        let target = self.streams.stdin.connect(ours, false);
        self.feed(source, target);
        Ok(Some(child))
    }

    fn connect_output(&self, sink: Option<Sink>, taps: Arc<Taps>, owner: &Owner<'_>) -> Result<Option<OwnedFd>> {
        let Some(sink) = sink else { return Ok(None) };
        let (ours, child) = pipe_of(owner)?;
        let ours = Arc::new(watch_fd(ours, Interest::READABLE, "an output pipe")?);
        self.pump(ours, false, sink, taps);
        Ok(Some(child))
    }

    fn feed(&self, source: Option<Watched>, target: Option<Arc<stdin::Target>>) {
        if let (Some(source), Some(target)) = (source, target) {
            let streams = self.streams.clone();
            lock(&self.feeds).spawn(async move { streams.stdin.feed_from_origin(source, target).await });
        }
    }

    fn pump(&self, source: Arc<Watched>, terminal: bool, sink: Sink, taps: Arc<Taps>) {
        let pump = Pump { source, terminal, sink, taps, phase: self.phase.subscribe() };
        lock(&self.pumps).spawn(pump.run());
    }
}

/// The first destinations of both output streams.
#[derive(Debug, Default)]
struct Sinks {
    stdout: Option<Sink>,
    stderr: Option<Sink>,
    logs: Vec<LogFile>,
    logger: Option<Logger>,
}

impl Sinks {
    fn open(stdio: &Stdio, owner: &Owner<'_>) -> Result<Self> {
        let stdout = Endpoint::of_output(&stdio.stdout)?;
        let mut sinks = Self::default();
        if let Endpoint::Logger { program, args } = &stdout {
            // One logger serves both streams, whatever stderr says (containerd's shims decide by stdout's URL).
            let (logger, out, err) = Logger::start(program, args, owner.namespace, owner.id)?;
            let err = (!stdio.terminal).then_some(err);
            return Ok(Self { stdout: Some(out), stderr: err, logs: Vec::new(), logger: Some(logger) });
        }
        sinks.stdout = sinks.sink(&stdout, Stream::Stdout)?;
        if !stdio.terminal {
            sinks.stderr = sinks.sink(&Endpoint::of_output(&stdio.stderr)?, Stream::Stderr)?;
        }
        Ok(sinks)
    }

    fn sink(&mut self, endpoint: &Endpoint, stream: Stream) -> Result<Option<Sink>> {
        Ok(Some(match endpoint {
            Endpoint::Null => return Ok(None),
            Endpoint::Discard => Sink::Discard,
            Endpoint::Fifo(path) => Sink::fifo(path)?,
            Endpoint::File(path) => Sink::file(path)?,
            Endpoint::CriLog { path, max_line } => Sink::Log(LogStream::new(stream, *max_line, self.log(path)?)),
            Endpoint::Logger { .. } | Endpoint::AttachedStdin { .. } => {
                return Err(Error::Invalid(format!("{endpoint:?} cannot be the stderr of this stdout")));
            }
        }))
    }

    fn log(&mut self, path: &std::path::Path) -> Result<LogFile> {
        if let Some(log) = self.logs.iter().find(|log| log.is_at(path)) {
            return Ok(log.clone());
        }
        let log = LogFile::open(path)?;
        self.logs.push(log.clone());
        Ok(log)
    }
}

fn open_stdin(text: &str) -> Result<(Stdin, Origin)> {
    Ok(match Endpoint::of_stdin(text)? {
        Endpoint::AttachedStdin { once } => (Stdin::waiting(once), Origin::Attached),
        Endpoint::Fifo(path) => match Origin::open(&path)? {
            file @ Origin::File(_) => (Stdin::absent(), file),
            fifo => (Stdin::waiting(false), fifo),
        },
        _ => (Stdin::absent(), Origin::Null),
    })
}

/// A pipe of the owner's: its read end and its write end.
fn pipe_of(owner: &Owner<'_>) -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::io("make a pipe", error))?;
    if (owner.uid, owner.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        let what = || format!("give a pipe to {}:{}", owner.uid, owner.gid);
        fchown(&reader, Some(uid), Some(gid)).map_err(|error| Error::io(what(), error))?;
    }
    Ok((reader, writer))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
