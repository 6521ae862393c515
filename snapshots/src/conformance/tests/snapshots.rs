//! What a snapshotter's calls do, one by one and all at once.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::bench::{Bench, names, read};
use crate::conformance::layer::{Entry, Layer};
use crate::error::Error;
use crate::mount::{open_detached, read_in_root};
use crate::snapshotter::Kind;

pub(super) fn view(b: &mut Bench<'_>) {
    b.layer("one", None, &Layer::new().file("a", "1"));
    b.layer("two", Some("one"), &Layer::new().file("b", "2"));
    for parent in [None, Some("one"), Some("two")] {
        let mounts = b.s().view("v", parent).unwrap();
        b.mounted(&mounts, |top| {
            let error = fs::write(top.join("new"), "").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EROFS), "view of {parent:?}");
        });
        assert_eq!(b.s().mounts("v").unwrap(), mounts);
        assert!(matches!(b.s().commit("layer", "v", None), Err(Error::FailedPrecondition { .. })));
        b.s().remove("v").unwrap();
    }
}

pub(super) fn writable(b: &mut Bench<'_>) {
    b.layer("base", None, &Layer::new().folder("etc", 0o755).file("etc/hosts", "base").file("gone", "x"));
    for (key, parent) in [("on nothing", None), ("on base", Some("base"))] {
        let mounts = b.s().prepare(key, parent).unwrap();
        for round in 0..2 {
            // A second mount of the same snapshot sees what the first left, as a retried start does.
            b.mounted(&b.s().mounts(key).unwrap(), |top| {
                assert_eq!(top.join("round0").exists(), round == 1);
                fs::write(top.join(format!("round{round}")), key).unwrap();
            });
        }
        assert_eq!(b.s().mounts(key).unwrap(), mounts);
    }
    let mounts = b.s().mounts("on base").unwrap();
    b.mounted(&mounts, |top| {
        fs::remove_file(top.join("gone")).unwrap();
        fs::write(top.join("etc/hosts"), "changed").unwrap();
    });
    b.s().commit("changed", "on base", None).unwrap();
    assert!(matches!(b.s().mounts("on base"), Err(Error::NotFound { .. })));
    assert!(matches!(b.s().mounts("changed"), Err(Error::FailedPrecondition { .. })));
    b.viewed("changed", |top| {
        assert_eq!(names(top), ["etc", "round0", "round1"]);
        assert_eq!(read(top.join("etc/hosts")), "changed");
    });
    b.viewed("base", |top| assert_eq!((names(top).len(), read(top.join("etc/hosts"))), (2, "base".into())));
}

pub(super) fn children(b: &mut Bench<'_>) {
    b.layer("one", None, &Layer::new().file("a", "1"));
    b.layer("two", Some("one"), &Layer::new().file("b", "2"));
    b.s().prepare("active", Some("two")).unwrap();
    b.s().view("view", Some("two")).unwrap();
    assert!(matches!(b.s().remove("two"), Err(Error::HasChildren { children: 2, .. })));
    assert!(matches!(b.s().remove("one"), Err(Error::HasChildren { children: 1, .. })));
    for key in ["active", "view", "two", "one"] {
        b.s().remove(key).unwrap();
        assert!(matches!(b.s().remove(key), Err(Error::NotFound { .. })));
    }
    assert_eq!(b.s().walk().unwrap(), []);
}

pub(super) fn keys(b: &mut Bench<'_>) {
    b.s().prepare("k", None).unwrap();
    assert!(matches!(b.s().prepare("k", None), Err(Error::AlreadyExists { .. })));
    assert!(matches!(b.s().view("k", None), Err(Error::AlreadyExists { .. })));
    assert!(matches!(b.s().prepare("l", Some("absent")), Err(Error::NotFound { .. })));
    assert!(matches!(b.s().prepare("l", Some("k")), Err(Error::FailedPrecondition { .. })), "an active parent");
    assert!(matches!(b.s().mounts("l"), Err(Error::NotFound { .. })));
    assert!(matches!(b.s().stat("l"), Err(Error::NotFound { .. })));
    assert!(matches!(b.s().usage("l"), Err(Error::NotFound { .. })));
    b.s().commit("layer", "k", None).unwrap();
    assert!(matches!(b.s().commit("layer", "k", None), Err(Error::NotFound { .. })), "committed twice");
    b.s().prepare("k", None).unwrap();
    assert!(matches!(b.s().commit("layer", "k", None), Err(Error::AlreadyExists { .. })), "a name taken");
    b.s().remove("k").unwrap();
    b.s().prepare("k", Some("layer")).unwrap();
}

pub(super) fn hostile_keys(b: &mut Bench<'_>) {
    let long = "x".repeat(crate::snapshotter::KEY_MAX_BYTES);
    let keys = [
        "../../escape",
        "/etc",
        ".",
        "..",
        "a/b",
        "sha256:00",
        "1",
        "a,b:c\\d\n",
        "'; DROP TABLE snapshot;",
        "ключ",
        &long,
    ];
    for key in keys {
        let mounts = b.s().prepare(key, None).unwrap();
        let store = b.dir.join("store").canonicalize().unwrap();
        assert!(Path::new(&mounts[0].source).starts_with(&store), "{key:?} -> {}", mounts[0].source);
        assert!(!mounts[0].source.contains(".."), "{key:?} -> {}", mounts[0].source);
        b.mounted(&mounts, |top| fs::write(top.join("file"), key).unwrap());
    }
    for key in keys {
        b.mounted(&b.s().mounts(key).unwrap(), |top| assert_eq!(read(top.join("file")), key));
        assert_eq!(b.s().stat(key).unwrap().name, key);
        b.s().remove(key).unwrap();
    }
    assert!(!b.dir.join("escape").exists());
    for bad in ["", "nul\0", &"x".repeat(long.len() + 1)] {
        assert!(matches!(b.s().prepare(bad, None), Err(Error::Invalid { .. })), "{bad:?}");
    }
    b.s().prepare("k", None).unwrap();
    assert!(matches!(b.s().commit("", "k", None), Err(Error::Invalid { .. })));
}

pub(super) fn stat_and_walk(b: &mut Bench<'_>) {
    b.layer("one", None, &Layer::new().file("a", "1"));
    b.layer("two", Some("one"), &Layer::new().file("b", "2"));
    b.s().prepare("active", Some("two")).unwrap();
    b.s().view("view", None).unwrap();
    let got: Vec<(String, Option<String>, Kind)> =
        b.s().walk().unwrap().into_iter().map(|i| (i.name, i.parent, i.kind)).collect();
    let mut sorted = got.clone();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let own = |s: &str| Some(s.to_owned());
    assert_eq!(
        sorted,
        [
            ("active".to_owned(), own("two"), Kind::Active),
            ("one".to_owned(), None, Kind::Committed),
            ("two".to_owned(), own("one"), Kind::Committed),
            ("view".to_owned(), None, Kind::View),
        ]
    );
    for (name, parent, _) in &got {
        let at = |key: &str| got.iter().position(|(n, ..)| n == key);
        assert!(parent.as_deref().is_none_or(|p| at(p) < at(name)), "{name} came before its parent");
    }
    let info = b.s().stat("two").unwrap();
    let age = info.created.elapsed().unwrap();
    assert!(age < std::time::Duration::from_secs(60) && info.updated >= info.created, "{info:?}");
}

pub(super) fn usage(b: &mut Bench<'_>) {
    let big = vec![7; 1 << 20];
    b.layer("one", None, &Layer::new().file("big", &big).hard_link("again", "big"));
    let one = b.s().usage("one").unwrap();
    assert!((1 << 20..2 << 20).contains(&one.bytes), "{one:?}: a file with two names counts once");
    assert_eq!(one.inodes, 2, "the root and the file");
    assert_eq!(b.s().usage("one").unwrap(), one);
    b.s().prepare("active", Some("one")).unwrap();
    let before = b.s().usage("active").unwrap();
    b.mounted(&b.s().mounts("active").unwrap(), |top| fs::write(top.join("new"), &big).unwrap());
    let after = b.s().usage("active").unwrap();
    assert!((1 << 20..2 << 20).contains(&(after.bytes - before.bytes)), "{before:?} {after:?}");
    assert_eq!(after.inodes, before.inodes + 1);
    b.s().view("view", Some("one")).unwrap();
    assert_eq!(b.s().usage("view").unwrap().inodes, 0, "a view takes nothing");
}

pub(super) fn commit_parent(b: &mut Bench<'_>) {
    b.layer("one", None, &Layer::new().file("a", "1"));
    b.layer("other", None, &Layer::new().file("b", "2"));
    b.s().prepare("on one", Some("one")).unwrap();
    assert!(matches!(b.s().commit("x", "on one", Some("other")), Err(Error::Invalid { .. })));
    assert!(matches!(b.s().commit("x", "on one", Some("absent")), Err(Error::NotFound { .. } | Error::Invalid { .. })));
    b.s().commit("x", "on one", Some("one")).unwrap();
    assert_eq!(b.s().stat("x").unwrap().parent.as_deref(), Some("one"));
    b.s().prepare("on nothing", None).unwrap();
    let late = b.s().commit("y", "on nothing", Some("x"));
    if b.s().independent_layers() {
        late.unwrap();
        assert_eq!(b.s().stat("y").unwrap().parent.as_deref(), Some("x"));
        b.s().prepare("z", None).unwrap();
        assert!(matches!(b.s().commit("z2", "z", Some("absent")), Err(Error::NotFound { .. })));
    } else {
        assert!(matches!(late, Err(Error::Invalid { .. })));
    }
}

pub(super) fn parallel(b: &mut Bench<'_>) {
    let layers: Vec<String> = (0..8).map(|i| format!("layer{i}")).collect();
    let bench = &*b;
    if bench.s().independent_layers() {
        std::thread::scope(|scope| {
            for name in &layers {
                scope.spawn(move || {
                    let mounts = bench.s().prepare(&format!("unpack {name}"), None).unwrap();
                    bench.unpack(&mounts, &Layer::new().file(name, name));
                });
            }
        });
        for (i, name) in layers.iter().enumerate() {
            let parent = i.checked_sub(1).map(|p| layers[p].as_str());
            bench.s().commit(name, &format!("unpack {name}"), parent).unwrap();
        }
    } else {
        for (i, name) in layers.iter().enumerate() {
            bench.layer(name, i.checked_sub(1).map(|p| layers[p].as_str()), &Layer::new().file(name, name));
        }
    }
    b.viewed("layer7", |top| assert_eq!(names(top), layers));
    let won: usize = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| usize::from(bench_prepare(b, "same", "layer7")))).collect();
        racers.into_iter().map(|r| r.join().unwrap()).sum()
    });
    assert_eq!(won, 1, "one of eight prepares of the same key");
    std::thread::scope(|scope| {
        for t in 0..8 {
            let b = &*b;
            scope.spawn(move || {
                for i in 0..10 {
                    let key = format!("{t}-{i}");
                    b.s().prepare(&key, Some("layer7")).unwrap();
                    b.s().remove(&key).unwrap();
                }
            });
        }
    });
    assert_eq!(b.s().walk().unwrap().len(), layers.len() + 1);
}

fn bench_prepare(b: &Bench<'_>, key: &str, parent: &str) -> bool {
    match b.s().prepare(key, Some(parent)) {
        Ok(_) => true,
        Err(Error::AlreadyExists { .. }) => false,
        Err(e) => panic!("{e}"),
    }
}

pub(super) fn reopen(b: &mut Bench<'_>) {
    b.layer("one", None, &Layer::new().file("a", "1"));
    let mounts = b.s().prepare("active", Some("one")).unwrap();
    b.mounted(&mounts, |top| fs::write(top.join("mine"), "kept").unwrap());
    b.s().prepare("gone", Some("one")).unwrap();
    b.s().remove("gone").unwrap();
    let before = b.s().walk().unwrap();
    b.reopen();
    assert_eq!(b.s().walk().unwrap(), before);
    assert_eq!(b.s().mounts("active").unwrap(), mounts);
    b.mounted(&mounts, |top| assert_eq!((read(top.join("mine")), read(top.join("a"))), ("kept".into(), "1".into())));
    b.s().prepare("gone", Some("one")).unwrap();
    b.mounted(&b.s().mounts("gone").unwrap(), |top| assert_eq!(names(top), ["a"]));
}

pub(super) fn detached(b: &mut Bench<'_>) {
    b.layer(
        "one",
        None,
        &Layer::new().folder("etc", 0o755).file("etc/passwd", "root:x:0:0").symlink("evil", "/../../etc/hostname"),
    );
    b.layer("two", Some("one"), &Layer::new().file("etc/group", "root:x:0"));
    for (key, parent) in [("a", "one"), ("b", "two")] {
        let mounts = b.s().prepare(key, Some(parent)).unwrap();
        let root = open_detached(&mounts).unwrap();
        let read = |path: &str| read_in_root(std::os::fd::AsFd::as_fd(&root), path, 100).unwrap();
        assert_eq!(read("etc/passwd").as_deref(), Some(&b"root:x:0:0"[..]));
        assert_eq!(read("etc/group").is_some(), parent == "two");
        assert_eq!(read("evil"), None);
        drop(root);
        b.mounted(&mounts, |top| symlink("x", top.join("still writable")).unwrap());
    }
}

pub(super) fn out_of_reach(b: &mut Bench<'_>) {
    let setuid = Entry { mode: 0o4755, ..Entry::new(b'0', "su") };
    b.layer("one", None, &Layer::new().entry(&setuid).entry(&Entry { device: (1, 3), ..Entry::new(b'3', "null") }));
    b.viewed("one", |top| {
        assert_eq!(fs::metadata(top.join("su")).unwrap().permissions().mode() & 0o7777, 0o4755);
        let null = fs::metadata(top.join("null")).unwrap();
        assert!(null.file_type().is_char_device() && null.rdev() == rustix::fs::makedev(1, 3));
    });
    let mounts = b.s().prepare("active", None).unwrap();
    let closed = Path::new(&mounts[0].source)
        .ancestors()
        .skip(1)
        .take_while(|dir| dir.starts_with(&b.dir))
        .any(|dir| fs::metadata(dir).unwrap().mode() & 0o077 == 0);
    assert!(closed, "{} can be reached by anybody", mounts[0].source);
}
