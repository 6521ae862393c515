//! A process that is killed at any moment leaves a store that opens, with every layer whole or absent.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cleat_snapshots::apply::{Limits, apply, destination};
use cleat_snapshots::conformance::layer::Layer;
use cleat_snapshots::native::Native;
use cleat_snapshots::overlay::Overlay;
use cleat_snapshots::{Kind, Snapshotter};

/// Tells the child where to work, and which snapshotter to use.
const WHERE: &str = "CLEAT_TEST_CRASH_STORE";
const WHICH: &str = "CLEAT_TEST_CRASH_KIND";

const FILES: usize = 20;
const ROUNDS: u64 = 25;

fn open(which: &str, root: &Path) -> Box<dyn Snapshotter> {
    match which {
        "overlay" => Box::new(Overlay::open(root).unwrap()),
        _ => Box::new(Native::open(root).unwrap()),
    }
}

/// The process that gets killed: does everything there is to do, in a circle. As a test of its own it does nothing.
#[test]
fn victim() {
    let (Some(root), Ok(which)) = (std::env::var_os(WHERE), std::env::var(WHICH)) else { return };
    let s = open(&which, Path::new(&root));
    let round = std::process::id();
    for i in 0.. {
        let (key, name) = (format!("{round} unpack {i}"), format!("{round} layer {i}"));
        let mounts = s.prepare(&key, None).unwrap();
        let layer = (0..FILES).fold(Layer::new(), |layer, f| layer.file(&format!("d/f{f}"), vec![f as u8; 3000]));
        let (root, mode) = destination(s.as_ref(), &mounts).unwrap();
        apply(layer.bytes().as_slice(), &root, mode, &Limits::default()).unwrap();
        s.commit(&name, &key, None).unwrap();
        for c in 0..3 {
            s.prepare(&format!("{name} container {c}"), Some(&name)).unwrap();
        }
        s.view(&format!("{name} view"), Some(&name)).unwrap();
        s.remove(&format!("{name} container 0")).unwrap();
        s.remove(&format!("{name} view")).unwrap();
        if i % 2 == 0 {
            s.remove(&format!("{name} container 1")).unwrap();
            s.remove(&format!("{name} container 2")).unwrap();
            s.remove(&name).unwrap();
        }
    }
}

fn files(s: &dyn Snapshotter, name: &str) -> usize {
    let mounts = s.view("check", Some(name)).unwrap();
    let dir = PathBuf::from(&mounts[0].source).join("d");
    let whole = |f: &usize| fs::read(dir.join(format!("f{f}"))).is_ok_and(|data| data == vec![*f as u8; 3000]);
    let count = (0..FILES).filter(whole).count();
    s.remove("check").unwrap();
    count
}

fn check(s: &dyn Snapshotter, root: &Path) {
    let all = s.walk().unwrap();
    for info in &all {
        match info.kind {
            Kind::Committed => assert_eq!(files(s, &info.name), FILES, "{} is not whole", info.name),
            _ => {
                for mount in s.mounts(&info.name).unwrap() {
                    let paths = mount.options.iter().filter_map(|o| o.split_once("dir=")).map(|(_, p)| p.to_owned());
                    for path in paths.chain((mount.kind == "bind").then_some(mount.source)) {
                        assert!(path.split(':').all(|p| Path::new(p).is_dir()), "{path}");
                    }
                }
            }
        }
    }
    let folders = fs::read_dir(root.join("snapshots")).unwrap().count();
    assert_eq!(folders, all.len(), "folders and rows disagree");
}

fn killed_again_and_again(which: &str) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP killed_again_and_again: not root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["victim", "--exact"])
            .env(WHERE, &root)
            .env(WHICH, which)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Not before it has begun, and then at another moment each time.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !root.join("metadata.db").exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(3_000 + round * 7_919 % 240_000));
        assert_eq!(child.try_wait().unwrap(), None, "the victim died by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        let s = open(which, &root);
        check(s.as_ref(), &root);
    }
    let s = open(which, &root);
    let mut left = s.walk().unwrap();
    println!("{which}: {} snapshots after {ROUNDS} kills", left.len());
    assert!(!left.is_empty(), "the victims never got anywhere");
    left.reverse();
    for info in left {
        s.remove(&info.name).unwrap();
    }
    assert_eq!(s.walk().unwrap(), []);
}

#[test]
fn overlay_killed_again_and_again() {
    killed_again_and_again("overlay");
}

#[test]
fn native_killed_again_and_again() {
    killed_again_and_again("native");
}
