//! A logger process (`binary://`): it reads a container's stdout on fd 3 and stderr on fd 4, and closes fd 5 when it is ready.
//!
//! The shim writes to its pipes, so a logger that dies costs the log and not the container. At the end the pipes are closed;
//! a logger that does not go by itself within the drain is sent SIGTERM when the stdio is dropped. It is a child of the shim
//! and reaped like any other child it inherits. Deliberately absent: a restart of a logger that died.

use std::{
    io::ErrorKind,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use rustix::{
    fd::OwnedFd,
    io::{fcntl_dupfd_cloexec, read},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::{io::Interest, time::timeout};

use super::{
    error::{Error, Result},
    sink::Sink,
    sys::pass_from_3,
    transfer::{Watched, watch},
};

/// How long a logger may take to become ready.
const READY_IN: Duration = Duration::from_secs(10);
/// The first descriptor number after those a logger is given.
const AFTER_PASSED: i32 = 6;

/// A running logger.
#[derive(Debug)]
pub struct Logger {
    program: PathBuf,
    pidfd: Watched,
    ready: Mutex<Option<Watched>>,
}

impl Logger {
    /// Starts `program` for the container `id`, and returns it with the sinks for stdout and stderr. Does not wait for it to
    /// become ready.
    pub fn start(program: &Path, args: &[String], namespace: &str, id: &str) -> Result<(Self, Sink, Sink)> {
        let fail = |error: std::io::Error| Error::io(format!("start the logger {}", program.display()), error);
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| fail(error.into()));
        let ((stdout, stdout_sink), (stderr, stderr_sink), (ready, ready_of_child)) = (pipe()?, pipe()?, pipe()?);
        let passed = [stdout, stderr, ready_of_child].into_iter().map(|fd| fcntl_dupfd_cloexec(fd, AFTER_PASSED));
        let passed = passed.collect::<Result<Vec<_>, _>>().map_err(|error| fail(error.into()))?;
        let mut command = Command::new(program);
        command.args(args).env("CONTAINER_ID", id).env("CONTAINER_NAMESPACE", namespace);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let reserved = reserve(&ready).map_err(|error| fail(error.into()))?;
        pass_from_3(&mut command, passed);
        let child = command.spawn().map_err(fail)?;
        drop((command, reserved));
        let pid =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| fail(ErrorKind::NotFound.into()))?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|error| fail(error.into()))?;
        let logger = Self {
            program: program.into(),
            pidfd: watch(pidfd, Interest::READABLE, "a logger's pidfd")?,
            ready: Mutex::new(Some(watch(ready, Interest::READABLE, "a logger's ready pipe")?)),
        };
        let sink = |fd| Sink::pipe(fd, "a logger's pipe");
        Ok((logger, sink(stdout_sink)?, sink(stderr_sink)?))
    }

    /// Waits until the logger has closed its fd 5, or written to it; at most ten seconds.
    pub async fn ready(&self) -> Result<()> {
        let Some(pipe) = self.ready.lock().ok().and_then(|mut ready| ready.take()) else { return Ok(()) };
        let what = || format!("the logger {} to become ready", self.program.display());
        match timeout(READY_IN, pipe.readable()).await {
            Ok(Ok(_)) => {
                // Its end or its first byte, which is meant is the same.
                let _ = read(&pipe, &mut [0u8; 1]);
                Ok(())
            }
            Ok(Err(error)) => Err(Error::io(what(), error)),
            Err(_) => Err(Error::TimedOut { what: what(), after: READY_IN }),
        }
    }

    /// Waits until the logger has exited.
    pub async fn exited(&self) {
        let _ = self.pidfd.readable().await;
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        // Fails when it has gone already, which is as it should be.
        let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::TERM);
    }
}

/// Occupies the free descriptors among 3 to 5 while a child is made, so that no descriptor `Command` opens for itself gets
/// one of these numbers and is overwritten in the child.
fn reserve(any: impl AsFd) -> rustix::io::Result<Vec<OwnedFd>> {
    use std::os::fd::AsRawFd;

    let mut reserved = Vec::new();
    loop {
        let fd = fcntl_dupfd_cloexec(&any, 3)?;
        if fd.as_raw_fd() >= AFTER_PASSED {
            return Ok(reserved);
        }
        reserved.push(fd);
    }
}
