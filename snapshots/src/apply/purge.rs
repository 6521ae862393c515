//! Whiteouts of a layer that lands on its parent's files: they delete, but nothing the layer itself brought.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, Dir, Mode as FileMode, fstat, openat, unlinkat};
use rustix::io::Errno;

use super::Mode;
use super::folders::{Folder, OPEN};
use crate::error::{Error, Result};
use crate::tree::delete;

/// How deep below an opaque folder this looks; deeper ones are a layer nobody made in earnest.
const DEPTH_MAX: usize = 256;

/// What a layer brought, as folder (its inode) and name: the same whatever links its paths went through.
pub(super) struct Kept {
    names: HashSet<(u64, CString)>,
    counts: bool,
}

impl Kept {
    pub fn new(mode: Mode) -> Self {
        Kept { names: HashSet::new(), counts: mode == Mode::Merged }
    }

    /// The layer brought `name` in the folder `ino`.
    pub fn keep(&mut self, ino: u64, name: &CStr) {
        if self.counts {
            self.names.insert((ino, name.to_owned()));
        }
    }

    /// Deletes `name` in `folder`, or, if the layer brought it, what it holds that the layer did not bring.
    pub fn whiteout(&self, folder: &Folder, name: &CStr) -> Result<()> {
        self.child(folder.fd.as_fd(), folder.ino, name, 0)
    }

    /// Deletes what is in `folder` and the layer did not bring.
    pub fn purge(&self, folder: &Folder) -> Result<()> {
        self.contents(folder.fd.as_fd(), folder.ino, 0)
    }

    fn contents(&self, dir: BorrowedFd<'_>, ino: u64, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(Error::TooLarge { what: "layer: folders below an opaque one".into(), limit: DEPTH_MAX as u64 });
        }
        let failed = |e: Errno| Error::io("read folder", "layer", e);
        let names: rustix::io::Result<Vec<CString>> =
            Dir::read_from(dir).map_err(failed)?.map(|e| e.map(|e| e.file_name().to_owned())).collect();
        let names = names.map_err(failed)?;
        for name in names.iter().filter(|n| !matches!(n.to_bytes(), b"." | b"..")) {
            self.child(dir, ino, name, depth)?;
        }
        Ok(())
    }

    /// A folder may hold what the layer brought even if the layer did not bring the folder itself: it is emptied of the
    /// rest, and goes if nothing is left in it.
    fn child(&self, dir: BorrowedFd<'_>, ino: u64, name: &CStr, depth: usize) -> Result<()> {
        let brought = self.names.contains(&(ino, name.to_owned()));
        let failed = |op, e: Errno| Error::io(op, name.to_string_lossy().as_ref(), e);
        match openat(dir, name, OPEN, FileMode::empty()) {
            Ok(fd) => {
                let own = fstat(&fd).map_err(|e| failed("stat", e))?.st_ino;
                self.contents(fd.as_fd(), own, depth + 1)?;
                if brought {
                    return Ok(());
                }
                match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(()),
                    Err(e) => Err(failed("rmdir", e)),
                }
            }
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) if brought => Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => delete::delete(dir, name, &AtomicBool::new(false)),
            Err(e) => Err(failed("open folder", e)),
        }
    }
}
