//! The two system calls of this module no crate offers.

#![expect(unsafe_code, reason = "mount_setattr(2) and clone3(2) have no safe wrapper")]

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Maps the owners of everything on the detached mount `tree` as the user namespace says (mount_setattr(2)).
pub(super) fn map_owners(tree: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd() as u64,
    };
    // SAFETY: the path is an empty C string and the attributes a live struct, and the size passed is that struct's; the
    // kernel only reads both. The descriptors are borrowed for the whole call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// A process that does nothing but keep its new user namespace alive; it ends when dropped, and with its parent thread.
pub(super) struct Holder {
    /// Who: /proc has its maps and its namespace.
    pub pid: Pid,
    process: OwnedFd,
}

impl Holder {
    /// Starts it. Its end sends no signal, and only a wait with `__WALL` sees it: a caller's reaper does not.
    pub fn start() -> Result<Self> {
        let parent = nix::unistd::getpid();
        let mut process: RawFd = -1;
        // SAFETY: all zeros is a valid clone_args: no stack, no pointers, exit signal 0.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = (libc::CLONE_NEWUSER | libc::CLONE_PIDFD) as u64;
        arguments.pidfd = (&raw mut process) as u64;
        // SAFETY: without CLONE_VM the child has a copy of this memory, so it cannot disturb the parent, and without a
        // stack it goes on on its own copy of this one, as after fork(2). Of other threads' locks it finds copies in
        // any state; `stay` takes none. The kernel writes one descriptor to `process`, which is live.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
        match pid {
            0 => stay(parent.as_raw()),
            -1 => Err(Error::last_os_error()),
            pid => {
                // SAFETY: the call succeeded, so the kernel made this descriptor, and nobody else knows of it.
                let process = unsafe { OwnedFd::from_raw_fd(process) };
                let pid = i32::try_from(pid).map_err(|_| Error::from(Errno::ERANGE))?;
                Ok(Holder { pid: Pid::from_raw(pid), process })
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail only if it is gone already, waited for by somebody who waits for everything.
        let _ = rustix::process::pidfd_send_signal(&self.process, rustix::process::Signal::KILL);
        let _ = waitpid(self.pid, Some(WaitPidFlag::__WALL));
    }
}

/// The child: sleeps until it is killed, at the latest when the thread that made it ends.
fn stay(parent: libc::pid_t) -> ! {
    // SAFETY: prctl, getppid, _exit and pause are plain system calls: they take no lock and touch no memory.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // The parent may have ended before that was set.
        if libc::getppid() != parent {
            libc::_exit(0);
        }
        loop {
            libc::pause();
        }
    }
}
