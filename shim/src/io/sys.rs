//! What stdio needs and the compiler cannot check: memory that can be given back, descriptors under watch, and descriptors
//! 3 to 5 in a child.
#![expect(unsafe_code, reason = "mmap, madvise, AsyncFd and code between fork and exec have no safe form")]

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    ptr::{NonNull, null_mut},
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use tokio::io::{Interest, unix::AsyncFd};

/// Anonymous memory that costs nothing until it is touched, and nothing again after [`Mapping::forget_contents`].
///
/// Not a `Vec`: allocators keep what was freed, and the shim's pages count.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps `len` zeroed bytes.
    pub fn new(len: usize) -> io::Result<Self> {
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let start = unsafe {
            mmap_anonymous(
                null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// The memory.
    pub fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `len` readable, writable, initialised (zero) bytes, lives as long as self, and `&mut self`
        // makes this the only reference into it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Gives the pages back to the kernel; the memory reads as zeroes afterwards.
    pub fn forget_contents(&mut self) {
        // SAFETY: the range is exactly this mapping, private and anonymous, and nothing borrows it during `&mut self`. A
        // failure leaves the pages as they were, which is only a matter of memory.
        let _ = unsafe { madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxDontNeed) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly this mapping, and no reference into it outlives self.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Watches a descriptor that is non-blocking already; within a tokio runtime.
pub fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is a valid, open descriptor, always the same one, and the AsyncFd owns it until it is dropped.
    // Nothing in this crate replaces it by `get_mut`.
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    watched.map_err(io::Error::from)
}

/// Makes `command`'s child have `fds` as its descriptors 3, 4, 5, ... in this order.
///
/// Each of `fds` must itself lie above those numbers, or an earlier copy would overwrite it.
pub fn pass_from_3(command: &mut Command, fds: Vec<OwnedFd>) {
    // SAFETY: between fork and exec the closure only calls dup2, which is async-signal-safe, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            for (target, fd) in (3..).zip(&fds) {
                if libc::dup2(fd.as_raw_fd(), target) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}
