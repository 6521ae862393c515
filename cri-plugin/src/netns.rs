//! Network namespaces of pods: made by a thread that ends, kept alive by a bind mount on an empty file.
//!
//! The mount pins the namespace whatever becomes of the daemon, so a pod's network outlives an upgrade and CNI's DEL
//! finds the namespace its ADD was given. `lo` is brought up here, over netlink: a `loopback` plugin would cost an exec.
//!
//! Other mount namespaces inherit copies of the mount when they are made. Those copies do not keep a namespace alive
//! past `remove`: unlinking a file that is no mount point here detaches what other mount namespaces hold on it
//! (Linux 3.18, `__detach_mounts`). So the folder needs no propagation of its own, and no mount is made on it.
//!
//! Deliberately absent: user namespaces. A namespace that must belong to one is made by the process that lives in it
//! and handed to `pin`.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use crate::{Error, Result};

/// The file system that namespaces live on (magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Makes a network namespace with `lo` up and pins it at `path`.
///
/// The folder is made (0711) if it is not there. What an earlier attempt left at `path` is removed first, so the
/// namespace is always a fresh one. Blocks for about half a millisecond.
///
/// # Errors
/// `Io` with the step that failed; nothing is left at `path` then.
pub fn create(path: &Path) -> Result<()> {
    let thread = std::thread::Builder::new().name("netns".into()).spawn(fresh).map_err(Error::io("spawn", path))?;
    let namespace = thread.join().map_err(|_| Error::failed("netns thread", "panicked"))?;
    pin(namespace.map_err(|(op, e)| Error::io(op, path)(e))?.as_fd(), path)
}

/// Pins an open network namespace (`/proc/PID/ns/net`) at `path`, replacing what was there. Blocks.
///
/// # Errors
/// `Io` with the step that failed; nothing is left at `path` then.
pub fn pin(namespace: BorrowedFd<'_>, path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o711).create(dir).map_err(Error::io("mkdir", dir))?;
    }
    if let Err(e) = place(path) {
        if e.kind() != io::ErrorKind::AlreadyExists {
            return Err(Error::io("create", path)(e));
        }
        remove(path)?;
        place(path).map_err(Error::io("create", path))?;
    }
    mount_bind(format!("/proc/self/fd/{}", namespace.as_raw_fd()), path).map_err(|e| {
        // The error worth telling is the mount's; an empty file is replaced by the next attempt anyway.
        let _ = rustix::fs::unlink(path);
        Error::io("mount", path)(e)
    })
}

/// Unpins the namespace at `path`, in every mount namespace, and removes the file. Blocks.
///
/// What is not there counts as removed. The namespace itself goes when its last process and descriptor do.
///
/// # Errors
/// `Invalid` if `path` is neither a namespace nor the empty file that held one (nothing of it is touched); `Io`.
pub fn remove(path: &Path) -> Result<()> {
    // More than one mount can lie on the file where two daemons were given the same folder.
    while exists(path) {
        unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(Error::io("unmount", path))?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() == 0 => {}
        Ok(_) => return Err(Error::invalid(path.display().to_string(), "not a pinned network namespace")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("stat", path)(e)),
    }
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::io("unlink", path)(e)),
    }
}

/// Opens the namespace pinned at `path`, close-on-exec, for `setns`.
///
/// # Errors
/// `NotFound` if no namespace is pinned there any more; `Io`.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let gone = || Error::not_found("network namespace", path.display().to_string());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(gone()),
        Err(e) => return Err(Error::io("open", path)(e)),
    };
    let stat = rustix::fs::fstatfs(&file).map_err(Error::io("statfs", path))?;
    if stat.f_type as u64 == NSFS_MAGIC { Ok(file.into()) } else { Err(gone()) }
}

/// Makes a call on a thread of its own within the namespace pinned at `path`. Blocks for as long as the call does.
///
/// # Errors
/// As [`open`]; `Io` where the namespace cannot be entered.
pub fn within<T: Send + 'static>(path: &Path, call: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let namespace = open(path)?;
    let entered = move || setns(namespace, CloneFlags::CLONE_NEWNET).map(|()| call());
    let thread = std::thread::Builder::new().name("netns".into()).spawn(entered).map_err(Error::io("spawn", path))?;
    thread.join().map_err(|_| Error::failed("netns thread", "panicked"))?.map_err(Error::io("enter", path))
}

/// Whether a namespace is still pinned at `path`.
pub fn exists(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u64 == NSFS_MAGIC)
}

/// The empty file that the mount covers; never through a symbolic link.
fn place(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o444).open(path).map(drop)
}

/// Runs on a thread of its own: unshare moves the calling thread only, and this one ends with the namespace open.
fn fresh() -> Result<OwnedFd, (&'static str, io::Error)> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| ("unshare network namespace for", e.into()))?;
    raise_lo().map_err(|e| ("raise lo in", e))?;
    let namespace = File::open("/proc/thread-self/ns/net").map_err(|e| ("open /proc/thread-self/ns/net for", e))?;
    Ok(namespace.into())
}

/// RTM_NEWLINK with IFF_UP for interface 1, which is `lo` in every network namespace (rtnetlink(7)).
fn raise_lo() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
    const IFF_UP: u32 = 1;
    let mut request = Vec::with_capacity(32);
    // struct nlmsghdr: length, type, flags, sequence, port
    request.extend_from_slice(&32u32.to_ne_bytes());
    request.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    // struct ifinfomsg: family and padding, device type, index, flags, mask of the flags that change
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&1u32.to_ne_bytes());
    request.extend_from_slice(&IFF_UP.to_ne_bytes());
    request.extend_from_slice(&IFF_UP.to_ne_bytes());

    // No protocol is protocol 0, NETLINK_ROUTE.
    let route = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // Without an address a netlink message goes to the kernel.
    send(&route, &request, SendFlags::empty())?;
    let mut answer = [0u8; 256];
    let (read, _) = recv(&route, &mut answer[..], RecvFlags::empty())?;
    acknowledged(&answer[..read])
}

/// struct nlmsgerr behind the header: zero, or an errno below zero.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    const NLMSG_ERROR: [u8; 2] = 2u16.to_ne_bytes();
    match (answer.get(4..6), answer.get(16..20).and_then(|b| <[u8; 4]>::try_from(b).ok())) {
        (Some(kind), Some(code)) if kind == NLMSG_ERROR => match i32::from_ne_bytes(code) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        },
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "netlink answered with something else than an ack")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netlink_answers_are_read_as_the_kernel_writes_them() {
        let answer = |kind: u16, code: i32| {
            let mut bytes = vec![36, 0, 0, 0];
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&[0; 10]);
            bytes.extend_from_slice(&code.to_ne_bytes());
            bytes
        };
        assert!(acknowledged(&answer(2, 0)).is_ok());
        assert_eq!(acknowledged(&answer(2, -1)).expect_err("EPERM").raw_os_error(), Some(1));
        assert!(acknowledged(&answer(3, 0)).is_err());
        assert!(acknowledged(&[]).is_err());
    }

    #[test]
    fn what_is_no_pin_is_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("precious");
        std::fs::write(&file, "data").expect("write");
        assert!(remove(&file).is_err() && remove(dir.path()).is_err());
        assert_eq!(std::fs::read_to_string(&file).expect("still there"), "data");
        assert!(matches!(open(&file), Err(Error::NotFound { .. })));
        remove(&dir.path().join("absent")).expect("absent counts as removed");
    }
}
