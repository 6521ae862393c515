//! Reading a file of an image, which may be anything: a symbolic link to the host's, a device, a file without end.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Reads the regular file `path` below `root`; links are followed inside `root`, never out of it. Absent: `None`.
///
/// Nothing but a regular file is ever opened, so neither a FIFO nor a device of the image can do any harm.
///
/// # Errors
/// `Invalid` when it is not a regular file, `TooLarge` when it holds more than `max_bytes`, `Io` otherwise.
pub fn read_in_root(root: BorrowedFd<'_>, path: impl AsRef<Path>, max_bytes: u64) -> Result<Option<Vec<u8>>> {
    let path = path.as_ref();
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // O_PATH first: opening a device for reading can already act on it.
    let found = match openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(Error::io("open", path, e)),
    };
    let stat = fstat(&found).map_err(|e| Error::io("stat", path, e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::invalid(path.display().to_string(), "not a regular file"));
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(|e| Error::io("open", path, e))?;
    let mut out = Vec::new();
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut out).map_err(|e| Error::io("read", path, e))?;
    if out.len() as u64 > max_bytes {
        return Err(Error::TooLarge { what: format!("{} (bytes)", path.display()), limit: max_bytes });
    }
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        (dir, fd)
    }

    #[test]
    fn links_stay_inside() {
        let (dir, fd) = root();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/real"), "inside").unwrap();
        symlink("/etc/real", dir.path().join("etc/passwd")).unwrap();
        symlink("../../../../../../etc/hostname", dir.path().join("out")).unwrap();
        assert_eq!(read_in_root(fd.as_fd(), "etc/passwd", 64).unwrap().as_deref(), Some(&b"inside"[..]));
        assert_eq!(read_in_root(fd.as_fd(), "/etc/passwd", 64).unwrap().as_deref(), Some(&b"inside"[..]));
        assert_eq!(read_in_root(fd.as_fd(), "out", 64).unwrap(), None);
        assert_eq!(read_in_root(fd.as_fd(), "etc/real/below", 64).unwrap(), None);
        assert_eq!(read_in_root(fd.as_fd(), "absent", 64).unwrap(), None);
    }

    #[test]
    fn only_regular_files_of_bounded_size() {
        let (dir, fd) = root();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(dir.path().join("big"), [0; 65]).unwrap();
        assert!(matches!(read_in_root(fd.as_fd(), "fifo", 64), Err(Error::Invalid { .. })));
        assert!(matches!(read_in_root(fd.as_fd(), ".", 64), Err(Error::Invalid { .. })));
        assert!(matches!(read_in_root(fd.as_fd(), "big", 64), Err(Error::TooLarge { limit: 64, .. })));
        assert_eq!(read_in_root(fd.as_fd(), "big", 65).unwrap().unwrap().len(), 65);
    }
}
