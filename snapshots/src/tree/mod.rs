//! Whole trees of files nobody vouches for: measured, copied, deleted.
//!
//! A container can nest folders without end and an image can be built to; so nothing here recurses along a path, none
//! keeps a descriptor per level, and no path is handed to the kernel that could grow beyond its limit.

pub(crate) mod copy;
pub(crate) mod delete;
pub(crate) mod usage;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// When a path relative to a held folder gets this long, the walk holds a folder further down.
const PATH_MAX_BYTES: usize = 2048;

/// A folder still to be visited: a path below a folder that is held open.
pub(crate) struct Pending {
    base: Rc<OwnedFd>,
    path: Vec<u8>,
}

/// A folder being visited.
pub(crate) struct Folder {
    /// The folder, open for reading.
    pub fd: Rc<OwnedFd>,
    base: Rc<OwnedFd>,
    path: Vec<u8>,
}

impl Pending {
    /// The top of a walk.
    pub fn root(fd: OwnedFd) -> Self {
        Pending { base: Rc::new(fd), path: b".".to_vec() }
    }

    /// Opens it, without following any link.
    pub fn open(self) -> rustix::io::Result<Folder> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let fd = openat2(self.base.as_fd(), self.path.as_slice(), flags, Mode::empty(), resolve)?;
        Ok(Folder { fd: Rc::new(fd), base: self.base, path: self.path })
    }
}

impl Folder {
    /// The folder `name` in this one, to be visited later.
    pub fn child(&self, name: &CStr) -> Pending {
        let name = name.to_bytes();
        if self.path.len() + 1 + name.len() > PATH_MAX_BYTES {
            return Pending { base: Rc::clone(&self.fd), path: name.to_vec() };
        }
        Pending { base: Rc::clone(&self.base), path: [self.path.as_slice(), b"/", name].concat() }
    }

    /// This folder once more, to be visited again after its children.
    pub fn again(&self) -> Pending {
        Pending { base: Rc::clone(&self.base), path: self.path.clone() }
    }

    /// Its entries, without `.` and `..`.
    pub fn entries(&self) -> Result<Entries> {
        Dir::read_from(self.fd.as_fd()).map(Entries).map_err(|e| self.failed("read folder", e))
    }

    /// An error at this folder.
    pub fn failed(&self, op: &'static str, e: Errno) -> Error {
        Error::io(op, String::from_utf8_lossy(&self.path).as_ref(), e)
    }
}

/// The entries of a folder.
pub(crate) struct Entries(Dir);

impl Iterator for Entries {
    type Item = rustix::io::Result<(CString, FileType)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.next()? {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(entry) => return Some(Ok((entry.file_name().to_owned(), entry.file_type()))),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

/// Opens a folder for reading; the last component is not followed.
pub(crate) fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|e| Error::io("open folder", path, e))
}
