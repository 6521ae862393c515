//! System calls the crates wrap too narrowly for a shim.
#![expect(unsafe_code, reason = "raw system calls")]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, IntoRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};

use nix::{
    errno::Errno,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::{ForkResult, fork},
};
use rustix::event::{EventfdFlags, eventfd};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    error::{Error, Result},
    signals::Caught,
};

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

/// Closes every descriptor but 0, 1 and 2. To be called before the process has opened any.
///
/// A daemon may hand down what it forgot to mark close-on-exec, and a shim lives for as long as its pod.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: called first thing in main, when nothing in this process owns a descriptor above 2 yet.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives free heap memory back to the kernel, which matters in a process that idles for months.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// The eventfd the handler rings; -1 before there is one. It is never closed.
static BELL: AtomicI32 = AtomicI32::new(-1);
/// What has arrived and was not taken yet.
static CHILDREN: AtomicBool = AtomicBool::new(false);
static TERMINATE: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(signal: libc::c_int) {
    if signal == libc::SIGCHLD {
        CHILDREN.store(true, Ordering::Relaxed);
    } else {
        TERMINATE.store(true, Ordering::Relaxed);
    }
    let errno = Errno::last_raw();
    // SAFETY: write(2) is async-signal-safe and reads eight bytes of a live local; a full eventfd or none is no harm. The
    // interrupted code finds its errno as it was.
    unsafe { libc::write(BELL.load(Ordering::Relaxed), (&raw const ONE).cast(), size_of::<u64>()) };
    Errno::set_raw(errno);
}

/// What is added to an eventfd to ring it.
static ONE: u64 = 1;

/// Catches SIGCHLD and SIGTERM from now on; the returned descriptor becomes readable when one arrives.
pub fn catch_signals() -> io::Result<OwnedFd> {
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    BELL.store(bell.try_clone()?.into_raw_fd(), Ordering::Relaxed);
    let flags = SaFlags::SA_RESTART | SaFlags::SA_NOCLDSTOP;
    let action = SigAction::new(SigHandler::Handler(on_signal), flags, SigSet::empty());
    for signal in [Signal::SIGCHLD, Signal::SIGTERM] {
        // SAFETY: the handler touches atomics and calls write, which is all async-signal-safe.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(bell)
}

/// Takes what has arrived.
pub fn caught_signals() -> Caught {
    Caught { children: CHILDREN.swap(false, Ordering::Relaxed), terminate: TERMINATE.swap(false, Ordering::Relaxed) }
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
    /// The process that was there before, and the pid of the new one.
    Parent(i32),
    /// The new process.
    Child,
}

/// Forks. The child of a process with a runtime must not touch it.
pub fn split() -> Result<Side> {
    // SAFETY: the shim has a single thread, so the child may allocate and run any code: no lock can be held by a thread
    // that does not exist in it.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => Ok(Side::Parent(child.as_raw())),
        Ok(ForkResult::Child) => Ok(Side::Child),
        Err(e) => Err(Error::io("fork", e)),
    }
}
