//! What every snapshotter that keeps folders has in common: the metadata, a folder per snapshot, and the order in
//! which both change.
//!
//! ```text
//! ROOT/            0700: nobody but root reaches a setuid file in a snapshot (CVE-2021-41091)
//!   lock           held as long as the store is open
//!   metadata.db    which snapshots there are
//!   reserve        freed when the disk is full, so that a remove can be recorded
//!   snapshots/ID/  one snapshot; what is inside is the snapshotter's affair
//!   trash/         being deleted
//! ```

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, mkdirat, openat, renameat, syncfs};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::metadata::{Commit, Metadata, Row, State};
use crate::snapshotter::{Info, Kind, Usage};
use crate::sweeper::{Paths, Sweeper};
use crate::tree::{delete, open_folder, usage};

/// An open store.
pub(crate) struct Store {
    root: PathBuf,
    snapshots: OwnedFd,
    trash: OwnedFd,
    metadata: Metadata,
    sweeper: Sweeper,
    // Last, so that it is released last.
    _lock: OwnedFd,
}

/// What to make.
pub(crate) struct Making<'a> {
    /// Its key.
    pub key: &'a str,
    /// The layer it stands on.
    pub parent: Option<&'a str>,
    /// Active or view.
    pub kind: Kind,
}

/// What an active snapshot is turned into.
pub(crate) struct Committing<'a> {
    /// The snapshot.
    pub row: &'a Row,
    /// The name it gets.
    pub name: &'a str,
    /// The layer below.
    pub parent: Option<&'a Row>,
    /// Whether its top folder hides everything below.
    pub opaque: bool,
}

impl Store {
    /// Opens the store at `root` for the snapshotter `owner`, making it if it is not there, and repairs it.
    pub fn open(root: &Path, owner: &str) -> Result<Self> {
        let root = std::path::absolute(root).map_err(|e| Error::io("resolve", root, e))?;
        check_root(&root)?;
        for dir in [&root, &root.join("snapshots"), &root.join("trash")] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Error::io("mkdir", dir, e))?;
            rustix::fs::chmod(dir, Mode::RWXU).map_err(|e| Error::io("chmod", dir, e))?;
        }
        let lock = lock(&root)?;
        let metadata = Metadata::open(&root.join("metadata.db"))?;
        if let Some(other) = metadata.about("snapshotter", Some(owner))?.filter(|o| o != owner) {
            metadata.about("snapshotter", Some(&other))?;
            return Err(Error::invalid(root.display().to_string(), format!("it belongs to the snapshotter {other}")));
        }
        let snapshots = open_folder(&root.join("snapshots"))?;
        let trash = open_folder(&root.join("trash"))?;
        repair(&metadata, &root, &snapshots, &trash)?;
        let sweeper = Sweeper::start(Paths {
            trash: root.join("trash"),
            metadata: root.join("metadata.db"),
            reserve: root.join("reserve"),
        })?;
        Ok(Store { root, snapshots, trash, metadata, sweeper, _lock: lock })
    }

    /// Runs `trial` with an empty folder that is gone afterwards.
    pub fn scratch<T>(&self, trial: impl FnOnce(&OwnedFd) -> Result<T>) -> Result<T> {
        let name = delete::unique(c"scratch")?;
        let failed = |op| move |e: Errno| Error::io(op, self.root.join("trash"), e);
        mkdirat(&self.trash, name.as_c_str(), Mode::RWXU).map_err(failed("mkdir in"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.trash, name.as_c_str(), flags, Mode::empty()).map_err(failed("open folder in"))?;
        let result = trial(&fd);
        self.sweeper.delete(name);
        result
    }

    /// The rows.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The folder of a snapshot.
    pub fn dir(&self, id: i64) -> PathBuf {
        self.root.join("snapshots").join(id.to_string())
    }

    /// Makes a snapshot: `fill` puts into its new, empty folder what belongs there. Nothing is left if it fails.
    pub fn make(&self, making: &Making<'_>, fill: impl FnOnce(&Row, &OwnedFd) -> Result<()>) -> Result<Row> {
        let row = self.metadata.begin(making.key, making.parent, making.kind)?;
        let made = self.folder(row.id).and_then(|fd| fill(&row, &fd)).and_then(|()| self.metadata.ready(row.id));
        self.sweeper.wrote(2);
        match made {
            Ok(()) => Ok(Row { state: State::Ready, ..row }),
            Err(error) => {
                // The first error is the one to tell; a row that stays is dropped when the store is opened next.
                let _ = self.metadata.abandon(row.id);
                self.discard(row.id);
                Err(error)
            }
        }
    }

    fn folder(&self, id: i64) -> Result<OwnedFd> {
        let name = id.to_string();
        let failed = |op| move |e: Errno| Error::io(op, self.dir(id), e);
        mkdirat(&self.snapshots, name.as_str(), Mode::RWXU).map_err(failed("mkdir"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.snapshots, name.as_str(), flags, Mode::empty()).map_err(failed("open folder"))
    }

    /// The active snapshot `key`, fit to be mounted or committed.
    pub fn active(&self, key: &str) -> Result<Row> {
        let row = self.usable(key)?;
        if row.kind != Kind::Active {
            let why = "it is not active".to_owned();
            return Err(Error::FailedPrecondition { key: key.to_owned(), why });
        }
        Ok(row)
    }

    /// The snapshot `key`, unless a crash spoilt it.
    pub fn usable(&self, key: &str) -> Result<Row> {
        let row = self.metadata.get(key)?;
        let why = match row.state {
            State::Ready => return Ok(row),
            State::Preparing => "it is still being made",
            State::Stale => "it was being written when the machine went down; remove it",
            State::Broken => "its files, or those of a layer below it, are gone; remove it",
        };
        Err(Error::FailedPrecondition { key: key.to_owned(), why: why.into() })
    }

    /// The layer a commit puts below: what the snapshot was prepared on, or `named` for one prepared on nothing.
    pub fn parent_at_commit(&self, row: &Row, named: Option<&str>, independent: Independent) -> Result<Option<Row>> {
        match (&row.parent, named, independent) {
            (None, Some(name), Independent::Yes) => self.metadata.parent(name).map(Some),
            (Some((_, parent)), None, _) => self.metadata.parent(parent).map(Some),
            (Some((_, parent)), Some(name), _) if parent == name => self.metadata.parent(parent).map(Some),
            (None, None, _) => Ok(None),
            (own, Some(name), _) => {
                let own = own.as_ref().map_or("nothing", |(_, p)| p.as_str());
                let why = format!("{:?} was prepared on {own}", row.key);
                Err(Error::invalid(format!("parent {name:?}"), why))
            }
        }
    }

    /// Commits: the files are synced before the record says so, and the record before this returns.
    ///
    /// One syncfs(2) for the whole layer: 20,000 files would be 20,000 fsyncs.
    pub fn commit(&self, committing: &Committing<'_>) -> Result<()> {
        let row = committing.row;
        syncfs(&self.snapshots).map_err(|e| Error::io("syncfs", self.dir(row.id), e))?;
        self.metadata.commit(&Commit {
            id: row.id,
            key: &row.key,
            name: committing.name,
            parent: committing.parent.map(|p| p.id),
            opaque: committing.opaque,
        })?;
        self.sweeper.wrote(1);
        Ok(())
    }

    /// Removes a snapshot: the row goes, the folder is renamed away, the sweeper deletes it.
    pub fn remove(&self, key: &str) -> Result<()> {
        let row = match self.metadata.remove(key) {
            // The record needs a page in the WAL; the reserve is there to be spent on it.
            Err(error) if error.is_no_space() => {
                let _ = std::fs::remove_file(self.root.join("reserve"));
                self.metadata.remove(key)
            }
            other => other,
        }?;
        self.sweeper.wrote(1);
        self.discard(row.id);
        Ok(())
    }

    fn discard(&self, id: i64) {
        let Ok(name) = CString::new(id.to_string()) else { return };
        self.trash_folder(&self.snapshots, &name);
    }

    /// Renames `name` in `dir` into the trash and has it deleted. A folder that cannot be renamed is an orphan now, and
    /// goes when the store is opened next.
    pub fn trash_folder(&self, dir: &OwnedFd, name: &CString) {
        if let Ok(gone) = throw(dir, name, &self.trash) {
            self.sweeper.delete(gone);
        }
    }

    /// What a snapshot takes; of a committed one only the first question reads the tree below its folder `files`.
    pub fn usage(&self, key: &str, files: &str) -> Result<Usage> {
        let row = self.metadata.get(key)?;
        if let Some(known) = row.usage {
            return Ok(known);
        }
        let measured = usage::measure(&self.dir(row.id).join(files))?;
        if row.kind == Kind::Committed {
            self.metadata.measured(row.id, measured)?;
        }
        Ok(measured)
    }

    /// What is known about a snapshot.
    pub fn stat(&self, key: &str) -> Result<Info> {
        self.metadata.get(key).map(Row::info)
    }

    /// All snapshots, parents first.
    pub fn walk(&self) -> Result<Vec<Info>> {
        Ok(self.metadata.all()?.into_iter().map(Row::info).collect())
    }
}

/// Whether a snapshotter's layers can be made without their parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Independent {
    /// They are differences, put together when mounted.
    Yes,
    /// Each holds all files, starting with a copy of its parent's.
    No,
}

/// The paths go into an overlay's options, where these characters mean something.
fn check_root(root: &Path) -> Result<()> {
    let bad = |b: &u8| matches!(b, b':' | b',' | b'\\' | b'\n');
    if root.as_os_str().as_encoded_bytes().iter().any(bad) || root.to_str().is_none() {
        let why =
            "a colon, a comma, a backslash or a line break cannot be in a mount's options, and it has to be UTF-8";
        return Err(Error::invalid(format!("snapshot folder {}", root.display()), why));
    }
    Ok(())
}

fn lock(root: &Path) -> Result<OwnedFd> {
    let path = root.join("lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| Error::io("open", &path, e))?;
    match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(fd),
        Err(Errno::WOULDBLOCK) => Err(Error::InUse { root: root.to_owned() }),
        Err(e) => Err(Error::io("lock", &path, e)),
    }
}

/// Makes rows and folders agree; what is left over goes to the trash, which the sweeper empties when it starts.
fn repair(metadata: &Metadata, root: &Path, snapshots: &OwnedFd, trash: &OwnedFd) -> Result<()> {
    let dir = root.join("snapshots");
    let mut folders = HashSet::new();
    let mut strangers = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(|e| Error::io("read folder", &dir, e))? {
        let name = entry.map_err(|e| Error::io("read folder", &dir, e))?.file_name();
        match name.to_str().and_then(|n| n.parse::<i64>().ok()).filter(|id| name.to_str() == Some(&id.to_string())) {
            Some(id) => _ = folders.insert(id),
            None => strangers.push(name.into_encoded_bytes()),
        }
    }
    if metadata.about("boot", boot_id().as_deref())?.is_some_and(|b| Some(b) != boot_id()) {
        metadata.distrust_active()?;
    }
    let kept = metadata.repair(&folders)?;
    let orphans = folders.difference(&kept).map(|id| id.to_string().into_bytes());
    for name in orphans.chain(strangers) {
        let name = CString::new(name).map_err(|_| Error::invalid("file name", "holds a NUL"))?;
        throw(snapshots, &name, trash)
            .map_err(|e| Error::io("move to the trash", dir.join(&*name.to_string_lossy()), e))?;
    }
    Ok(())
}

fn throw(dir: &OwnedFd, name: &CString, trash: &OwnedFd) -> rustix::io::Result<CString> {
    let gone = delete::unique(name).map_err(|_| Errno::INVAL)?;
    renameat(dir.as_fd(), name.as_c_str(), trash.as_fd(), gone.as_c_str())?;
    Ok(gone)
}

/// Which boot this is; none where /proc does not say.
fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

#[cfg(test)]
mod tests;
