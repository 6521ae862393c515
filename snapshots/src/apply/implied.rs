//! What a layer unpacked without its parent cannot know yet, and `commit` settles.
//!
//! - Folders it has files in but says nothing about: in the layers below they have a mode and an owner, which overlayfs
//!   would hide behind the ones made up here.
//! - Whiteouts of what no lower layer has: overlayfs leaves whiteouts out of a folder only where it merges several; in
//!   any other they would be listed as files nobody can open.
//!
//! Such folders are marked with an extended attribute, and the root with one that says what there is to settle, so that
//! most layers cost `commit` one system call.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode as FileMode, OFlags, ResolveFlags, XattrFlags};
use rustix::fs::{fgetxattr, fremovexattr, fsetxattr, fstat, openat, openat2, statat, unlinkat};
use rustix::io::Errno;

use super::Mode;
use super::folders::is_whiteout;
use crate::error::{Error, Result};
use crate::overlay::is_opaque;
use crate::tree::{Folder, Pending, copy, open_folder};

/// The mark. Its value on the root: `r`, the root itself is implied; `d`, folders in it are; `w`, there are whiteouts.
const MARK: &str = "trusted.cleat.implied";

/// The implied folders of a layer being unpacked: inode to path.
pub(super) struct Implied {
    root: u64,
    folders: HashMap<u64, Vec<u8>>,
    whiteouts: bool,
    /// Only a layer that lands alone has something to settle later.
    counts: bool,
}

impl Implied {
    /// The root is implied until the layer says something about it.
    pub fn new(root: u64, mode: Mode) -> Self {
        let counts = mode == Mode::Overlay;
        let folders = if counts { HashMap::from([(root, Vec::new())]) } else { HashMap::new() };
        Implied { root, folders, whiteouts: false, counts }
    }

    /// A folder was made because something lies in it.
    pub fn made(&mut self, ino: u64, path: &[u8]) {
        if self.counts {
            self.folders.insert(ino, path.to_vec());
        }
    }

    /// A whiteout was made.
    pub fn whiteout(&mut self) {
        self.whiteouts = true;
    }

    /// The layer says something about a folder after all.
    pub fn said(&mut self, ino: u64) {
        self.folders.remove(&ino);
    }

    /// Leaves the marks for [`settle`]. `open` opens a path of the layer, if it still is a folder.
    pub fn mark(&self, root: BorrowedFd<'_>, open: impl Fn(&[u8]) -> Option<OwnedFd>) -> rustix::io::Result<()> {
        let mut value = String::new();
        if self.folders.contains_key(&self.root) {
            value.push('r');
        }
        for (ino, path) in self.folders.iter().filter(|(ino, _)| **ino != self.root) {
            // It may have been deleted again, and the path be another folder's.
            let Some(fd) = open(path) else { continue };
            if fstat(&fd)?.st_ino == *ino {
                fsetxattr(&fd, MARK, b"d", XattrFlags::empty())?;
                if !value.ends_with('d') {
                    value.push('d');
                }
            }
        }
        if self.whiteouts {
            value.push('w');
        }
        if value.is_empty() {
            return Ok(());
        }
        fsetxattr(root, MARK, value.as_bytes(), XattrFlags::empty())
    }
}

/// Settles the layer at `top`, now that the layers `below` it are known, nearest first.
pub(crate) fn settle(top: &OwnedFd, below: &[PathBuf]) -> Result<()> {
    let failed = |op| move |e: Errno| Error::io(op, "layer", e);
    let Some(mark) = read_mark(top.as_fd()).map_err(failed("getxattr"))? else { return Ok(()) };
    let below: Vec<OwnedFd> = below.iter().map(|p| open_folder(p)).collect::<Result<_>>()?;
    if mark.iter().any(|b| matches!(b, b'd' | b'w')) {
        settle_tree(top, &below)?;
    }
    if mark.contains(&b'r')
        && let Some(like) = below.first()
    {
        copy::attributes(like.as_fd(), top.as_fd()).map_err(failed("copy attributes of"))?;
    }
    fremovexattr(top, MARK).map_err(failed("removexattr"))
}

/// A folder of the layer that may have something to settle.
struct Unsettled {
    /// From the layer's top, with a leading slash.
    path: Vec<u8>,
    folder: Pending,
    /// Whether an opaque folder above hides the lower layers.
    cut: bool,
}

fn settle_tree(top: &OwnedFd, below: &[OwnedFd]) -> Result<()> {
    let top = top.try_clone().map_err(|e| Error::io("dup", "layer", e))?;
    let mut pending = vec![Unsettled { path: Vec::new(), folder: Pending::root(top), cut: false }];
    while let Some(next) = pending.pop() {
        let path = next.path;
        let folder = match next.folder.open() {
            Ok(folder) => folder,
            // A filesystem that does not tell kinds: this one was no folder.
            Err(Errno::NOTDIR | Errno::LOOP) => continue,
            Err(e) => return Err(Error::io("open folder", String::from_utf8_lossy(&path).as_ref(), e)),
        };
        let cut = next.cut || is_opaque(folder.fd.as_fd()).map_err(|e| folder.failed("getxattr", e))?;
        let mut devices = Vec::new();
        for entry in folder.entries()? {
            let (name, kind) = entry.map_err(|e| folder.failed("read folder", e))?;
            if matches!(kind, FileType::Directory | FileType::Unknown) {
                let path = [path.as_slice(), b"/", name.to_bytes()].concat();
                pending.push(Unsettled { path, folder: folder.child(&name), cut });
            }
            if matches!(kind, FileType::CharacterDevice | FileType::Unknown) {
                devices.push(name);
            }
        }
        let settling = Settling { folder: &folder, path: &path, above: next.cut, own: cut };
        settling.run(below, &devices).map_err(|e| folder.failed("settle", e))?;
    }
    Ok(())
}

/// One folder being settled, and what hides lower layers from it: a folder above, or that or its own mark.
struct Settling<'a> {
    folder: &'a Folder,
    path: &'a [u8],
    above: bool,
    own: bool,
}

impl Settling<'_> {
    fn run(&self, below: &[OwnedFd], devices: &[CString]) -> rustix::io::Result<()> {
        let fd = self.folder.fd.as_fd();
        let implied = !self.path.is_empty() && read_mark(fd)?.is_some();
        if !implied && devices.is_empty() {
            return Ok(());
        }
        let like = if self.above { None } else { lower(self.path, below)? };
        if implied {
            fremovexattr(fd, MARK)?;
            if let Some(like) = &like {
                copy::attributes(like.as_fd(), fd)?;
            }
        }
        if like.is_none() || self.own {
            devices.iter().try_for_each(|name| remove_whiteout(self.folder, name))?;
        }
        Ok(())
    }
}

fn remove_whiteout(folder: &Folder, name: &CStr) -> rustix::io::Result<()> {
    let stat = statat(&*folder.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if is_whiteout(&stat) { unlinkat(&*folder.fd, name, AtFlags::empty()) } else { Ok(()) }
}

/// The folder lower layers show at `path`, if they show one.
fn lower(path: &[u8], below: &[OwnedFd]) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let path = if path.is_empty() { b"." } else { path };
    for layer in below {
        match openat2(layer, path, flags, FileMode::empty(), resolve) {
            Ok(fd) => return Ok(Some(fd)),
            Err(Errno::NOENT) if !cut_off(layer, path)? => {}
            // Something else is there, or above it: what lies further down is hidden.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Whether a layer without `path` hides the one of the layers below it: by an opaque folder above it.
fn cut_off(layer: &OwnedFd, path: &[u8]) -> rustix::io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = layer.try_clone().map_err(|_| Errno::MFILE)?;
    for part in path.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")) {
        here = match openat(&here, part, flags, FileMode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(e),
        };
        if is_opaque(here.as_fd())? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_mark(fd: BorrowedFd<'_>) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut value = [0; 8];
    match fgetxattr(fd, MARK, &mut value[..]) {
        Ok(n) => Ok(value.get(..n).map(<[u8]>::to_vec)),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(e) => Err(e),
    }
}
