//! Starting a container of libcontainer's without running `runc start`.
//!
//! `runc create` leaves the init blocked in opening `ROOT/ID/exec.fifo` for writing. Whoever opens it for reading lets the
//! init go; it then writes one byte and executes the container's program. The fifo's existence is what makes `runc state`
//! say "created", so it is removed afterwards, as `runc start` does. An init that has died never comes to write: its pidfd
//! is watched beside the fifo, and nothing here blocks.

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::Path,
    time::Duration,
};

use rustix::io::Errno;
use tokio::time::timeout;

use crate::{
    error::{At as _, Error, Result},
    reaper::Process,
    sys,
};

/// Lets the init go and waits until it is about to execute the container's program.
pub async fn release(fifo: &Path, init: &Process, deadline: Duration) -> Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(fifo);
    let file = match file {
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(dead()),
        file => file.at("open", fifo)?,
    };
    if !file.metadata().at("stat", fifo)?.file_type().is_fifo() {
        return Err(Error::Corrupt { what: fifo.display().to_string(), problem: "it is not a fifo".into() });
    }
    let written = timeout(deadline, written(file, init)).await;
    match written {
        Ok(Ok(true)) => fs::remove_file(fifo).at("remove", fifo),
        Ok(Ok(false)) => Err(dead()),
        Ok(Err(e)) => Err(Error::io(format!("read {}", fifo.display()), e)),
        Err(_) => Err(Error::TimedOut { what: format!("container's init behind {}", fifo.display()), after: deadline }),
    }
}

/// Waits for the init's byte; false if the init died without it.
async fn written(file: File, init: &Process) -> std::io::Result<bool> {
    let fifo = sys::readable(file.into())?;
    let Some(pidfd) = init.fd() else { return read_byte(fifo.get_ref()) };
    let pidfd = sys::readable(pidfd.try_clone()?)?;
    loop {
        tokio::select! {
            biased;
            ready = fifo.readable() => {
                // Also readable at hang-up: then the byte is there or will never be.
                let mut ready = ready?;
                if read_byte(fifo.get_ref())? {
                    return Ok(true);
                }
                ready.clear_ready();
            }
            over = pidfd.readable() => {
                drop(over?);
                return read_byte(fifo.get_ref());
            }
        }
    }
}

fn read_byte(fifo: &OwnedFd) -> std::io::Result<bool> {
    match rustix::io::read(fifo, &mut [0u8; 1]) {
        Ok(n) => Ok(n > 0),
        Err(Errno::AGAIN) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn dead() -> Error {
    Error::Runtime { message: "cannot start a container that has stopped: its init is dead already".into() }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, process::Command};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;
    use crate::reaper::Reaper;

    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn the_byte_of_a_living_init_removes_the_fifo() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exec.fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let mut init = Command::new("sleep").arg("100").spawn().unwrap();
        let watched = Reaper::default().watch(init.id().cast_signed()).unwrap();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || OpenOptions::new().write(true).open(path).unwrap().write_all(b"0").unwrap()
        });
        release(&path, &watched.process, DEADLINE).await.unwrap();
        writer.join().unwrap();
        assert!(!path.exists());
        init.kill().unwrap();
        init.wait().unwrap();
    }

    #[tokio::test]
    async fn a_dead_init_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exec.fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let mut init = Command::new("true").spawn().unwrap();
        let watched = Reaper::default().watch(init.id().cast_signed()).unwrap();
        let error = release(&path, &watched.process, DEADLINE).await.unwrap_err();
        assert!(error.to_string().contains("dead already"), "{error}");
        assert!(path.exists());
        init.wait().unwrap();
        assert!(release(&dir.path().join("none"), &watched.process, DEADLINE).await.is_err());
    }
}
