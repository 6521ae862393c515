//! Deleting a tree of any depth with a bounded number of descriptors and a bounded stack.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Folders deeper than this below the top are first moved up to it; each level holds a descriptor and a stack frame.
const DEPTH_MAX: usize = 32;

/// How often a folder that is not empty after all is read again: some filesystems may skip entries while others go.
const READS_MAX: usize = 8;

/// Deletes `name` in `top`, whatever it is; absent is fine. `stop` ends it early, with what is left in place.
///
/// Deep folders are renamed into `top` on their way out, under names that start with `name`: whoever deletes all of
/// `top` after a crash deletes them too.
///
/// # Errors
/// `Io` for what cannot be deleted, after everything else was.
pub(crate) fn delete(top: BorrowedFd<'_>, name: &CStr, stop: &AtomicBool) -> Result<()> {
    let mut deletion = Deletion { top, stop, moved: vec![name.to_owned()], first: None };
    while let Some(next) = deletion.moved.pop() {
        deletion.entry(top, &next, 0);
    }
    deletion.first.map_or(Ok(()), |(name, e)| Err(Error::io("delete", name.to_string_lossy().as_ref(), e)))
}

struct Deletion<'a> {
    top: BorrowedFd<'a>,
    stop: &'a AtomicBool,
    moved: Vec<CString>,
    first: Option<(CString, Errno)>,
}

impl Deletion<'_> {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: usize) {
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => self.folder(dir, name, depth),
            Err(e) => self.failed(name, e),
        }
    }

    fn folder(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: usize) {
        if depth == DEPTH_MAX && self.move_up(dir, name) {
            return;
        }
        for _ in 0..READS_MAX {
            if let Err(e) = self.contents(dir, name, depth) {
                return self.failed(name, e);
            }
            match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return,
                Err(Errno::NOTEMPTY) if self.first.is_none() && !self.stop.load(Ordering::Relaxed) => {}
                Err(e) => return self.failed(name, e),
            }
        }
        self.failed(name, Errno::NOTEMPTY);
    }

    fn contents(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> rustix::io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(dir, name, flags, Mode::empty())?;
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                self.entry(fd.as_fd(), entry.file_name(), depth + 1);
            }
        }
        Ok(())
    }

    /// Moves a deep folder to the top, where it is deleted later. Whether that worked.
    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> bool {
        let Ok(up) = unique(c"deep") else { return false };
        let moved = renameat(dir, name, self.top, up.as_c_str()).is_ok();
        if moved {
            self.moved.push(up);
        }
        moved
    }

    fn failed(&mut self, name: &CStr, e: Errno) {
        self.first.get_or_insert_with(|| (name.to_owned(), e));
    }
}

/// A name nobody else uses: `name`, this process's start as far as the clock tells, and a count.
pub(crate) fn unique(name: &CStr) -> Result<CString> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let text = format!("{}-{now:x}-{:x}", name.to_string_lossy(), COUNT.fetch_add(1, Ordering::Relaxed));
    CString::new(text).map_err(|_| Error::invalid("name", "holds a NUL"))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use rustix::fs::{mkdirat, openat};

    use super::*;

    fn never() -> AtomicBool {
        AtomicBool::new(false)
    }

    #[test]
    fn a_tree_deeper_than_any_path_goes_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("victim")).unwrap();
        let mut fd = openat(rustix::fs::CWD, dir.path().join("victim"), OFlags::RDONLY, Mode::empty()).unwrap();
        for _ in 0..1500 {
            mkdirat(&fd, "deeper", Mode::RWXU).unwrap();
            fd = openat(&fd, "deeper", OFlags::RDONLY, Mode::empty()).unwrap();
        }
        drop(fd);
        let top = File::open(dir.path()).unwrap();
        // A stack that would not hold a frame per level.
        std::thread::scope(|scope| {
            let small = std::thread::Builder::new().stack_size(128 << 10);
            small.spawn_scoped(scope, || delete(top.as_fd(), c"victim", &never()).unwrap()).unwrap();
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn wide_folders_links_and_absent_names() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let victim = dir.path().join("victim");
        fs::create_dir(&victim).unwrap();
        for i in 0..1000 {
            fs::write(victim.join(i.to_string()), "").unwrap();
        }
        std::os::unix::fs::symlink(outside.path(), victim.join("link")).unwrap();
        let top = File::open(dir.path()).unwrap();
        delete(top.as_fd(), c"victim", &never()).unwrap();
        delete(top.as_fd(), c"victim", &never()).unwrap();
        assert!(outside.path().join("kept").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn stopping_leaves_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("victim")).unwrap();
        fs::write(dir.path().join("victim/file"), "").unwrap();
        let top = File::open(dir.path()).unwrap();
        let _ = delete(top.as_fd(), c"victim", &AtomicBool::new(true));
        assert!(dir.path().join("victim/file").exists());
    }
}
