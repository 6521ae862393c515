//! Layers nobody wrote: random entries from a vocabulary of trouble, random damage, random bytes.
//!
//! Whatever they are, unpacking ends without a panic and nothing outside the root changes; and two snapshotters that
//! work in different ways show the same files.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cleat_snapshots::apply::{Applied, Limits, Mode, apply, destination};
use cleat_snapshots::conformance::layer::{Entry, Layer};
use cleat_snapshots::mount::{mount_all, unmount_all};
use cleat_snapshots::native::Native;
use cleat_snapshots::overlay::Overlay;
use cleat_snapshots::{Result, Snapshotter};
use proptest::prelude::*;

/// Parts of names: each is somebody's attack, or what an attack needs to stand on.
const PARTS: &[&str] =
    &["a", "b", "c", "..", ".", "", "a", "b", ".wh.a", ".wh.b", ".wh..wh..opq", ".wh.", ".wh...", "OUTSIDE"];

const KINDS: &[u8] = b"0012345670xLKgS5512V";

fn temporary() -> tempfile::TempDir {
    // Memory, where there is some to be had: thousands of small trees are made.
    if Path::new("/dev/shm").is_dir() { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() }.unwrap()
}

fn path() -> impl Strategy<Value = String> {
    let parts = prop::collection::vec(prop::sample::select(PARTS), 0..5);
    (any::<bool>(), parts)
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

fn entry() -> impl Strategy<Value = Entry> {
    let numbers = (any::<u16>(), 0_u32..3, prop::option::weighted(0.1, 0_u64..2000));
    (prop::sample::select(KINDS), path(), path(), numbers, prop::collection::vec(any::<u8>(), 0..600)).prop_map(
        |(kind, name, link, (mode, owner, size), data)| Entry {
            link: link.into_bytes(),
            mode: u32::from(mode),
            owner: (owner, owner),
            size,
            device: (owner, owner),
            data: if matches!(kind, b'0' | b'7' | b'x' | b'L' | b'K' | b'g') { data } else { Vec::new() },
            ..Entry::new(kind, &name)
        },
    )
}

fn layer() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(entry(), 1..14)
}

fn written(entries: &[Entry], outside: &str) -> Layer {
    let put = |text: &[u8]| String::from_utf8_lossy(text).replace("OUTSIDE", outside).into_bytes();
    entries.iter().fold(Layer::new(), |layer, entry| {
        layer.entry(&Entry { name: put(&entry.name), link: put(&entry.link), ..entry.clone() })
    })
}

/// What can be seen below a folder: kind, mode, owner, size or content, and the target of links.
type Seen = BTreeMap<PathBuf, (u32, u32, u32, Vec<u8>)>;

fn seen(top: &Path) -> Seen {
    let mut out = Seen::new();
    let mut pending = vec![top.to_owned()];
    while let Some(path) = pending.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = if stat.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if stat.is_file() {
            fs::read(&path).unwrap()
        } else {
            stat.rdev().to_le_bytes().to_vec()
        };
        if stat.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let name = path.strip_prefix(top).unwrap().to_owned();
        out.insert(name, (stat.mode(), stat.uid(), stat.gid(), content));
    }
    out
}

/// Unpacks `bytes` beside a folder that has to stay as it is.
fn unpack(dir: &Path, bytes: &[u8], mode: Mode) -> Result<Applied> {
    let (root, outside) = (dir.join("root"), dir.join("outside"));
    let before = seen(&outside);
    let limits = Limits { max_bytes: 1 << 20, max_entries: 64, ..Limits::default() };
    let result = apply(bytes, &root, mode, &limits);
    assert_eq!(seen(&outside), before, "something outside changed");
    let names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "something was made beside the root: {names:?}");
    result
}

fn jail() -> tempfile::TempDir {
    let dir = temporary();
    fs::create_dir(dir.path().join("root")).unwrap();
    fs::create_dir_all(dir.path().join("outside/a/b")).unwrap();
    fs::write(dir.path().join("outside/a/c"), "secret").unwrap();
    fs::write(dir.path().join("outside/b"), "secret").unwrap();
    dir
}

fn skipped(name: &str) -> bool {
    let skip = !rustix::process::geteuid().is_root();
    if skip {
        println!("SKIP {name}: not root");
    }
    skip
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn entries_nobody_would_write(first in layer(), second in layer(), merged in any::<bool>()) {
        if skipped("entries_nobody_would_write") { return Ok(()); }
        let dir = jail();
        let outside = dir.path().join("outside").to_str().unwrap().to_owned();
        let mode = if merged { Mode::Merged } else { Mode::Overlay };
        // One after the other on the same root: the second meets the links the first left.
        for entries in [first, second] {
            let _ = unpack(dir.path(), &written(&entries, &outside).bytes(), mode);
        }
    }

    #[test]
    fn damaged_archives(entries in layer(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
                        cut in prop::option::of(any::<prop::sample::Index>()), mend in any::<bool>()) {
        if skipped("damaged_archives") { return Ok(()); }
        let dir = jail();
        let mut bytes = written(&entries, "/nowhere").bytes();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
            if mend {
                mend_checksum(&mut bytes, at);
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = unpack(dir.path(), &bytes, Mode::Overlay);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..4096), mend in any::<bool>()) {
        if skipped("any_bytes") { return Ok(()); }
        let dir = jail();
        let mut bytes = bytes;
        for at in (0..bytes.len()).step_by(512).filter(|_| mend) {
            mend_checksum(&mut bytes, at);
        }
        let _ = unpack(dir.path(), &bytes, Mode::Merged);
    }
}

/// Makes the block around `at` a header whose sum is right.
fn mend_checksum(bytes: &mut [u8], at: usize) {
    let start = at / 512 * 512;
    let Some(block) = bytes.get_mut(start..start + 512) else { return };
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Entries both snapshotters have to agree on. Not hard links to what another layer has, nor paths through another
/// layer's links: a layer of differences cannot see those.
fn honest() -> impl Strategy<Value = Vec<Entry>> {
    let names = ["a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/a/b", "c", "b/c/a"];
    let plain = (prop::sample::select(names.to_vec()), prop::sample::select(&b"0055"[..]), 0_u32..3, any::<u8>())
        .prop_map(|(name, kind, owner, data)| Entry {
            owner: (owner, owner),
            data: if kind == b'0' { vec![data; 10] } else { Vec::new() },
            ..Entry::new(kind, name)
        });
    let link =
        prop::sample::select(vec!["l", "a/l"]).prop_map(|name| Entry { link: b"a".to_vec(), ..Entry::new(b'2', name) });
    let gone = [
        ".wh.a",
        ".wh.b",
        "a/.wh.a",
        "a/.wh.b",
        "b/.wh.c",
        ".wh.l",
        "a/.wh..wh..opq",
        ".wh..wh..opq",
        "a/a/.wh..wh..opq",
    ];
    let gone = prop::sample::select(gone.to_vec()).prop_map(|name| Entry::new(b'0', name));
    prop::collection::vec(prop_oneof![4 => plain, 1 => link, 2 => gone], 1..8)
}

/// Unmounted when dropped, also by a panic.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        unmount_all(self.0).unwrap();
    }
}

fn shown(s: &dyn Snapshotter, key: &str, layers: &[Layer], target: &Path) -> Option<Seen> {
    let mut parent: Option<String> = None;
    for (i, layer) in layers.iter().enumerate() {
        let early = if s.independent_layers() { None } else { parent.as_deref() };
        let active = format!("{key} active {i}");
        let mounts = s.prepare(&active, early).unwrap();
        let (root, mode) = destination(s, &mounts).unwrap();
        let applied = apply(layer.bytes().as_slice(), &root, mode, &Limits::default());
        if applied.is_err() {
            return None;
        }
        let name = format!("{key} layer {i}");
        s.commit(&name, &active, parent.as_deref()).unwrap();
        parent = Some(name);
    }
    let mounts = s.view(&format!("{key} view"), parent.as_deref()).unwrap();
    mount_all(&mounts, target).unwrap();
    let _mounted = Mounted(target);
    Some(seen(target))
}

#[test]
fn two_snapshotters_show_the_same() {
    if skipped("two_snapshotters_show_the_same") {
        return;
    }
    let dir = temporary();
    let overlay = Overlay::open(&dir.path().join("overlay")).unwrap();
    let native = Native::open(&dir.path().join("native")).unwrap();
    let target = dir.path().join("mnt");
    fs::create_dir(&target).unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(150)
    });
    let count = std::cell::Cell::new((0, 0));
    let layers = prop::collection::vec(honest(), 2..4);
    runner
        .run(&layers, |layers| {
            let (case, compared) = count.get();
            count.set((case + 1, compared));
            let layers: Vec<Layer> = layers.iter().map(|entries| written(entries, "")).collect();
            let key = format!("case {case}");
            let one = shown(&overlay, &key, &layers, &target);
            let other = shown(&native, &key, &layers, &target);
            prop_assert_eq!(&one, &other);
            count.set((case + 1, compared + usize::from(one.is_some())));
            Ok(())
        })
        .unwrap();
    let (cases, compared) = count.get();
    println!("{compared} of {cases} were layers both took");
    assert!(compared > cases / 4, "{compared} of {cases}: the generator makes too little sense");
}
