//! The suite every snapshotter passes: what the daemon relies on, whoever implements it.
//!
//! Call [`suite`] from a test, as root, with a function that opens the snapshotter at a folder. Each case gets a folder
//! of its own and checks through real mounts what a container would see.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test suite: it reports by panicking")]

mod cases;
pub mod layer;

use std::fs;
use std::path::{Path, PathBuf};

use crate::apply::{self, Limits};
use crate::error::Result;
use crate::mount::{Mount, mount_all, unmount_all};
use crate::snapshotter::Snapshotter;
use layer::Layer;

/// Opens a snapshotter at a folder; called again on the same folder once the first is dropped.
pub type Factory<'a> = &'a (dyn Fn(&Path) -> Result<Box<dyn Snapshotter>> + Sync);

/// Runs every case on snapshotters of `factory`, in folders below `scratch`, which has to be empty.
///
/// # Panics
/// When a case fails, naming it.
pub fn suite(scratch: &Path, factory: Factory<'_>) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP conformance: not root");
        return;
    }
    for (name, case) in cases::ALL {
        println!("case {name}");
        let mut bench = Bench::new(scratch.join(name), factory);
        case(&mut bench);
        bench.finish(name);
    }
}

/// A snapshotter, and folders to mount its snapshots on.
struct Bench<'a> {
    dir: PathBuf,
    factory: Factory<'a>,
    open: Option<Box<dyn Snapshotter>>,
}

impl<'a> Bench<'a> {
    fn new(dir: PathBuf, factory: Factory<'a>) -> Self {
        fs::create_dir(&dir).unwrap();
        let open = Some(factory(&dir.join("store")).unwrap());
        Bench { dir, factory, open }
    }

    fn s(&self) -> &dyn Snapshotter {
        self.open.as_deref().expect("the snapshotter is open")
    }

    /// Closes the snapshotter and opens it again.
    fn reopen(&mut self) {
        self.open = None;
        self.open = Some((self.factory)(&self.dir.join("store")).unwrap());
    }

    /// A mount point of that name.
    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Unpacks and commits a layer, the way a pull does.
    fn layer(&self, name: &str, parent: Option<&str>, layer: &Layer) {
        let key = format!("unpack {name}");
        let s = self.s();
        let early = if s.independent_layers() { None } else { parent };
        let mounts = s.prepare(&key, early).unwrap();
        self.unpack(&mounts, layer);
        s.commit(name, &key, parent).unwrap();
    }

    fn unpack(&self, mounts: &[Mount], layer: &Layer) {
        let limits = Limits::default();
        if let Some((root, mode)) = apply::destination(self.s(), mounts) {
            apply::apply(layer.bytes().as_slice(), &root, mode, &limits).unwrap();
            return;
        }
        let target = self.dir("unpack");
        mount_all(mounts, &target).unwrap();
        apply::apply(layer.bytes().as_slice(), &target, apply::Mode::Merged, &limits).unwrap();
        unmount_all(&target).unwrap();
    }

    /// Mounts, lets `look` look, unmounts.
    fn mounted<T>(&self, mounts: &[Mount], look: impl FnOnce(&Path) -> T) -> T {
        let target = self.dir("mnt");
        mount_all(mounts, &target).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(&target)));
        unmount_all(&target).unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Looks at a layer through a view.
    fn viewed<T>(&self, name: &str, look: impl FnOnce(&Path) -> T) -> T {
        let mounts = self.s().view("look", Some(name)).unwrap();
        let result = self.mounted(&mounts, look);
        self.s().remove("look").unwrap();
        result
    }

    /// Nothing may be left mounted.
    fn finish(&self, name: &str) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.dir.to_str().unwrap();
        let left: Vec<&str> = table.lines().filter(|l| l.contains(here)).collect();
        assert!(left.is_empty(), "{name} left mounts: {left:?}");
    }
}
