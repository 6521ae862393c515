//! A snapshotter on the bench: a folder of its own, mounts that come and go.

use std::fs;
use std::path::{Path, PathBuf};

use crate::apply::{self, Limits};
use crate::conformance::Factory;
use crate::conformance::layer::Layer;
use crate::mount::{Mount, mount_all, unmount_all};
use crate::snapshotter::Snapshotter;

/// A snapshotter, and folders to mount its snapshots on.
pub(crate) struct Bench<'a> {
    /// Where everything of this case is.
    pub dir: PathBuf,
    factory: Factory<'a>,
    open: Option<Box<dyn Snapshotter>>,
}

impl<'a> Bench<'a> {
    /// Opens a snapshotter below `dir`, which is made.
    pub fn new(dir: PathBuf, factory: Factory<'a>) -> Self {
        fs::create_dir(&dir).unwrap();
        let open = Some(factory(&dir.join("store")).unwrap());
        Bench { dir, factory, open }
    }

    /// The snapshotter.
    pub fn s(&self) -> &dyn Snapshotter {
        self.open.as_deref().expect("the snapshotter is open")
    }

    /// Closes the snapshotter and opens it again.
    pub fn reopen(&mut self) {
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
    pub fn layer(&self, name: &str, parent: Option<&str>, layer: &Layer) {
        let key = format!("unpack {name}");
        let s = self.s();
        let early = if s.independent_layers() { None } else { parent };
        let mounts = s.prepare(&key, early).unwrap();
        self.unpack(&mounts, layer);
        s.commit(name, &key, parent).unwrap();
    }

    /// Unpacks a layer into a prepared snapshot.
    pub fn unpack(&self, mounts: &[Mount], layer: &Layer) {
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
    pub fn mounted<T>(&self, mounts: &[Mount], look: impl FnOnce(&Path) -> T) -> T {
        let target = self.dir("mnt");
        mount_all(mounts, &target).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(&target)));
        unmount_all(&target).unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Looks at a layer through a view.
    pub fn viewed<T>(&self, name: &str, look: impl FnOnce(&Path) -> T) -> T {
        let mounts = self.s().view("look", Some(name)).unwrap();
        let result = self.mounted(&mounts, look);
        self.s().remove("look").unwrap();
        result
    }

    /// Nothing may be left mounted.
    pub fn finish(&self, name: &str) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.dir.to_str().unwrap();
        let left: Vec<&str> = table.lines().filter(|l| l.contains(here)).collect();
        assert!(left.is_empty(), "{name} left mounts: {left:?}");
    }
}

/// A file's text, or why there is none.
pub(super) fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path.as_ref()).unwrap_or_else(|e| format!("{}: {e}", path.as_ref().display()))
}

/// What is in a folder, sorted.
pub(super) fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
