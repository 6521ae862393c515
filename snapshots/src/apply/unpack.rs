//! One layer being unpacked, entry by entry.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, Dev, FileType, Mode as FileMode, OFlags, makedev};
use rustix::fs::{linkat, mkdirat, mknodat, openat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::archive::{Archive, Entry, Kind};
use super::attributes::{self, Inherits, Process};
use super::folders::{self, Folder, Folders};
use super::name::{self, Asked};
use super::{Applied, Devices, Limits, Mode};
use crate::error::{Error, Result};
use crate::tree::{delete, open_folder};

/// A layer being unpacked.
pub(super) struct Unpack<'a, R> {
    archive: Archive<R>,
    folders: Folders<'a>,
    process: Process,
    mode: Mode,
    limits: &'a Limits,
    applied: Applied,
    late: Vec<Late>,
}

/// What a folder gets when nothing more is put into it.
struct Late {
    path: Vec<u8>,
    mtime: (i64, u32),
    default_acl: Option<Vec<u8>>,
}

/// Where an entry goes: a folder, and one component in it.
struct Place<'e> {
    folder: Rc<Folder>,
    name: CString,
    path: &'e [u8],
}

impl<'a, R: Read> Unpack<'a, R> {
    pub fn new(reader: R, root: &'a Path, mode: Mode, limits: &'a Limits) -> Result<Self> {
        let process = Process::current();
        Ok(Unpack {
            archive: Archive::new(reader, limits.max_path),
            folders: Folders::new(open_folder(root)?, root, mode, process)?,
            process,
            mode,
            limits,
            applied: Applied::default(),
            late: Vec::new(),
        })
    }

    /// Unpacks everything.
    pub fn run(mut self) -> Result<Applied> {
        while let Some(entry) = self.archive.next()? {
            self.count(&entry)?;
            self.entry(&entry)?;
        }
        self.archive.drain(self.limits.max_bytes)?;
        self.finish()?;
        Ok(self.applied)
    }

    fn count(&mut self, entry: &Entry) -> Result<()> {
        let over = |what: &str, limit| Err(Error::TooLarge { what: format!("layer: {what}"), limit });
        self.applied.entries += 1;
        self.applied.bytes = self.applied.bytes.saturating_add(entry.size);
        if self.applied.entries > self.limits.max_entries {
            return over("entries", self.limits.max_entries);
        }
        if self.applied.bytes > self.limits.max_bytes {
            return over("bytes of its files", self.limits.max_bytes);
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        let path = name::clean(&entry.name);
        match name::read(&path)? {
            Asked::Nothing => Ok(()),
            Asked::Root => self.root(entry),
            Asked::Opaque { parent } => self.opaque(parent),
            Asked::Whiteout { parent, name } => {
                let place = self.place(parent, name, &path)?;
                self.whiteout(&place)
            }
            Asked::Plain { parent, name } => {
                let place = self.place(parent, name, &path)?;
                self.plain(entry, &place)
            }
        }
    }

    fn place<'e>(&mut self, parent: &[u8], name: &[u8], path: &'e [u8]) -> Result<Place<'e>> {
        let name = CString::new(name).map_err(|_| Error::invalid("layer entry", "its path holds a NUL"))?;
        Ok(Place { folder: self.folders.at(parent)?, name, path })
    }

    fn plain(&mut self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        self.folders.kept.keep(place.folder.ino, &place.name);
        match entry.kind {
            Kind::File => self.file(entry, place),
            Kind::Folder => self.folder(entry, place),
            Kind::Symlink => {
                self.make(place, "symlink", |p| symlinkat(entry.link.as_slice(), &p.folder.fd, p.name.as_c_str()))?;
                self.named(entry, place)
            }
            Kind::HardLink => self.hard_link(entry, place),
            Kind::Fifo => self.node(entry, place, FileType::Fifo, 0),
            Kind::CharDevice | Kind::BlockDevice if self.limits.devices == Devices::Skip => Ok(()),
            Kind::CharDevice => self.node(entry, place, FileType::CharacterDevice, device(entry)),
            Kind::BlockDevice => self.node(entry, place, FileType::BlockDevice, device(entry)),
        }
    }

    /// Makes something under a new name; what has that name already is removed first: the last of two entries wins.
    fn make<T>(
        &mut self,
        place: &Place<'_>,
        op: &'static str,
        call: impl Fn(&Place<'_>) -> rustix::io::Result<T>,
    ) -> Result<T> {
        match call(place) {
            Err(Errno::EXIST) => {
                self.clear(place)?;
                call(place).map_err(|e| self.failed(op, place, e))
            }
            other => other.map_err(|e| self.failed(op, place, e)),
        }
    }

    fn clear(&mut self, place: &Place<'_>) -> Result<()> {
        self.folders.forget();
        match unlinkat(&place.folder.fd, place.name.as_c_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => delete::delete(place.folder.fd.as_fd(), &place.name, &AtomicBool::new(false)),
            Err(e) => Err(self.failed("unlink", place, e)),
        }
    }

    fn file(&mut self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Bits that cannot be given here are set when the data is written: writing would clear them.
        let mode = FileMode::from_raw_mode(entry.mode & 0o777);
        let file = self.make(place, "create", |p| openat(&p.folder.fd, p.name.as_c_str(), flags, mode))?;
        let folders = &self.folders;
        self.archive.data(|piece| write_all(&file, piece).map_err(|e| folders.failed("write", place.path, e)))?;
        attributes::set_open(file.as_fd(), entry, self.process, place.folder.inherits)
            .and_then(|()| rustix::fs::futimens(&file, &attributes::times(entry.mtime)))
            .map_err(|e| self.failed("set attributes of", place, e))
    }

    /// A folder that is there already is kept, with what is in it.
    fn folder(&mut self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        let mode = FileMode::from_raw_mode(entry.mode & 0o777);
        let fd = match mkdirat(&place.folder.fd, place.name.as_c_str(), mode) {
            Ok(()) => self.open(place).map_err(|e| self.failed("open folder", place, e))?,
            Err(Errno::EXIST) => match self.open(place) {
                Ok(fd) => {
                    return self.described(entry, place.path, fd, Inherits::Group);
                }
                Err(Errno::NOTDIR | Errno::LOOP) => self.replace_by_folder(place, mode)?,
                Err(e) => return Err(self.failed("open folder", place, e)),
            },
            Err(e) => return Err(self.failed("mkdir", place, e)),
        };
        self.described(entry, place.path, fd, place.folder.inherits)
    }

    fn open(&self, place: &Place<'_>) -> rustix::io::Result<OwnedFd> {
        openat(&place.folder.fd, place.name.as_c_str(), folders::OPEN, FileMode::empty())
    }

    /// A folder in the place of this layer's own file or whiteout, which had hidden the lower layers' folder already.
    fn replace_by_folder(&mut self, place: &Place<'_>, mode: FileMode) -> Result<OwnedFd> {
        self.clear(place)?;
        mkdirat(&place.folder.fd, place.name.as_c_str(), mode).map_err(|e| self.failed("mkdir", place, e))?;
        let fd = self.open(place).map_err(|e| self.failed("open folder", place, e))?;
        if self.mode == Mode::Overlay {
            folders::set_opaque(fd.as_fd()).map_err(|e| self.failed("mark opaque", place, e))?;
        }
        Ok(fd)
    }

    /// Sets what the layer says of a folder; its time comes last, when nothing more is put into it.
    fn described(&mut self, entry: &Entry, path: &[u8], fd: OwnedFd, inherits: Inherits) -> Result<()> {
        attributes::set_open(fd.as_fd(), entry, self.process, inherits)
            .map_err(|e| self.folders.failed("set attributes of", path, e))?;
        let found = folders::folder(fd, self.process).map_err(|e| self.folders.failed("stat", path, e))?;
        self.folders.implied.said(found.ino);
        self.late.push(Late { path: path.to_vec(), mtime: entry.mtime, default_acl: attributes::default_acl(entry) });
        self.folders.keep(path, found);
        Ok(())
    }

    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Folder {
            return Err(Error::invalid("layer entry for the root", "it is not a folder"));
        }
        let root = self.folders.root();
        let fd = root.fd.try_clone().map_err(|e| Error::io("dup", "layer root", e))?;
        self.described(entry, b"", fd, Inherits::Group)
    }

    /// Links to what the layer has at the target; the target itself is not followed, so a link to a link is one.
    fn hard_link(&mut self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        let target = name::clean(&entry.link);
        let (parent, name) = name::split(&target);
        if name.is_empty() {
            return Err(self.failed("link to the root from", place, Errno::PERM));
        }
        let name = CString::new(name).map_err(|_| Error::invalid("layer entry", "its link holds a NUL"))?;
        let from = self.folders.at(parent)?;
        if from.ino == place.folder.ino && name == place.name {
            // To itself: what is there stays, if anything is.
            return statat(&from.fd, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)
                .map(drop)
                .map_err(|e| self.failed("link to itself", place, e));
        }
        let call = |p: &Place<'_>| linkat(&from.fd, name.as_c_str(), &p.folder.fd, p.name.as_c_str(), AtFlags::empty());
        self.make(place, "link", call)
    }

    fn node(&mut self, entry: &Entry, place: &Place<'_>, kind: FileType, device: Dev) -> Result<()> {
        let mode = FileMode::from_raw_mode(entry.mode);
        self.make(place, "mknod", |p| mknodat(&p.folder.fd, p.name.as_c_str(), kind, mode, device))?;
        if self.process.masks(entry.mode) {
            attributes::chmod_node(place.folder.fd.as_fd(), &place.name, mode)
                .map_err(|e| self.failed("chmod", place, e))?;
        }
        self.named(entry, place)
    }

    fn named(&self, entry: &Entry, place: &Place<'_>) -> Result<()> {
        let folder = &place.folder;
        attributes::set_named(folder.fd.as_fd(), &place.name, entry, self.process, folder.inherits)
            .map_err(|e| self.failed("set attributes of", place, e))
    }

    /// Hides everything lower layers have in a folder.
    fn opaque(&mut self, parent: &[u8]) -> Result<()> {
        let folder = self.folders.at(parent)?;
        match self.mode {
            Mode::Overlay => {
                folders::set_opaque(folder.fd.as_fd()).map_err(|e| self.folders.failed("mark opaque", parent, e))
            }
            Mode::Merged => {
                self.folders.forget();
                self.folders.kept.purge(&folder)
            }
        }
    }

    /// Hides what lower layers have under a name. What this very layer has there stays (layer.md, "Whiteouts").
    fn whiteout(&mut self, place: &Place<'_>) -> Result<()> {
        match self.mode {
            Mode::Merged => {
                self.folders.forget();
                self.folders.kept.whiteout(&place.folder, &place.name)
            }
            Mode::Overlay => {
                self.folders.implied.whiteout();
                let made = mknodat(
                    &place.folder.fd,
                    place.name.as_c_str(),
                    FileType::CharacterDevice,
                    FileMode::empty(),
                    makedev(0, 0),
                );
                match made {
                    Ok(()) => Ok(()),
                    Err(Errno::EXIST) => match self.open(place) {
                        Ok(fd) => self.anew(&fd).map_err(|e| self.failed("mark opaque", place, e)),
                        // A file of this layer hides the lower ones by being there.
                        Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                        Err(e) => Err(self.failed("open folder", place, e)),
                    },
                    Err(e) => Err(self.failed("make whiteout", place, e)),
                }
            }
        }
    }

    /// A folder of this layer hides the one below, which says nothing about it any more.
    fn anew(&mut self, fd: &OwnedFd) -> rustix::io::Result<()> {
        self.folders.implied.said(rustix::fs::fstat(fd)?.st_ino);
        folders::set_opaque(fd.as_fd())
    }

    fn finish(&self) -> Result<()> {
        for late in &self.late {
            // Gone or something else since: then this is not about it.
            let Some(fd) = self.folders.again(&late.path) else { continue };
            attributes::set_late(fd.as_fd(), late.mtime, late.default_acl.as_deref())
                .map_err(|e| self.folders.failed("set time of", &late.path, e))?;
        }
        let root = self.folders.root();
        self.folders
            .implied
            .mark(root.fd.as_fd(), |path| self.folders.again(path))
            .map_err(|e| self.folders.failed("mark implied folders in", b"", e))
    }

    fn failed(&self, op: &'static str, place: &Place<'_>, e: Errno) -> Error {
        self.folders.failed(op, place.path, e)
    }
}

fn device(entry: &Entry) -> Dev {
    makedev(entry.device.0, entry.device.1)
}

fn write_all(fd: &OwnedFd, mut data: &[u8]) -> rustix::io::Result<()> {
    while !data.is_empty() {
        match rustix::io::write(fd, data) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => data = data.get(n..).unwrap_or(&[]),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
