//! Running an OCI binary: spawned without a shell, watched by the reaper, ended at its deadline.
//!
//! The process gets a process group of its own, so that a hanging runtime goes with all its helpers. What it prints is
//! read while it runs (a full pipe would stop it) and kept up to a bound. Descriptors of the shim are close-on-exec; the
//! child sees 0, 1 and 2. `tokio::process` is deliberately not used: the reaper is the only one who waits.

use std::{
    ffi::OsString,
    io::{ErrorKind, PipeReader},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{net::unix::pipe::Receiver, time::timeout};

use super::{
    flavour::{Flavour, Unified},
    sys,
};
use crate::{
    error::{Error, Result},
    reaper::{Exit, Reaper},
};

/// What is kept of a stream; the rest is read and dropped.
const CAPTURE_MAX_BYTES: usize = 1 << 20;

/// The streams a command runs with.
#[derive(Debug)]
pub enum Streams {
    /// Its stderr, read by the shim; no other output is of interest.
    Captured,
    /// The container's: the process leaves them to the init or the exec it makes. None is /dev/null.
    Handed {
        /// Descriptors for 0, 1 and 2.
        fds: [Option<OwnedFd>; 3],
    },
}

/// One call of a binary.
#[derive(Debug)]
pub struct Call {
    /// The binary.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its working directory.
    pub dir: PathBuf,
    /// Its streams.
    pub streams: Streams,
    /// How long it may take.
    pub deadline: Duration,
}

/// What became of a call.
#[derive(Debug)]
pub struct Output {
    /// Its exit code, or 128 and a signal.
    pub status: u32,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
}

/// Runs a call to its end. At the deadline its process group is killed and the call has failed.
pub async fn run(call: Call, flavour: &Flavour, reaper: &Reaper) -> Result<Output> {
    let what = describe(&call);
    let deadline = call.deadline;
    let (child, err) = spawn(call, flavour, reaper, &what)?;
    let group = child.process.pid();
    let mut stderr = Vec::new();
    let finished = timeout(deadline, async {
        let mut exit = child.exit;
        // Whoever inherited stderr (a hook's daemon) may keep it open for ever: the exit is what counts.
        tokio::select! {
            exit = &mut exit => exit,
            () = capture(err.as_ref(), &mut stderr) => exit.await,
        }
    });
    let exit: Exit = match finished.await {
        Ok(exit) => exit.map_err(|_| Error::Corrupt { what, problem: "its exit was lost".into() })?,
        Err(_) => {
            if let Some(group) = Pid::from_raw(group) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            return Err(Error::TimedOut { what, after: deadline });
        }
    };
    rest(err.as_ref(), &mut stderr);
    Ok(Output { status: exit.status, stderr })
}

fn describe(call: &Call) -> String {
    let verb = call.args.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
    format!("{} {verb}", call.program.display())
}

type Spawned = (crate::reaper::Child, Option<Receiver>);

fn spawn(call: Call, flavour: &Flavour, reaper: &Reaper, what: &str) -> Result<Spawned> {
    let mut command = Command::new(&call.program);
    // A notification socket is the shim's, if anybody's: a runtime would wait for a READY that never comes.
    command.args(&call.args).current_dir(&call.dir).process_group(0).env_remove("NOTIFY_SOCKET");
    if flavour.unified == Unified::Hidden && Path::new(sys::UNIFIED).exists() {
        sys::hide_unified(&mut command);
    }
    let failed = |e: std::io::Error| Error::io(format!("run {what}"), e);
    let mut err = None;
    match call.streams {
        Streams::Handed { fds: [stdin, stdout, stderr] } => {
            let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
            command.stdin(stdio(stdin)).stdout(stdio(stdout)).stderr(stdio(stderr));
        }
        Streams::Captured => {
            let (reader, writer) = std::io::pipe().map_err(failed)?;
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
            err = Some(receiver(reader).map_err(failed)?);
        }
    }
    let spawned = command.spawn().map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::io(format!("OCI runtime {} is not installed", call.program.display()), e),
        _ => failed(e),
    })?;
    // No await since the spawn: the reaper cannot have seen this child yet.
    Ok((reaper.watch(spawned.id().cast_signed())?, err))
}

fn receiver(pipe: PipeReader) -> std::io::Result<Receiver> {
    Receiver::from_owned_fd(pipe.into())
}

/// Reads until the writers are gone.
async fn capture(pipe: Option<&Receiver>, into: &mut Vec<u8>) {
    let Some(pipe) = pipe else { return };
    while pipe.readable().await.is_ok() {
        if !read_some(pipe, into) {
            return;
        }
    }
}

/// Takes what is there already, without waiting.
fn rest(pipe: Option<&Receiver>, into: &mut Vec<u8>) {
    let Some(pipe) = pipe else { return };
    let mut before = usize::MAX;
    while into.len() != before && into.len() < CAPTURE_MAX_BYTES {
        before = into.len();
        if !read_some(pipe, into) {
            return;
        }
    }
}

/// One read; false at the end of the stream.
fn read_some(pipe: &Receiver, into: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 4096];
    match pipe.try_read(&mut chunk) {
        Ok(0) => false,
        Ok(n) => {
            let room = CAPTURE_MAX_BYTES.saturating_sub(into.len());
            into.extend_from_slice(&chunk[..n.min(room)]);
            true
        }
        Err(e) => e.kind() == ErrorKind::WouldBlock,
    }
}
