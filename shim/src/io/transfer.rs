//! Moving bytes between two descriptors that may both be slow: the readiness of each, one step, and what stopped it.
//!
//! From pipe to pipe the kernel moves the pages (`splice`) and no byte passes through the shim. Neither side blocks the thread
//! and nothing is buffered between them: a step takes from the source only what the target accepts.

use std::{io, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, OwnedFd},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, read, write},
    pipe::{SpliceFlags, splice},
};
use tokio::{
    io::{
        Interest,
        unix::{AsyncFd, AsyncFdReadyGuard},
    },
    time::sleep,
};

use super::{
    error::{Error, Result},
    scratch::{self, BATCH},
    sys,
};

/// How often something is looked at that was closed and opened again.
const REOPENED_POLL: Duration = Duration::from_millis(20);

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It moved this many bytes.
    Moved(usize),
    /// Nothing could be moved just now.
    Blocked,
    /// The source has ended.
    Ended,
}

/// A descriptor that tells when it is ready.
pub type Watched = AsyncFd<OwnedFd>;

/// Makes `fd` non-blocking and watches it; `what` names it in an error.
pub fn watch(fd: OwnedFd, interest: Interest, what: &str) -> Result<Watched> {
    let flags = fcntl_getfl(&fd).map_err(|error| Error::io(what, error))?;
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(|error| Error::io(what, error))?;
    sys::register(fd, interest).map_err(|error| Error::io(format!("watch {what}"), error))
}

/// A source that has something, and a target that takes something, as far as is known.
#[derive(Debug)]
pub struct Ready<'a> {
    source: AsyncFdReadyGuard<'a, OwnedFd>,
    target: AsyncFdReadyGuard<'a, OwnedFd>,
}

impl<'a> Ready<'a> {
    /// Waits for both.
    pub async fn of(source: &'a Watched, target: &'a Watched) -> io::Result<Self> {
        let target = target.writable().await?;
        Ok(Self { source: source.readable().await?, target })
    }

    /// Moves what there is from pipe to pipe.
    pub async fn splice(self) -> io::Result<Step> {
        let (source, target) = (self.source.get_inner(), self.target.get_inner());
        match splice(source, None, target, None, BATCH, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
            Ok(0) => return Ok(Step::Ended),
            Ok(n) => return Ok(Step::Moved(n)),
            Err(Errno::AGAIN) => {}
            Err(Errno::INTR) => return Ok(Step::Blocked),
            Err(error) => return Err(error.into()),
        }
        // One of the two was not ready after all, and the kernel does not say which: ask.
        let (readable, writable) = (is_ready(source, PollFlags::IN)?, is_ready(target, PollFlags::OUT)?);
        if !readable {
            blocked(self.source).await;
        }
        if !writable {
            blocked(self.target).await;
        }
        Ok(Step::Blocked)
    }
}

/// Forgets a readiness that turned out to be old.
///
/// Tokio never forgets that the other side was once closed. A terminal or a fifo can be opened again, and then waiting
/// would not wait: a short sleep keeps the thread from spinning.
async fn blocked(mut guard: AsyncFdReadyGuard<'_, OwnedFd>) {
    guard.clear_ready();
    if guard.ready().is_read_closed() || guard.ready().is_write_closed() {
        sleep(REOPENED_POLL).await;
    }
}

/// Waits for `source`, and hands at most `limit` bytes of what it has, with scratch space, to `take`.
pub async fn read_step(source: &Watched, limit: usize, take: impl FnOnce(&[u8], &mut [u8])) -> io::Result<Step> {
    let guard = source.readable().await?;
    let outcome = scratch::batch(|input, output| {
        let limit = limit.min(input.len());
        let n = read(source, &mut input[..limit])?;
        if n > 0 {
            take(&input[..n], output);
        }
        Ok(n)
    });
    match outcome {
        Ok(0) => Ok(Step::Ended),
        Ok(n) => Ok(Step::Moved(n)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            blocked(guard).await;
            Ok(Step::Blocked)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Step::Blocked),
        Err(error) => Err(error),
    }
}

/// Writes what `target` takes right now and returns how much that was; 0 if it is full.
pub fn write_some(target: &Watched, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match write(target, bytes) {
            Ok(n) => return Ok(n),
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes all of `bytes`, as fast as `target` takes them.
pub async fn write_whole(target: &Watched, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let guard = target.writable().await?;
        let n = write_some(target, bytes)?;
        if n == 0 {
            blocked(guard).await;
        }
        bytes = &bytes[n..];
    }
    Ok(())
}

fn is_ready(fd: impl AsFd, wanted: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::new(&fd, wanted)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&now)) {
        Ok(n) => Ok(n > 0),
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
