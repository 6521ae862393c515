//! SIGCHLD and SIGTERM as a future.
//!
//! The handlers set a bit and ring an eventfd ([`sys`]). tokio's own signal module is deliberately not even
//! compiled in: its table for every signal there could be is a tenth of an idle shim's memory. Blocking the signals and
//! reading a signalfd would be simpler still, but a blocked signal stays blocked in the containers.

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

use crate::{
    error::{Error, Result},
    sys,
};

/// What has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caught {
    /// Children have ended.
    pub children: bool,
    /// The shim is asked to end.
    pub terminate: bool,
}

/// The signals of this process from here on.
#[derive(Debug)]
pub struct Signals(AsyncFd<OwnedFd>);

impl Signals {
    /// Starts catching them. Once per process, within its runtime.
    pub fn catch() -> Result<Self> {
        let failed = |e: io::Error| Error::io("catch signals", e);
        let bell = sys::catch_signals().map_err(failed)?;
        sys::readable(bell).map(Self).map_err(failed)
    }

    /// Waits for the next ones; several that come together come as one.
    pub async fn next(&self) -> Result<Caught> {
        loop {
            let mut ready = self.0.readable().await.map_err(|e| Error::io("wait for signals", e))?;
            // Empty the bell before the bits are taken: a signal in between rings again.
            let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
            ready.clear_ready();
            let caught = sys::caught_signals();
            if caught.children || caught.terminate {
                return Ok(caught);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn an_ended_child_rings() {
        let signals = Signals::catch().unwrap();
        let mut child = Command::new("true").spawn().unwrap();
        assert!(signals.next().await.unwrap().children);
        child.wait().unwrap();
    }
}
