//! What the overlay snapshotter costs: `measure FOLDER`, as root. Prints; asserts nothing.

#![expect(clippy::unwrap_used, reason = "a measurement, run by hand")]

use std::path::Path;
use std::time::{Duration, Instant};

use cleat_snapshots::Snapshotter;
use cleat_snapshots::apply::{Limits, apply, destination};
use cleat_snapshots::conformance::layer::Layer;
use cleat_snapshots::mount::{mount_all, open_detached, unmount_all};
use cleat_snapshots::overlay::Overlay;

const ROUNDS: usize = 1000;
const FILES: usize = 20_000;

fn main() {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "/var/tmp".to_owned());
    let dir = tempfile::tempdir_in(dir).unwrap();
    let s = Overlay::open(&dir.path().join("store")).unwrap();
    layers(&s);
    pods(&s, dir.path());
    files(&s);
}

fn layers(s: &Overlay) {
    for i in 0..8 {
        let mounts = s.prepare("unpack", None).unwrap();
        let (root, mode) = destination(s, &mounts).unwrap();
        let layer = Layer::new().folder("etc", 0o755).file(&format!("etc/{i}"), "x");
        apply(layer.bytes().as_slice(), &root, mode, &Limits::default()).unwrap();
        let parent = (i > 0).then(|| format!("layer{}", i - 1));
        s.commit(&format!("layer{i}"), "unpack", parent.as_deref()).unwrap();
    }
}

/// A pod's root filesystem: prepared, looked into, mounted, unmounted, removed.
fn pods(s: &Overlay, dir: &Path) {
    let target = dir.join("mnt");
    std::fs::create_dir(&target).unwrap();
    let names = ["prepare", "mounts", "detached", "mount", "unmount", "remove"];
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); names.len()];
    for i in 0..ROUNDS {
        let key = format!("container {i}");
        let mut step = 0;
        let mut timed = |call: &mut dyn FnMut()| {
            let start = Instant::now();
            call();
            times[step].push(start.elapsed());
            step += 1;
        };
        let mut mounts = Vec::new();
        timed(&mut || mounts = s.prepare(&key, Some("layer7")).unwrap());
        timed(&mut || drop(s.mounts(&key).unwrap()));
        timed(&mut || drop(open_detached(&mounts).unwrap()));
        timed(&mut || mount_all(&mounts, &target).unwrap());
        timed(&mut || unmount_all(&target).unwrap());
        timed(&mut || s.remove(&key).unwrap());
    }
    for (name, times) in names.iter().zip(&mut times) {
        times.sort();
        let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize];
        println!("{name:9} p50 {:?} p99 {:?} max {:?}", at(0.5), at(0.99), at(1.0));
    }
}

/// Many small files, then a few large ones.
fn files(s: &Overlay) {
    let many = (0..FILES).fold(Layer::new(), |layer, i| {
        let layer = if i % 50 == 0 { layer.folder(&format!("usr/lib/d{}", i / 50), 0o755) } else { layer };
        layer.file(&format!("usr/lib/d{}/file{i}", i / 50), [7; 8192])
    });
    let large = (0..4).fold(Layer::new(), |layer, i| layer.file(&format!("large{i}"), vec![7; 64 << 20]));
    for (name, layer) in [("small", many.bytes()), ("large", large.bytes())] {
        let mounts = s.prepare(name, None).unwrap();
        let (root, mode) = destination(s, &mounts).unwrap();
        let start = Instant::now();
        let applied = apply(layer.as_slice(), &root, mode, &Limits::default()).unwrap();
        let unpacked = start.elapsed();
        let start = Instant::now();
        s.commit(&format!("{name} layer"), name, Some("layer7")).unwrap();
        let committed = start.elapsed();
        let start = Instant::now();
        let usage = s.usage(&format!("{name} layer")).unwrap();
        println!(
            "{name}: {:.0} files/s, {:.0} MB/s; commit {committed:?}; usage {:?} of {usage:?}",
            applied.entries as f64 / unpacked.as_secs_f64(),
            applied.bytes as f64 / 1e6 / unpacked.as_secs_f64(),
            start.elapsed(),
        );
        let start = Instant::now();
        s.remove(&format!("{name} layer")).unwrap();
        println!("{name}: remove {:?}", start.elapsed());
    }
}
