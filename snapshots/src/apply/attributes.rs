//! Owner, mode, extended attributes and times of what a layer unpacks, with no system call that changes nothing.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown, fsetxattr,
};
use rustix::fs::{futimens, lsetxattr, openat, utimensat};
use rustix::io::Errno;

use super::archive::Entry;

/// What this process makes by itself: new files belong to it and lack the bits of its mask.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    uid: u32,
    /// Also asked of folders: what is made in one of this group, without its setgid bit, gets this group.
    pub gid: u32,
    umask: u32,
}

impl Process {
    /// Asks once; a mask that cannot be read counts as masking everything, so that modes are always set.
    pub fn current() -> Self {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let umask = status.lines().find_map(|l| l.strip_prefix("Umask:")).map(str::trim);
        Process {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: umask.and_then(|m| u32::from_str_radix(m, 8).ok()).unwrap_or(0o7777),
        }
    }

    /// Who new files belong to.
    pub fn owner(self) -> (Uid, Gid) {
        (Uid::from_raw(self.uid), Gid::from_raw(self.gid))
    }

    fn owns(self, entry: &Entry) -> bool {
        entry.uid == self.uid && entry.gid == self.gid
    }

    /// Whether a file made with `mode` lacks some of it: the mask took bits, or they cannot be given on creation.
    pub fn masks(self, mode: u32) -> bool {
        mode & (self.umask | 0o7000) != 0
    }
}

/// Whether what is made in a folder has this process's owner and the mode asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inherits {
    /// It does.
    Nothing,
    /// The folder's setgid bit or group decide.
    Group,
}

/// Sets what the archive says of an open file or folder that was made with `entry.mode`, or was there before.
pub(super) fn set_open(
    fd: BorrowedFd<'_>,
    entry: &Entry,
    process: Process,
    inherits: Inherits,
) -> rustix::io::Result<()> {
    let plain = inherits == Inherits::Nothing;
    // Writing and chown(2) both clear setuid bits and security.capability: owner, then mode, then attributes.
    if !(plain && process.owns(entry)) {
        fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    }
    if !plain || process.masks(entry.mode) {
        fchmod(fd, Mode::from_raw_mode(entry.mode))?;
    }
    for (name, value) in kept(&entry.xattrs).filter(|(name, _)| *name != DEFAULT_ACL) {
        tolerate(fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()))?;
    }
    Ok(())
}

/// The same for what cannot be opened: links, devices, FIFOs. Its times too.
pub(super) fn set_named(
    dir: BorrowedFd<'_>,
    name: &CStr,
    entry: &Entry,
    process: Process,
    inherits: Inherits,
) -> rustix::io::Result<()> {
    if !(inherits == Inherits::Nothing && process.owns(entry)) {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    for (key, value) in kept(&entry.xattrs) {
        let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
        match lsetxattr(path.as_slice(), OsStr::from_bytes(key), value, XattrFlags::empty()) {
            // user.* is for files and folders only (xattr(7)).
            Err(Errno::PERM) if key.starts_with(b"user.") => {}
            other => tolerate(other)?,
        }
    }
    utimensat(dir, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
}

/// Sets the mode of a device or FIFO just made in `dir`, which mknod(2) made with less than asked for.
pub(super) fn chmod_node(dir: BorrowedFd<'_>, name: &CStr, mode: Mode) -> rustix::io::Result<()> {
    // chmod(2) knows no "do not follow", so it goes through a descriptor of the thing itself.
    let node = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::chmod(format!("/proc/self/fd/{}", node.as_raw_fd()), mode)
}

/// Sets a folder's time, and the access list its future entries inherit: both last, when there are no more entries.
pub(super) fn set_late(fd: BorrowedFd<'_>, mtime: (i64, u32), default_acl: Option<&[u8]>) -> rustix::io::Result<()> {
    if let Some(acl) = default_acl {
        tolerate(fsetxattr(fd, OsStr::from_bytes(DEFAULT_ACL), acl, XattrFlags::empty()))?;
    }
    futimens(fd.as_fd(), &times(mtime))
}

/// The access list new entries of a folder inherit; it must not change the entries of this layer.
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// The default access list of an entry, if it has one.
pub(super) fn default_acl(entry: &Entry) -> Option<Vec<u8>> {
    entry.xattrs.iter().find(|(name, _)| name == DEFAULT_ACL).map(|(_, value)| value.clone())
}

/// Both times are the modification's: an access time in the archive would only make two unpackings differ.
pub(super) fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Attributes an image may bring. Not `trusted.*` and `user.overlay.*`, with which a layer could redirect overlayfs to
/// files of its choice, and not labels of the host's own security modules.
fn kept(xattrs: &[(Vec<u8>, Vec<u8>)]) -> impl Iterator<Item = (&[u8], &[u8])> {
    xattrs.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).filter(|(name, _)| {
        let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        user || matches!(*name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
    })
}

/// A filesystem without a kind of attribute still holds the files.
fn tolerate(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOTSUP) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_attributes_are_kept() {
        let all = [
            "user.mime",
            "user.overlay.opaque",
            "user.overlay.redirect",
            "trusted.overlay.opaque",
            "trusted.overlay.redirect",
            "trusted.overlay.overlay.opaque",
            "trusted.cleat.implied",
            "security.capability",
            "security.selinux",
            "system.posix_acl_access",
        ]
        .map(|n| (n.as_bytes().to_vec(), Vec::new()));
        let names: Vec<&[u8]> = kept(&all).map(|(n, _)| n).collect();
        assert_eq!(names, [&b"user.mime"[..], b"security.capability", b"system.posix_acl_access"]);
    }

    #[test]
    fn which_modes_need_a_call() {
        let process = Process { uid: 0, gid: 0, umask: 0o022 };
        for (mode, needed) in [(0o644, false), (0o755, false), (0o666, true), (0o4755, true), (0o1777, true)] {
            assert_eq!(process.masks(mode), needed, "{mode:o}");
        }
        assert!(Process { umask: 0o077, ..process }.masks(0o644));
    }
}
