//! The native snapshotter: every snapshot holds all its files, starting with a copy of its parent's.
//!
//! For hosts whose filesystem carries no overlay, and as the reference the others are tested against: it has no merging
//! to get wrong. On filesystems with reflinks (xfs, btrfs) a copy shares its data with the original.
//!
//! ```text
//! snapshots/ID/    0700
//!   fs/            the files
//! ```

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fchmod, mkdirat, openat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::metadata::Row;
use crate::mount::Mount;
use crate::snapshotter::{Info, Kind, Snapshotter, Usage};
use crate::store::{Committing, Independent, Making, Store};
use crate::tree::{copy, open_folder};

/// The native snapshotter.
pub struct Native {
    store: Store,
}

impl Native {
    /// Opens the store at `root`, making it if it is not there; repairs what a crash left.
    ///
    /// # Errors
    /// `InUse` while another process has it open, `Corrupt` for metadata another version wrote.
    pub fn open(root: &Path) -> Result<Self> {
        Ok(Native { store: Store::open(root, "native")? })
    }

    fn files(&self, id: i64) -> PathBuf {
        self.store.dir(id).join("fs")
    }

    fn make(&self, making: &Making<'_>) -> Result<Vec<Mount>> {
        let row = self.store.make(making, |row, dir| self.fill(row, dir))?;
        Ok(self.mounts_of(&row))
    }

    /// A view shows its parent's own folder: nobody writes to it.
    fn fill(&self, row: &Row, dir: &OwnedFd) -> Result<()> {
        let failed = |op| move |e: Errno| Error::io(op, self.files(row.id), e);
        if row.kind == Kind::View && row.parent.is_some() {
            return Ok(());
        }
        mkdirat(dir, "fs", Mode::from_raw_mode(0o755)).map_err(failed("mkdir"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = openat(dir, "fs", flags, Mode::empty()).map_err(failed("open folder"))?;
        match &row.parent {
            Some((parent, _)) => copy::copy(open_folder(&self.files(*parent))?, top),
            None => fchmod(&top, Mode::from_raw_mode(0o755)).map_err(failed("chmod")),
        }
    }

    fn mounts_of(&self, row: &Row) -> Vec<Mount> {
        let (id, access) = match (row.kind, &row.parent) {
            (Kind::View, Some((parent, _))) => (*parent, "ro"),
            (Kind::View, None) => (row.id, "ro"),
            _ => (row.id, "rw"),
        };
        let source = self.files(id).to_string_lossy().into_owned();
        vec![Mount { kind: "bind".into(), source, target: None, options: vec![access.into(), "rbind".into()] }]
    }
}

impl Snapshotter for Native {
    fn prepare(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
        self.make(&Making { key, parent, kind: Kind::Active })
    }

    fn view(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
        self.make(&Making { key, parent, kind: Kind::View })
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let row = self.store.usable(key)?;
        if row.kind == Kind::Committed {
            let why = "it is committed; make a view of it".to_owned();
            return Err(Error::FailedPrecondition { key: key.to_owned(), why });
        }
        Ok(self.mounts_of(&row))
    }

    fn commit(&self, name: &str, key: &str, parent: Option<&str>) -> Result<()> {
        let row = self.store.active(key)?;
        let parent = self.store.parent_at_commit(&row, parent, Independent::No)?;
        if name != key && self.store.stat(name).is_ok() {
            return Err(Error::AlreadyExists { key: name.to_owned() });
        }
        self.store.commit(&Committing { row: &row, name, parent: parent.as_ref(), opaque: false })
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.store.remove(key)
    }

    fn stat(&self, key: &str) -> Result<Info> {
        self.store.stat(key)
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        let row = self.store.metadata().get(key)?;
        if row.kind == Kind::View && row.parent.is_some() {
            return Ok(Usage::default());
        }
        self.store.usage(key, "fs")
    }

    fn walk(&self) -> Result<Vec<Info>> {
        self.store.walk()
    }

    fn independent_layers(&self) -> bool {
        false
    }
}
