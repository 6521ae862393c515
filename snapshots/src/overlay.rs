//! The overlay snapshotter: a layer is a folder of differences, overlayfs puts them together.
//!
//! ```text
//! snapshots/ID/    0700
//!   fs/            the files; the mode and owner of the container's root folder are its own
//!   work/          overlayfs's own; only for an active snapshot on a parent
//! ```
//! Layers are independent: each is unpacked without its parent, so that several are at once. What then depends on the
//! parent (see [`implied`](crate::apply)) is settled by `commit`.
//!
//! A layer whose top folder is opaque hides all layers below it. overlayfs heeds that mark everywhere but at the top
//! (the top is always merged), so the chain is cut there instead.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, fgetxattr, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsopen};

use crate::apply::implied;
use crate::error::{Error, Result};
use crate::metadata::Row;
use crate::mount::Mount;
use crate::snapshotter::{Info, Kind, Snapshotter, Usage};
use crate::store::{Committing, Independent, Making, Store};
use crate::tree::open_folder;

/// The mark of a folder that hides what lower layers have in it (overlayfs.rst, "whiteouts and opaque directories").
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// The overlay snapshotter.
pub struct Overlay {
    store: Store,
    /// Options every overlay gets.
    options: Vec<String>,
    /// Options a writable one gets besides.
    writable: Vec<String>,
}

impl Overlay {
    /// Opens the store at `root`, making it if it is not there; repairs what a crash left.
    ///
    /// # Errors
    /// `InUse` while another process has it open, `Invalid` for a path overlayfs cannot take or a filesystem that cannot
    /// carry one, `Corrupt` for metadata another version wrote.
    pub fn open(root: &Path) -> Result<Self> {
        let store = Store::open(root, "overlay")?;
        let volatile = probe(&store)?;
        let writable = volatile.then(|| "volatile".to_owned()).into_iter().collect();
        Ok(Overlay { store, options: module_options(), writable })
    }

    fn files(&self, id: i64) -> PathBuf {
        self.store.dir(id).join("fs")
    }

    fn make(&self, making: &Making<'_>) -> Result<Vec<Mount>> {
        let row = self.store.make(making, |row, dir| self.fill(row, dir))?;
        self.mounts_of(&row)
    }

    /// The top folder looks like the parent's: it is what the container sees as `/`.
    fn fill(&self, row: &Row, dir: &OwnedFd) -> Result<()> {
        let failed = |op| move |e: Errno| Error::io(op, self.files(row.id), e);
        if row.kind == Kind::View && row.parent.is_some() {
            return Ok(());
        }
        mkdirat(dir, "fs", Mode::from_raw_mode(0o755)).map_err(failed("mkdir"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = openat(dir, "fs", flags, Mode::empty()).map_err(failed("open folder"))?;
        let Some((parent, _)) = &row.parent else {
            return fchmod(&top, Mode::from_raw_mode(0o755)).map_err(failed("chmod"));
        };
        let like = open_folder(&self.files(*parent)).and_then(|fd| fstat(&fd).map_err(failed("stat")))?;
        fchown(&top, Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid))).map_err(failed("chown"))?;
        fchmod(&top, Mode::from_raw_mode(like.st_mode)).map_err(failed("chmod"))?;
        mkdirat(dir, "work", Mode::from_raw_mode(0o711)).map_err(failed("mkdir"))
    }

    fn mounts_of(&self, row: &Row) -> Result<Vec<Mount>> {
        let lower: Vec<String> =
            self.store.metadata().chain(row)?.into_iter().map(|id| text(&self.files(id))).collect();
        Ok(vec![match (row.kind, lower.as_slice()) {
            (Kind::Active, []) => bind(text(&self.files(row.id)), "rw"),
            (Kind::Active, lower) => {
                let dir = self.store.dir(row.id);
                let paths = [
                    format!("workdir={}", text(&dir.join("work"))),
                    format!("upperdir={}", text(&dir.join("fs"))),
                    format!("lowerdir={}", lower.join(":")),
                ];
                overlay(self.options.iter().chain(&self.writable).cloned().chain(paths).collect())
            }
            (_, []) => bind(text(&self.files(row.id)), "ro"),
            (_, [one]) => bind(one.clone(), "ro"),
            (_, lower) => {
                let layers = format!("lowerdir={}", lower.join(":"));
                overlay(self.options.iter().cloned().chain(["ro".to_owned(), layers]).collect())
            }
        }])
    }

    /// Lets a snapshot that was mounted `volatile` before be mounted again in this boot: its files are in the page
    /// cache, so nothing was lost (overlayfs.rst, "Volatile mount"). After a reboot the snapshot is stale instead.
    fn clear_volatile(&self, row: &Row) -> Result<()> {
        let mark = self.store.dir(row.id).join("work/work/incompat/volatile");
        match rustix::fs::unlink(mark.join("dirty")).and_then(|()| rustix::fs::rmdir(&mark)) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(Error::io("remove", &mark, e)),
        }
    }
}

impl Snapshotter for Overlay {
    fn prepare(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
        self.make(&Making { key, parent, kind: Kind::Active })
    }

    fn view(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
        self.make(&Making { key, parent, kind: Kind::View })
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let row = self.store.usable(key)?;
        match row.kind {
            Kind::Committed => {
                Err(Error::FailedPrecondition { key: key.to_owned(), why: "it is committed; make a view of it".into() })
            }
            Kind::Active => self.clear_volatile(&row).and_then(|()| self.mounts_of(&row)),
            Kind::View => self.mounts_of(&row),
        }
    }

    fn commit(&self, name: &str, key: &str, parent: Option<&str>) -> Result<()> {
        let row = self.store.active(key)?;
        let parent = self.store.parent_at_commit(&row, parent, Independent::Yes)?;
        if name != key && self.store.stat(name).is_ok() {
            return Err(Error::AlreadyExists { key: name.to_owned() });
        }
        let top = open_folder(&self.files(row.id))?;
        let below = parent.as_ref().map_or(Ok(Vec::new()), |p| self.store.metadata().chain_from(p.id))?;
        let below: Vec<PathBuf> = below.into_iter().map(|id| self.files(id)).collect();
        implied::settle(&top, &below)?;
        let opaque = is_opaque(top.as_fd()).map_err(|e| Error::io("getxattr", self.files(row.id), e))?;
        self.store.commit(&Committing { row: &row, name, parent: parent.as_ref(), opaque })?;
        if row.parent.is_some()
            && let Ok(dir) = open_folder(&self.store.dir(row.id))
        {
            self.store.trash_folder(&dir, &CString::from(c"work"));
        }
        Ok(())
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
        true
    }
}

/// Whether a folder has that mark.
pub(crate) fn is_opaque(folder: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mut value = [0; 8];
    match fgetxattr(folder, OPAQUE, &mut value[..]) {
        Ok(n) => Ok(value.get(..n) == Some(b"y")),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(e) => Err(e),
    }
}

fn bind(source: String, access: &str) -> Mount {
    Mount { kind: "bind".into(), source, target: None, options: vec![access.into(), "rbind".into()] }
}

fn overlay(options: Vec<String>) -> Mount {
    Mount { kind: "overlay".into(), source: "overlay".into(), target: None, options }
}

/// The root was checked to be UTF-8 and free of what an option string gives a meaning to.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// `index=off`: a layer belongs to many mounts at once. `metacopy=off` where the host has it on: a file whose content
/// stays in a lower layer is no layer's content. Hosts without the feature would refuse the word.
fn module_options() -> Vec<String> {
    let parameter = |name: &str| std::fs::read_to_string(format!("/sys/module/overlay/parameters/{name}")).ok();
    let index = parameter("index").map(|_| "index=off".to_owned());
    let metacopy = parameter("metacopy").filter(|v| v.starts_with('Y')).map(|_| "metacopy=off".to_owned());
    index.into_iter().chain(metacopy).collect()
}

/// Makes an overlay that is never mounted, to learn whether the filesystem can carry one and takes `volatile`
/// (Linux 5.10). Whether it does.
fn probe(store: &Store) -> Result<bool> {
    store.scratch(|dir| {
        let folders = ["lower", "upper", "work"];
        let failed = |op| move |e: Errno| Error::io(op, "scratch folder", e);
        folders.iter().try_for_each(|name| mkdirat(dir, *name, Mode::RWXU)).map_err(failed("mkdir in"))?;
        let attempt = |flags: &[&str]| -> rustix::io::Result<()> {
            let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
            for name in folders {
                // By descriptor: fsconfig(2) takes no more than 255 bytes.
                let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
                fsconfig_set_string(fs.as_fd(), format!("{name}dir"), path)?;
            }
            flags.iter().try_for_each(|flag| fsconfig_set_flag(fs.as_fd(), *flag))?;
            fsconfig_create(fs.as_fd())
        };
        match attempt(&["volatile"]) {
            Ok(()) => Ok(true),
            Err(_) => attempt(&[]).map(|()| false).map_err(failed("try an overlay in")),
        }
    })
}
