//! What a container sees of several layers.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::bench::{Bench, names, read};
use crate::conformance::layer::{Entry, Layer};

pub(super) fn chain(b: &mut Bench<'_>) {
    b.layer("one", None, &Layer::new().folder("d", 0o755).file("d/a", "1").file("d/b", "1"));
    b.layer("two", Some("one"), &Layer::new().folder("d", 0o700).file("d/b", "2"));
    b.layer("three", Some("two"), &Layer::new().file("c", "3"));
    b.viewed("three", |top| {
        assert_eq!(
            (read(top.join("d/a")), read(top.join("d/b")), read(top.join("c"))),
            ("1".into(), "2".into(), "3".into())
        );
        assert_eq!(fs::metadata(top.join("d")).unwrap().mode() & 0o7777, 0o700);
    });
    b.viewed("one", |top| assert_eq!((read(top.join("d/b")), names(top)), ("1".into(), vec!["d".to_owned()])));
}

pub(super) fn whiteouts(b: &mut Bench<'_>) {
    let base = Layer::new().folder("d", 0o755).file("d/a", "1").file("d/b", "1").folder("e", 0o755).file("e/c", "1");
    b.layer("one", None, &base.symlink("l", "d").file("f", "1"));
    let two = Layer::new().file("d/.wh.a", "").file(".wh.e", "").file(".wh.l", "").file(".wh.absent", "");
    b.layer("two", Some("one"), &two);
    b.layer("three", Some("two"), &Layer::new().folder("e", 0o755).file("e/new", "3").file("d/a", "3"));
    b.viewed("two", |top| {
        assert_eq!((names(top), names(top.join("d"))), (vec!["d".to_owned(), "f".to_owned()], vec!["b".to_owned()]));
    });
    b.viewed("three", |top| {
        assert_eq!(names(top.join("e")), ["new"], "what was deleted is back");
        assert_eq!((read(top.join("d/a")), read(top.join("d/b"))), ("3".into(), "1".into()));
    });
}

pub(super) fn opaque(b: &mut Bench<'_>) {
    let base = Layer::new().folder("d", 0o755).file("d/a", "1").folder("d/e", 0o755).file("d/e/f", "1");
    b.layer("one", None, &base);
    let two = Layer::new()
        .folder("d", 0o755)
        .folder("d/e", 0o755)
        .file("d/e/g", "2")
        .file("d/.wh..wh..opq", "")
        .file("d/h", "2");
    b.layer("two", Some("one"), &two);
    b.layer("three", Some("two"), &Layer::new().folder("d", 0o755).file("d/i", "3"));
    b.viewed("three", |top| {
        assert_eq!(names(top.join("d")), ["e", "h", "i"]);
        assert_eq!(names(top.join("d/e")), ["g"], "hidden from the opaque folder down, whatever came first");
    });
}

pub(super) fn opaque_root(b: &mut Bench<'_>) {
    b.layer("one", None, &Layer::new().file("a", "1").folder("d", 0o755).file("d/x", "1"));
    b.layer("two", Some("one"), &Layer::new().file("b", "2").file(".wh..wh..opq", "").file("d/y", "2"));
    b.layer("three", Some("two"), &Layer::new().file("c", "3"));
    b.viewed("two", |top| {
        assert_eq!((names(top), names(top.join("d"))), (vec!["b".into(), "d".into()], vec!["y".into()]))
    });
    b.viewed("three", |top| assert_eq!(names(top), ["b", "c", "d"]));
    b.s().prepare("active", Some("three")).unwrap();
    b.mounted(&b.s().mounts("active").unwrap(), |top| assert_eq!(names(top), ["b", "c", "d"]));
}

pub(super) fn whiteout_order(b: &mut Bench<'_>) {
    b.layer(
        "one",
        None,
        &Layer::new().folder("d", 0o755).file("d/old", "1").folder("e", 0o755).file("e/old", "1").file("f", "1"),
    );
    // A whiteout is about lower layers, wherever it stands in its own.
    let two = Layer::new()
        .folder("d", 0o755)
        .file("d/new", "2")
        .file(".wh.d", "")
        .file(".wh.e", "")
        .file("e/new", "2")
        .file("f", "2")
        .file(".wh.f", "");
    b.layer("two", Some("one"), &two);
    b.viewed("two", |top| {
        assert_eq!((names(top.join("d")), names(top.join("e"))), (vec!["new".into()], vec!["new".into()]));
        assert_eq!(read(top.join("f")), "2");
    });
}

pub(super) fn undescribed_folders(b: &mut Bench<'_>) {
    let owned = |name: &str, mode, owner| Entry { mode, owner, ..Entry::new(b'5', name) };
    let one = Layer::new()
        .entry(&owned("srv", 0o2750, (11, 12)))
        .entry(&owned("srv/www", 0o1777, (13, 14)))
        .file("srv/www/index", "1");
    b.layer("one", None, &one);
    // Says nothing about srv and srv/www, which must not lose mode and owner for that.
    b.layer("two", Some("one"), &Layer::new().file("srv/www/new", "2").file("var/lib/x", "2"));
    b.viewed("two", |top| {
        for (path, mode, uid, gid) in [("srv", 0o2750, 11, 12), ("srv/www", 0o1777, 13, 14)] {
            let stat = fs::metadata(top.join(path)).unwrap();
            assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (mode, uid, gid), "{path}");
        }
        assert_eq!(fs::metadata(top.join("var/lib")).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(names(top.join("srv/www")), ["index", "new"]);
    });
}

pub(super) fn root_folder(b: &mut Bench<'_>) {
    let root = Entry { mode: 0o711, owner: (5, 6), ..Entry::new(b'5', "./") };
    b.layer("one", None, &Layer::new().entry(&root).file("a", "1"));
    b.layer("two", Some("one"), &Layer::new().file("b", "2"));
    b.s().prepare("active", Some("two")).unwrap();
    let look = |top: &Path| {
        let stat = fs::metadata(top).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o711, 5, 6));
    };
    b.viewed("one", look);
    b.viewed("two", look);
    b.mounted(&b.s().mounts("active").unwrap(), look);
}

pub(super) fn many_layers(b: &mut Bench<'_>) {
    let count: usize = if b.s().independent_layers() { 120 } else { 12 };
    let name = |i: usize| format!("sha256:{i:064}");
    for i in 0..count {
        let parent = i.checked_sub(1).map(name);
        b.layer(&name(i), parent.as_deref(), &Layer::new().file(&format!("f{i}"), "x").file("top", i.to_string()));
    }
    let last = name(count - 1);
    b.viewed(&last, |top| assert_eq!((names(top).len(), read(top.join("top"))), (count + 1, (count - 1).to_string())));
    b.s().prepare("active", Some(&last)).unwrap();
    b.mounted(&b.s().mounts("active").unwrap(), |top| {
        fs::write(top.join("f0"), "changed").unwrap();
        assert_eq!(names(top).len(), count + 1);
    });
}
