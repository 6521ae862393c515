//! A power cut right after `commit` returns: the layer is there, whole.
//!
//! The store lies on an ext4 in a file. A copy of that file, taken while it is mounted, is what a disk would hold if the
//! power went: what the kernel has not written out is not in it. Mounting the copy replays the journal, as a boot does.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cleat_snapshots::apply::{Limits, apply, destination};
use cleat_snapshots::conformance::layer::Layer;
use cleat_snapshots::mount::unmount_all;
use cleat_snapshots::native::Native;
use cleat_snapshots::overlay::Overlay;
use cleat_snapshots::{Kind, Snapshotter};

const FILES: usize = 30;

/// A filesystem in a file, mounted; unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(image: &Path, target: PathBuf) -> Option<Self> {
        fs::create_dir(&target).unwrap();
        run("mount", &["-o", "loop", image.to_str()?, target.to_str()?]).then(|| Disk(target))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount_all(&self.0).unwrap();
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|o| o.status.success())
}

fn open(which: &str, root: &Path) -> Box<dyn Snapshotter> {
    match which {
        "overlay" => Box::new(Overlay::open(root).unwrap()),
        _ => Box::new(Native::open(root).unwrap()),
    }
}

fn unpack(s: &dyn Snapshotter, name: &str, parent: Option<&str>) {
    let key = format!("unpack {name}");
    let mounts = s.prepare(&key, parent.filter(|_| !s.independent_layers())).unwrap();
    let (root, mode) = destination(s, &mounts).unwrap();
    let layer = (0..FILES).fold(Layer::new(), |l, f| l.file(&format!("{name}/f{f}"), vec![f as u8 + 1; 9000]));
    apply(layer.bytes().as_slice(), &root, mode, &Limits::default()).unwrap();
    s.commit(name, &key, parent).unwrap();
}

fn whole(s: &dyn Snapshotter, name: &str) -> bool {
    let mounts = s.view("check", Some(name)).unwrap();
    let layers = mounts[0].options.iter().find_map(|o| o.strip_prefix("lowerdir="));
    let top = layers.map_or(mounts[0].source.as_str(), |l| l.split(':').next().unwrap());
    let dir = Path::new(top).join(name);
    let good = |f: usize| fs::read(dir.join(format!("f{f}"))).is_ok_and(|data| data == vec![f as u8 + 1; 9000]);
    let all = (0..FILES).all(good);
    s.remove("check").unwrap();
    all
}

fn cut_after_each_commit(which: &str) {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    fs::File::create(&image).unwrap().set_len(96 << 20).unwrap();
    let made = run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
    let disk = made.then(|| Disk::mount(&image, dir.path().join("disk"))).flatten();
    let Some(disk) = disk else {
        println!("SKIP cut_after_each_commit: no mkfs.ext4, no loop devices or not root");
        return;
    };
    let s = open(which, &disk.0.join("store"));
    let mut names: Vec<String> = Vec::new();
    for i in 0..4 {
        let name = format!("layer{i}");
        unpack(s.as_ref(), &name, names.last().map(String::as_str));
        names.push(name);
        // Nobody syncs these, and nobody misses them.
        s.prepare(&format!("container{i}"), names.last().map(String::as_str)).unwrap();

        let copy = dir.path().join("copy");
        fs::copy(&image, &copy).unwrap();
        let after = Disk::mount(&copy, dir.path().join(format!("after{i}"))).unwrap();
        let again = open(which, &after.0.join("store"));
        let listed: Vec<String> =
            again.walk().unwrap().into_iter().filter(|i| i.kind == Kind::Committed).map(|i| i.name).collect();
        assert_eq!(listed, names, "layers after the power cut");
        for name in &names {
            assert!(whole(again.as_ref(), name), "{name} is not whole");
        }
        // The store is not only readable.
        unpack(again.as_ref(), "new", Some(&names[i]));
        drop(again);
        drop(after);
        fs::remove_file(&copy).unwrap();
    }
    drop(s);
}

#[test]
fn overlay() {
    cut_after_each_commit("overlay");
}

#[test]
fn native() {
    cut_after_each_commit("native");
}
