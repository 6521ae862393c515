//! Copying a tree: owners, modes, times, extended attributes, hard links, devices and holes as they are.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::fs::{
    chownat, copy_file_range, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, ftruncate, futimens,
};
use rustix::fs::{ioctl_ficlone, lgetxattr, linkat, llistxattr, lsetxattr, mkdirat, mknodat, openat, readlinkat, seek};
use rustix::fs::{statat, symlinkat, utimensat};
use rustix::io::Errno;

use super::{Folder, Pending};
use crate::error::{Error, Result};

/// The most one copy_file_range(2) is asked for.
const PIECE_BYTES: u64 = 1 << 30;

/// The largest value of an extended attribute (xattr(7)), and the largest list of names.
const XATTR_MAX_BYTES: usize = 1 << 16;

/// Copies everything below `from` to the empty folder `to`, and the folder's own attributes.
pub(crate) fn copy(from: OwnedFd, to: OwnedFd) -> Result<()> {
    let mut copying = Copying { linked: HashMap::new(), clones: true };
    let mut pending = vec![Visit::Enter(Pending::root(from), Pending::root(to))];
    while let Some(visit) = pending.pop() {
        match visit {
            Visit::Enter(from, to) => {
                let (from, to) = (open(from)?, open(to)?);
                // Its time changes while it is filled, and a mode without w would matter to nobody but root.
                pending.push(Visit::Leave(from.again(), to.again()));
                copying.folder(&from, &to, &mut pending)?;
            }
            Visit::Leave(from, to) => {
                let (from, to) = (open(from)?, open(to)?);
                attributes(from.fd.as_fd(), to.fd.as_fd()).map_err(|e| from.failed("copy attributes of", e))?;
            }
        }
    }
    Ok(())
}

enum Visit {
    Enter(Pending, Pending),
    Leave(Pending, Pending),
}

fn open(pending: Pending) -> Result<Folder> {
    pending.open().map_err(|e| Error::io("open folder", "snapshot", e))
}

struct Copying {
    /// Files with several links: where the first copy is, a folder and a name in it.
    linked: HashMap<(u64, u64), (Pending, std::ffi::CString)>,
    /// Whether the filesystem shares data between files; asked once.
    clones: bool,
}

impl Copying {
    fn folder(&mut self, from: &Folder, to: &Folder, pending: &mut Vec<Visit>) -> Result<()> {
        for entry in from.entries()? {
            let (name, _) = entry.map_err(|e| from.failed("read folder", e))?;
            let stat =
                statat(&*from.fd, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| from.failed("stat in", e))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                mkdirat(&*to.fd, name.as_c_str(), Mode::RWXU).map_err(|e| to.failed("mkdir in", e))?;
                pending.push(Visit::Enter(from.child(&name), to.child(&name)));
            } else {
                self.entry(from, to, &name, &stat).map_err(|e| from.failed("copy from", e))?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, from: &Folder, to: &Folder, name: &CStr, stat: &Stat) -> rustix::io::Result<()> {
        let id = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some((folder, first)) = self.linked.remove(&id) {
                let there = folder.open()?;
                let made = linkat(&*there.fd, first.as_c_str(), &*to.fd, name, AtFlags::empty());
                self.linked.insert(id, (there.again(), first));
                return made;
            }
            self.linked.insert(id, (to.again(), name.to_owned()));
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(from, to, name, stat),
            FileType::Symlink => {
                let target = readlinkat(&*from.fd, name, Vec::new())?;
                symlinkat(target.as_c_str(), &*to.fd, name)?;
                named_attributes(from, to, name, stat)
            }
            kind => {
                mknodat(&*to.fd, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev)?;
                // mknod(2) heeds the process's mask; the path names our own descriptor's entry, made just now.
                let path = format!("/proc/self/fd/{}/", to.fd.as_raw_fd());
                rustix::fs::chmod(
                    [path.as_bytes(), name.to_bytes()].concat().as_slice(),
                    Mode::from_raw_mode(stat.st_mode),
                )?;
                named_attributes(from, to, name, stat)
            }
        }
    }

    fn file(&mut self, from: &Folder, to: &Folder, name: &CStr, stat: &Stat) -> rustix::io::Result<()> {
        let source = openat(&*from.fd, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = openat(&*to.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
        if !(self.clones && stat.st_size > 0 && self.cloned(&copy, &source)) {
            data(&source, &copy, stat.st_size.unsigned_abs())?;
        }
        attributes(source.as_fd(), copy.as_fd())
    }

    fn cloned(&mut self, copy: &OwnedFd, source: &OwnedFd) -> bool {
        self.clones = ioctl_ficlone(copy, source).is_ok();
        self.clones
    }
}

/// Copies a file's data, its holes left as holes.
fn data(source: &OwnedFd, copy: &OwnedFd, size: u64) -> rustix::io::Result<()> {
    let mut at = 0;
    while at < size {
        let start = match seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No more data: a hole to the end.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e),
        };
        let end = seek(source, SeekFrom::Hole(start))?.min(size);
        stretch(source, copy, start, end)?;
        at = end.max(start + 1);
    }
    ftruncate(copy, size)
}

fn stretch(source: &OwnedFd, copy: &OwnedFd, start: u64, end: u64) -> rustix::io::Result<()> {
    let (mut read, mut written) = (start, start);
    while read < end {
        let piece = usize::try_from((end - read).min(PIECE_BYTES)).unwrap_or(usize::MAX);
        match copy_file_range(source, Some(&mut read), copy, Some(&mut written), piece) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return by_hand(source, copy, read, end);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn by_hand(source: &OwnedFd, copy: &OwnedFd, mut at: u64, end: u64) -> rustix::io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    while at < end {
        let n = rustix::io::pread(source, &mut buffer[..], at)?;
        if n == 0 {
            return Ok(());
        }
        let mut rest = buffer.get(..n).unwrap_or(&[]);
        while !rest.is_empty() {
            let done = rustix::io::pwrite(copy, rest, at)?;
            at += done as u64;
            rest = rest.get(done..).unwrap_or(&[]);
        }
    }
    Ok(())
}

/// Gives the open `to` the owner, mode, extended attributes and times of the open `from`.
pub(crate) fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let stat = fstat(from)?;
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    let names = list(|buffer| flistxattr(from, buffer))?;
    for name in names.split(|b| *b == 0).filter(|n| copied(n)) {
        let mut value = vec![0; XATTR_MAX_BYTES];
        let len = fgetxattr(from, OsStr::from_bytes(name), &mut value[..])?;
        fsetxattr(to, OsStr::from_bytes(name), value.get(..len).unwrap_or(&[]), XattrFlags::empty())?;
    }
    futimens(to, &times(&stat))
}

/// The same for what cannot be opened; its mode is set already.
fn named_attributes(from: &Folder, to: &Folder, name: &CStr, stat: &Stat) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(&*to.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let path =
        |folder: &Rc<OwnedFd>| [format!("/proc/self/fd/{}/", folder.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
    let (source, copy) = (path(&from.fd), path(&to.fd));
    let names = list(|buffer| llistxattr(source.as_slice(), buffer))?;
    for key in names.split(|b| *b == 0).filter(|n| copied(n)) {
        let mut value = vec![0; XATTR_MAX_BYTES];
        let len = lgetxattr(source.as_slice(), OsStr::from_bytes(key), &mut value[..])?;
        lsetxattr(copy.as_slice(), OsStr::from_bytes(key), value.get(..len).unwrap_or(&[]), XattrFlags::empty())?;
    }
    utimensat(&*to.fd, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// The names of a file's attributes, each closed by a NUL. Most files have none, which costs one call.
fn list(call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = vec![0; 256];
    match call(&mut small) {
        Ok(n) => {
            small.truncate(n);
            return Ok(small);
        }
        Err(Errno::RANGE) => {}
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    }
    let mut large = vec![0; XATTR_MAX_BYTES];
    let n = call(&mut large)?;
    large.truncate(n);
    Ok(large)
}

/// Overlayfs's own marks and ours are about one layer, not about the file.
fn copied(name: &[u8]) -> bool {
    !name.is_empty()
        && !name.starts_with(b"trusted.overlay.")
        && !name.starts_with(b"user.overlay.")
        && !name.starts_with(b"trusted.cleat.")
        && name != b"security.selinux"
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec: i64, nanos: u64| Timespec { tv_sec, tv_nsec: nanos.cast_signed() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::tree::open_folder;

    #[test]
    fn a_copy_is_like_its_original() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP a_copy_is_like_its_original: not root");
            return;
        }
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let a = from.path();
        fs::create_dir_all(a.join("d/e")).unwrap();
        fs::write(a.join("d/file"), "data").unwrap();
        fs::hard_link(a.join("d/file"), a.join("d/e/again")).unwrap();
        symlink("../nowhere", a.join("d/link")).unwrap();
        std::os::unix::fs::lchown(a.join("d/link"), Some(7), Some(8)).unwrap();
        let sparse = File::create(a.join("sparse")).unwrap();
        sparse.write_all_at(b"end", 10 << 20).unwrap();
        mknodat(rustix::fs::CWD, a.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), 259).unwrap();
        std::os::unix::fs::chown(a.join("d/file"), Some(1234), Some(5678)).unwrap();
        fs::set_permissions(a.join("d/file"), fs::Permissions::from_mode(0o4711)).unwrap();
        let file = File::open(a.join("d/file")).unwrap();
        fsetxattr(&file, "user.colour", b"red", XattrFlags::empty()).unwrap();
        fs::set_permissions(a.join("d"), fs::Permissions::from_mode(0o2750)).unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
        File::open(a.join("d")).unwrap().set_modified(old).unwrap();

        copy(open_folder(a).unwrap(), open_folder(to.path()).unwrap()).unwrap();

        let b = to.path();
        let stat = |p: &str| (fs::symlink_metadata(a.join(p)).unwrap(), fs::symlink_metadata(b.join(p)).unwrap());
        for path in ["d", "d/e", "d/file", "d/e/again", "d/link", "sparse", "null"] {
            let (x, y) = stat(path);
            assert_eq!((x.mode(), x.uid(), x.gid(), x.rdev()), (y.mode(), y.uid(), y.gid(), y.rdev()), "{path}");
            assert_eq!((x.mtime(), x.mtime_nsec(), x.nlink()), (y.mtime(), y.mtime_nsec(), y.nlink()), "{path}");
            if x.is_file() {
                assert_eq!(fs::read(a.join(path)).unwrap(), fs::read(b.join(path)).unwrap(), "{path}");
            }
        }
        assert!(stat("sparse").1.blocks() < 1000, "the hole was filled");
        assert_eq!(fs::read_link(b.join("d/link")).unwrap().to_str(), Some("../nowhere"));
        let mut value = [0; 8];
        let n = fgetxattr(File::open(b.join("d/file")).unwrap(), "user.colour", &mut value[..]).unwrap();
        assert_eq!(&value[..n], b"red");
    }
}
