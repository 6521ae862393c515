//! Folders a layer has files in but says nothing about.
//!
//! In the layers below they have a mode and an owner, which overlayfs would hide behind the ones made up here. A layer
//! unpacked without its parent cannot know them, so such folders are marked with an extended attribute, the root with
//! one that says whether there are any, and `commit`, which knows the parent, settles them.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{FileType, Mode as FileMode, OFlags, ResolveFlags, XattrFlags};
use rustix::fs::{fgetxattr, fremovexattr, fsetxattr, fstat, openat, openat2};
use rustix::io::Errno;

use super::Mode;
use crate::error::{Error, Result};
use crate::overlay::OPAQUE;
use crate::tree::{Pending, copy, open_folder};

/// The mark. Its value on the root: `r`, the root itself is implied; `d`, folders in it are; `rd`, both.
const MARK: &str = "trusted.cleat.implied";

/// The implied folders of a layer being unpacked: inode to path.
pub(super) struct Implied {
    root: u64,
    folders: HashMap<u64, Vec<u8>>,
    /// Only a layer that lands alone has something to settle later.
    counts: bool,
}

impl Implied {
    /// The root is implied until the layer says something about it.
    pub fn new(root: u64, mode: Mode) -> Self {
        let counts = mode == Mode::Overlay;
        let folders = if counts { HashMap::from([(root, Vec::new())]) } else { HashMap::new() };
        Implied { root, folders, counts }
    }

    /// A folder was made because something lies in it.
    pub fn made(&mut self, ino: u64, path: &[u8]) {
        if self.counts {
            self.folders.insert(ino, path.to_vec());
        }
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
        if value.is_empty() {
            return Ok(());
        }
        fsetxattr(root, MARK, value.as_bytes(), XattrFlags::empty())
    }
}

/// Gives the implied folders of the layer at `top` what the layers `below`, nearest first, say about them.
pub(crate) fn settle(top: &OwnedFd, below: &[PathBuf]) -> Result<()> {
    let failed = |op| move |e: Errno| Error::io(op, "layer", e);
    let Some(mark) = read_mark(top.as_fd()).map_err(failed("getxattr"))? else { return Ok(()) };
    let below: Vec<OwnedFd> = below.iter().map(|p| open_folder(p)).collect::<Result<_>>()?;
    if mark.contains(&b'd') {
        settle_folders(top, &below)?;
    }
    if mark.contains(&b'r')
        && let Some(like) = below.first()
    {
        copy::attributes(like.as_fd(), top.as_fd()).map_err(failed("copy attributes of"))?;
    }
    fremovexattr(top, MARK).map_err(failed("removexattr"))
}

/// Settles all marked folders but the root.
fn settle_folders(top: &OwnedFd, below: &[OwnedFd]) -> Result<()> {
    let top = top.try_clone().map_err(|e| Error::io("dup", "layer", e))?;
    let mut pending = vec![(Vec::new(), Pending::root(top))];
    while let Some((path, next)) = pending.pop() {
        let folder = match next.open() {
            Ok(folder) => folder,
            // A filesystem that does not tell kinds: this one was no folder.
            Err(Errno::NOTDIR | Errno::LOOP) => continue,
            Err(e) => return Err(Error::io("open folder", String::from_utf8_lossy(&path).as_ref(), e)),
        };
        for entry in folder.entries()? {
            let (name, kind) = entry.map_err(|e| folder.failed("read folder", e))?;
            if matches!(kind, FileType::Directory | FileType::Unknown) {
                pending.push(([path.as_slice(), b"/", name.to_bytes()].concat(), folder.child(&name)));
            }
        }
        if !path.is_empty() {
            settle_folder(folder.fd.as_fd(), &path, below).map_err(|e| folder.failed("settle", e))?;
        }
    }
    Ok(())
}

fn settle_folder(fd: BorrowedFd<'_>, path: &[u8], below: &[OwnedFd]) -> rustix::io::Result<()> {
    if read_mark(fd)?.is_none() {
        return Ok(());
    }
    fremovexattr(fd, MARK)?;
    match lower(path.strip_prefix(b"/").unwrap_or(path), below)? {
        Some(like) => copy::attributes(like.as_fd(), fd),
        None => Ok(()),
    }
}

/// The folder lower layers show at `path`, if they show one.
fn lower(path: &[u8], below: &[OwnedFd]) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
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
        let mut value = [0; 8];
        match fgetxattr(&here, OPAQUE, &mut value[..]) {
            Ok(n) if value.get(..n) == Some(b"y") => return Ok(true),
            Ok(_) | Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(e) => return Err(e),
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
