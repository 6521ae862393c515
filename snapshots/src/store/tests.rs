//! What a crash, a power cut or a full disk leaves, and what opening the store makes of it.

use std::fs;
use std::time::{Duration, Instant};

use super::*;
use crate::apply::{Limits, Mode as Landing, apply};
use crate::conformance::layer::Layer;
use crate::native::Native;
use crate::overlay::Overlay;
use crate::snapshotter::Snapshotter;

fn root() -> Option<tempfile::TempDir> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP store tests: not root");
        return None;
    }
    Some(tempfile::tempdir().unwrap())
}

/// Layers `one`, `two` on it, `other`; an active snapshot and a view on `two`.
fn filled(root: &Path) -> Native {
    let s = Native::open(root).unwrap();
    for (name, parent) in [("one", None), ("two", Some("one")), ("other", None)] {
        let mounts = s.prepare("unpack", parent).unwrap();
        let layer = Layer::new().file(name, name).bytes();
        apply(layer.as_slice(), Path::new(&mounts[0].source), Landing::Merged, &Limits::default()).unwrap();
        s.commit(name, "unpack", parent).unwrap();
    }
    s.prepare("active", Some("two")).unwrap();
    s.view("view", Some("two")).unwrap();
    s
}

fn sql(root: &Path, statement: &str) {
    rusqlite::Connection::open(root.join("metadata.db")).unwrap().execute_batch(statement).unwrap();
}

fn folder_of(root: &Path, key: &str) -> PathBuf {
    let db = rusqlite::Connection::open(root.join("metadata.db")).unwrap();
    let id: i64 = db.query_row("SELECT id FROM snapshot WHERE key = ?", [key], |r| r.get(0)).unwrap();
    root.join("snapshots").join(id.to_string())
}

fn names(s: &dyn Snapshotter) -> Vec<String> {
    let mut names: Vec<String> = s.walk().unwrap().into_iter().map(|i| i.name).collect();
    names.sort();
    names
}

/// Waits for the sweeper.
fn swept(root: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while fs::read_dir(root.join("trash")).unwrap().count() > 0 {
        assert!(Instant::now() < deadline, "the trash was not emptied");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn folders_without_a_row_go() {
    let Some(dir) = root() else { return };
    let before = names(&filled(dir.path()));
    for stray in ["999", "0042", "-7", "new-folder"] {
        fs::create_dir_all(dir.path().join("snapshots").join(stray).join("fs/deep")).unwrap();
    }
    fs::write(dir.path().join("snapshots/file"), "").unwrap();
    fs::create_dir(dir.path().join("trash/left-by-a-crash")).unwrap();
    let s = Native::open(dir.path()).unwrap();
    assert_eq!(names(&s), before);
    assert_eq!(fs::read_dir(dir.path().join("snapshots")).unwrap().count(), before.len());
    swept(dir.path());
}

#[test]
fn a_snapshot_whose_making_was_cut_short_is_gone_and_its_key_free() {
    let Some(dir) = root() else { return };
    drop(filled(dir.path()));
    sql(dir.path(), "UPDATE snapshot SET state = 'preparing' WHERE key = 'active'");
    let folder = folder_of(dir.path(), "active");
    let s = Native::open(dir.path()).unwrap();
    assert!(matches!(s.stat("active"), Err(Error::NotFound { .. })));
    assert!(!folder.exists());
    s.prepare("active", Some("two")).unwrap();
}

#[test]
fn a_lost_folder_takes_its_row_along() {
    let Some(dir) = root() else { return };
    drop(filled(dir.path()));
    for key in ["active", "view", "other"] {
        fs::remove_dir_all(folder_of(dir.path(), key)).unwrap();
    }
    let s = Native::open(dir.path()).unwrap();
    assert_eq!(names(&s), ["one", "two"]);
    s.remove("two").unwrap();
}

#[test]
fn a_lost_layer_is_set_aside_while_something_stands_on_it() {
    let Some(dir) = root() else { return };
    drop(filled(dir.path()));
    fs::remove_dir_all(folder_of(dir.path(), "one")).unwrap();
    let s = Native::open(dir.path()).unwrap();
    // Both layers can be pulled again under their names; a container may still be running on the old ones.
    assert_eq!(names(&s), ["active", "other", "view"]);
    for call in [s.mounts("active"), s.mounts("view")] {
        assert!(matches!(call, Err(Error::FailedPrecondition { .. })), "{call:?}");
    }
    assert!(matches!(s.prepare("new", Some("two")), Err(Error::NotFound { .. })));
    s.prepare("unpack", None).unwrap();
    s.commit("one", "unpack", None).unwrap();
    s.remove("active").unwrap();
    s.remove("view").unwrap();
    drop(s);
    let s = Native::open(dir.path()).unwrap();
    assert_eq!(names(&s), ["one", "other"]);
    assert_eq!(fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 2);
}

#[test]
fn what_was_being_written_when_the_machine_went_down_is_not_trusted() {
    let Some(dir) = root() else { return };
    drop(filled(dir.path()));
    sql(dir.path(), "UPDATE about SET value = 'another boot' WHERE key = 'boot'");
    let s = Native::open(dir.path()).unwrap();
    assert!(matches!(s.mounts("active"), Err(Error::FailedPrecondition { .. })));
    assert!(matches!(s.commit("layer", "active", None), Err(Error::FailedPrecondition { .. })));
    s.mounts("view").unwrap();
    s.prepare("new", Some("two")).unwrap();
    drop(s);
    // The same boot again: what was made since is fine.
    let s = Native::open(dir.path()).unwrap();
    s.mounts("new").unwrap();
    s.remove("active").unwrap();
}

#[test]
fn a_row_that_makes_no_sense_harms_only_itself() {
    let Some(dir) = root() else { return };
    drop(filled(dir.path()));
    sql(dir.path(), "UPDATE snapshot SET kind = 'elephant' WHERE key = 'active'");
    let s = Native::open(dir.path()).unwrap();
    assert_eq!(names(&s), ["one", "other", "two", "view"]);
    assert!(matches!(s.mounts("active"), Err(Error::Metadata { .. })));
    s.prepare("new", Some("two")).unwrap();
}

#[test]
fn one_process_and_one_kind_at_a_time() {
    let Some(dir) = root() else { return };
    let s = filled(dir.path());
    assert!(matches!(Native::open(dir.path()), Err(Error::InUse { .. })));
    drop(s);
    assert!(matches!(Overlay::open(dir.path()), Err(Error::Invalid { .. })));
    assert_eq!(names(&Native::open(dir.path()).unwrap()).len(), 5);
    sql(dir.path(), "PRAGMA user_version = 99");
    assert!(matches!(Native::open(dir.path()), Err(Error::Corrupt { .. })));
    fs::write(dir.path().join("metadata.db"), "not a database, and long enough to be looked at").unwrap();
    let error = Native::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("metadata.db"), "{error}");
    assert!(dir.path().join("snapshots/1").exists(), "nothing is deleted on the word of a broken database");
}

#[test]
fn a_root_that_options_cannot_carry_is_refused() {
    let Some(dir) = root() else { return };
    for bad in ["a:b", "a,b", "a\\b"] {
        assert!(matches!(Overlay::open(&dir.path().join(bad)), Err(Error::Invalid { .. })), "{bad}");
    }
}

#[test]
fn a_snapshot_that_cannot_be_made_leaves_nothing() {
    let Some(dir) = root() else { return };
    let store = Store::open(dir.path(), "test").unwrap();
    let making = Making { key: "k", parent: None, kind: Kind::Active };
    let failing = store.make(&making, |_, _| Err(Error::invalid("test", "on purpose")));
    assert!(matches!(failing, Err(Error::Invalid { .. })));
    assert!(matches!(store.stat("k"), Err(Error::NotFound { .. })));
    assert_eq!(fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 0);
    store.make(&making, |_, _| Ok(())).unwrap();
}

#[test]
fn what_is_still_being_made_cannot_be_used_or_removed() {
    let Some(dir) = root() else { return };
    let store = Store::open(dir.path(), "test").unwrap();
    let making = Making { key: "k", parent: None, kind: Kind::Active };
    store
        .make(&making, |_, _| {
            assert!(matches!(store.active("k"), Err(Error::NotFound { .. })));
            assert!(matches!(store.remove("k"), Err(Error::FailedPrecondition { .. })));
            assert!(matches!(store.metadata().begin("k", None, Kind::View), Err(Error::AlreadyExists { .. })));
            Ok(())
        })
        .unwrap();
    store.active("k").unwrap();
}

#[test]
fn a_full_disk_refuses_to_prepare_but_not_to_remove() {
    let Some(dir) = root() else { return };
    let small = crate::Mount {
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        target: None,
        options: vec!["size=8m".into(), "mode=700".into()],
    };
    crate::mount::mount_all(&[small], dir.path()).unwrap();
    let result = std::panic::catch_unwind(|| {
        let s = Overlay::open(&dir.path().join("store")).unwrap();
        for i in 0..20 {
            s.prepare(&format!("k{i}"), None).unwrap();
        }
        let filler = fs::File::create(dir.path().join("filler")).unwrap();
        let mut size = 8 << 20;
        while size >= 4096 {
            // As much as goes, to the last page.
            use std::io::Write;
            if (&filler).write_all(&vec![1; size]).is_err() {
                size /= 2;
            }
        }
        let mut refused = None;
        for i in 0..200 {
            refused = refused.or_else(|| s.prepare(&format!("new{i}"), None).err());
        }
        let refused = refused.expect("the disk is full");
        assert!(refused.is_no_space(), "{refused}");
        for i in 0..20 {
            s.remove(&format!("k{i}")).unwrap();
        }
        drop(filler);
        fs::remove_file(dir.path().join("filler")).unwrap();
        s.prepare("k0", None).unwrap();
    });
    crate::mount::unmount_all(dir.path()).unwrap();
    result.unwrap();
}
