//! The folders a layer unpacks into, found and made without ever leaving the layer's root.
//!
//! A folder is found by openat2(2) with `RESOLVE_IN_ROOT`, which follows the layer's own symbolic links inside the root
//! and nowhere else, and is then used through its descriptor: between finding and using there is no path. Descriptors
//! are kept, because entries come folder by folder; all are forgotten when anything is deleted, because a path could
//! then mean another folder.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags};
use rustix::fs::{fchmod, fchown, fsetxattr, fstat, mkdirat, openat, openat2, readlinkat, statat, unlinkat};
use rustix::io::Errno;

use super::Mode as Landing;
use super::attributes::{Inherits, Process};
use super::implied::Implied;
use super::name::{Clean, split};
use super::purge::Kept;
use crate::error::{Error, Result};
use crate::overlay::OPAQUE;

/// Folders held open at a time.
const OPEN_MAX: usize = 128;

/// Symbolic links followed before a path counts as a loop (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// A folder of the layer, open.
pub(super) struct Folder {
    pub fd: OwnedFd,
    /// Its inode.
    pub ino: u64,
    /// What new entries take from it.
    pub inherits: Inherits,
}

/// The folders of one layer.
pub(super) struct Folders<'a> {
    root: Rc<Folder>,
    open: HashMap<Clean, Rc<Folder>>,
    process: Process,
    landing: Landing,
    /// Folders made because something lies in them; the layer says nothing about them (yet).
    pub implied: Implied,
    /// What this layer brought, when it lands on other layers' files.
    pub kept: Kept,
    shown: &'a std::path::Path,
}

impl<'a> Folders<'a> {
    /// The folders below `root`, which is called `shown` in errors.
    pub fn new(root: OwnedFd, shown: &'a std::path::Path, landing: Landing, process: Process) -> Result<Self> {
        let root = folder(root, process).map_err(|e| Error::io("stat", shown, e))?;
        let implied = Implied::new(root.ino, landing);
        let kept = Kept::new(landing);
        Ok(Folders { root: Rc::new(root), open: HashMap::new(), process, landing, implied, kept, shown })
    }

    /// The root.
    pub fn root(&self) -> Rc<Folder> {
        Rc::clone(&self.root)
    }

    /// The folder at `path`, made with all above it if it is not there.
    pub fn at(&mut self, path: &[u8]) -> Result<Rc<Folder>> {
        if path.is_empty() {
            return Ok(self.root());
        }
        if let Some(folder) = self.open.get(path) {
            return Ok(Rc::clone(folder));
        }
        if self.landing == Landing::Merged {
            self.keep_way(path)?;
        }
        self.find(path)
    }

    /// Having something in a folder keeps it, and all above it, from this layer's own whiteouts.
    fn keep_way(&mut self, path: &[u8]) -> Result<()> {
        let mut above = self.root();
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i).chain([path.len()]);
        for end in ends {
            let here = path.get(..end).unwrap_or(path);
            let (_, name) = split(here);
            if let Ok(name) = CString::new(name) {
                self.kept.imply(above.ino, &name);
            }
            if end < path.len() {
                above = self.find(here)?;
            }
        }
        Ok(())
    }

    fn find(&mut self, path: &[u8]) -> Result<Rc<Folder>> {
        if let Some(folder) = self.open.get(path) {
            return Ok(Rc::clone(folder));
        }
        match resolve(self.root.fd.as_fd(), path) {
            Ok(fd) => {
                let found = folder(fd, self.process).map_err(|e| self.failed("stat", path, e))?;
                Ok(self.keep(path, found))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {
                let made = self.make(path)?;
                self.open.insert(path.to_vec(), Rc::clone(&made));
                Ok(made)
            }
            Err(e) => Err(self.failed("open folder", path, e)),
        }
    }

    /// Opens `path` again, not following its last component; None if it is no folder any more.
    pub fn again(&self, path: &[u8]) -> Option<OwnedFd> {
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(self.root.fd.as_fd(), path, flags, Mode::empty(), RESOLVE).ok()
    }

    /// Remembers a folder just opened.
    pub fn keep(&mut self, path: &[u8], folder: Folder) -> Rc<Folder> {
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        let folder = Rc::new(folder);
        self.open.insert(path.to_vec(), Rc::clone(&folder));
        folder
    }

    /// Something was deleted: paths may lead elsewhere now.
    pub fn forget(&mut self) {
        self.open.clear();
    }

    /// Walks `path` one component at a time, making what is missing, following links by hand inside the root.
    fn make(&mut self, path: &[u8]) -> Result<Rc<Folder>> {
        let mut todo: VecDeque<Vec<u8>> = parts(path).collect();
        let mut way = vec![(Vec::new(), self.root())];
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            let Some((at, here)) = way.last().map(|(p, f)| (p.clone(), Rc::clone(f))) else { break };
            if part == b".." {
                way.truncate((way.len() - 1).max(1));
                continue;
            }
            let below = if at.is_empty() { part.clone() } else { [at.as_slice(), b"/", &part].concat() };
            match self.step(&here, &part, &below)? {
                Step::Folder(next) => way.push((below, Rc::new(next))),
                Step::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(self.failed("open folder", path, Errno::LOOP));
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    for part in parts(&target).rev() {
                        todo.push_front(part);
                    }
                }
            }
        }
        way.pop().map(|(_, folder)| folder).ok_or_else(|| self.failed("open folder", path, Errno::NOENT))
    }

    /// One component: a folder, found or made, or a link to be followed.
    fn step(&mut self, here: &Folder, part: &[u8], below: &[u8]) -> Result<Step> {
        let name = CString::new(part).map_err(|_| Error::invalid("layer entry", "its path holds a NUL"))?;
        match openat(&here.fd, name.as_c_str(), OPEN, Mode::empty()) {
            Ok(fd) => folder(fd, self.process).map(Step::Folder).map_err(|e| self.failed("stat", below, e)),
            Err(Errno::NOENT) => self.imply(here, &name, below).map(Step::Folder),
            Err(Errno::NOTDIR | Errno::LOOP) => self.in_the_way(here, &name, below),
            Err(e) => Err(self.failed("open folder", below, e)),
        }
    }

    /// Something that is no folder has the name: a link leads on, and what is not of this layer gives way to a folder.
    fn in_the_way(&mut self, here: &Folder, name: &CStr, below: &[u8]) -> Result<Step> {
        let stat = statat(&here.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| self.failed("stat", below, e))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let target = readlinkat(&here.fd, name, Vec::new()).map_err(|e| self.failed("readlink", below, e))?;
            return Ok(Step::Link(target.into_bytes()));
        }
        let hides = self.landing == Landing::Overlay && is_whiteout(&stat);
        let gives_way = hides || (self.landing == Landing::Merged && !self.kept.described(here.ino, name));
        if !gives_way {
            return Err(self.failed("make folder", below, Errno::NOTDIR));
        }
        unlinkat(&here.fd, name, AtFlags::empty()).map_err(|e| self.failed("unlink", below, e))?;
        let made = self.imply(here, name, below)?;
        if hides {
            set_opaque(made.fd.as_fd()).map_err(|e| self.failed("mark opaque", below, e))?;
            // Deleted and made anew: what lower layers say about it does not count.
            self.implied.said(made.ino);
        }
        Ok(Step::Folder(made))
    }

    /// Makes a folder the layer does not describe.
    fn imply(&mut self, here: &Folder, name: &CStr, below: &[u8]) -> Result<Folder> {
        let mode = Mode::from_raw_mode(0o755);
        mkdirat(&here.fd, name, mode).map_err(|e| self.failed("mkdir", below, e))?;
        let fd = openat(&here.fd, name, OPEN, Mode::empty()).map_err(|e| self.failed("open folder", below, e))?;
        // Whatever the process's mask and the folder's setgid bit made of it.
        fchmod(&fd, mode).map_err(|e| self.failed("chmod", below, e))?;
        if here.inherits == Inherits::Group {
            let (uid, gid) = self.process.owner();
            fchown(&fd, Some(uid), Some(gid)).map_err(|e| self.failed("chown", below, e))?;
        }
        let made = folder(fd, self.process).map_err(|e| self.failed("stat", below, e))?;
        self.implied.made(made.ino, below);
        Ok(made)
    }

    /// An error at `path` below the root.
    pub fn failed(&self, op: &'static str, path: &[u8], e: Errno) -> Error {
        Error::io(op, self.shown.join(String::from_utf8_lossy(path).as_ref()), e)
    }
}

enum Step {
    Folder(Folder),
    Link(Vec<u8>),
}

/// How a folder is opened by its own name: nothing is followed.
pub(super) const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const RESOLVE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// Finds a folder inside `root`, following links inside it.
pub(super) fn resolve(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    openat2(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), RESOLVE)
}

/// Asks a folder's descriptor what unpacking has to know.
pub(super) fn folder(fd: OwnedFd, process: Process) -> rustix::io::Result<Folder> {
    let stat = fstat(&fd)?;
    Ok(Folder { ino: stat.st_ino, inherits: inherits(stat.st_mode, stat.st_gid, process), fd })
}

/// What entries of a folder with this mode and group take from it.
pub(super) fn inherits(mode: u32, gid: u32, process: Process) -> Inherits {
    // A filesystem mounted `grpid` gives the folder's group as the setgid bit does; with our own it makes no difference.
    if mode & 0o2000 == 0 && gid == process.gid { Inherits::Nothing } else { Inherits::Group }
}

/// A character device 0:0 stands for something that is gone (overlayfs.rst, "whiteouts and opaque directories").
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Makes a folder hide what lower layers have in it.
pub(super) fn set_opaque(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    fsetxattr(fd, OPAQUE, b"y", XattrFlags::empty())
}

/// The components of a path or a link's target, without empty ones and `.`.
fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")).map(<[u8]>::to_vec)
}
