//! Whiteouts of a layer that lands on its parent's files: they delete, but nothing the layer itself brought.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;

use rustix::fs::{Dir, Mode as FileMode, fchmod, fchown, fstat, openat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::Mode;
use super::folders::{Folder, OPEN};
use crate::error::{Error, Result};
use crate::tree::delete;

/// How deep below an opaque folder this looks; deeper ones are a layer nobody made in earnest.
const DEPTH_MAX: usize = 256;

/// What a layer brought, as folder (its inode) and name: the same whatever links its paths went through.
pub(super) struct Kept {
    names: HashMap<(u64, CString), Brought>,
    counts: bool,
}

/// How a layer brought something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brought {
    /// By an entry.
    Described,
    /// As a folder of another entry.
    Implied,
}

impl Kept {
    pub fn new(mode: Mode) -> Self {
        Kept { names: HashMap::new(), counts: mode == Mode::Merged }
    }

    /// The layer brought `name` in the folder `ino`.
    pub fn keep(&mut self, ino: u64, name: &CStr) {
        if self.counts {
            self.names.insert((ino, name.to_owned()), Brought::Described);
        }
    }

    /// The layer has something in the folder `name` in the folder `ino`.
    pub fn imply(&mut self, ino: u64, name: &CStr) {
        if self.counts {
            self.names.entry((ino, name.to_owned())).or_insert(Brought::Implied);
        }
    }

    /// Whether an entry brought it.
    pub fn described(&self, ino: u64, name: &CStr) -> bool {
        self.how(ino, name) == Some(Brought::Described)
    }

    fn how(&self, ino: u64, name: &CStr) -> Option<Brought> {
        self.names.get(&(ino, name.to_owned())).copied()
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

    fn child(&self, dir: BorrowedFd<'_>, ino: u64, name: &CStr, depth: usize) -> Result<()> {
        let failed = |op, e: Errno| Error::io(op, name.to_string_lossy().as_ref(), e);
        let folder = match openat(dir, name, OPEN, FileMode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) if self.described(ino, name) => return Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => return delete::delete(dir, name, &AtomicBool::new(false)),
            Err(e) => return Err(failed("open folder", e)),
        };
        match self.how(ino, name) {
            None => return delete::delete(dir, name, &AtomicBool::new(false)),
            Some(Brought::Described) => {}
            // Deleted and implied again: nothing of the lower layers' folder is left, its owner and mode neither.
            Some(Brought::Implied) => plain(&folder).map_err(|e| failed("reset", e))?,
        }
        let own = fstat(&folder).map_err(|e| failed("stat", e))?.st_ino;
        self.contents(folder.as_fd(), own, depth + 1)
    }
}

fn plain(folder: &OwnedFd) -> rustix::io::Result<()> {
    fchown(folder, Some(geteuid()), Some(getegid()))?;
    fchmod(folder, FileMode::from_raw_mode(0o755))
}
