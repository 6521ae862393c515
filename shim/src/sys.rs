//! System calls the crates wrap too narrowly for a shim.
#![expect(unsafe_code, reason = "raw system calls")]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::unistd::{ForkResult, fork};
use tokio::io::{Interest, unix::AsyncFd};

use crate::error::{Error, Result};

/// Sends any signal, realtime ones too, through a pidfd (pidfd_send_signal(2)).
///
/// rustix refuses to name realtime signals, and images do ask for them: systemd stops on SIGRTMIN+3.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, so it is open for the duration of the call; a null siginfo pointer is allowed and
    // means what kill(2) would send; the other arguments are plain numbers.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Watches a non-blocking descriptor for something to read; within a tokio runtime.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is one valid, open descriptor for as long as it lives, and the AsyncFd owns it until it is
    // dropped. Nothing in this crate replaces it by `get_mut`.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

/// Which side of the fork this is.
#[derive(Debug, PartialEq, Eq)]
pub enum Side {
    /// The process the daemon waits for.
    Parent,
    /// The process that becomes the shim.
    Child,
}

/// Forks. To be called before any thread or runtime exists.
pub fn split() -> Result<Side> {
    // SAFETY: the process has a single thread at this point (no runtime is built before), so the child may allocate and
    // run any code: no lock can be held by a thread that does not exist in it.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => Ok(Side::Parent),
        Ok(ForkResult::Child) => Ok(Side::Child),
        Err(e) => Err(Error::io("fork", e)),
    }
}
