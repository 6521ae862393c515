//! The conformance suite over the snapshotters of this crate.

use cleat_snapshots::conformance::suite;
use cleat_snapshots::native::Native;
use cleat_snapshots::overlay::Overlay;

#[test]
fn overlay() {
    let dir = tempfile::tempdir().unwrap();
    suite(dir.path(), &|root| Ok(Box::new(Overlay::open(root)?)));
}

#[test]
fn native() {
    let dir = tempfile::tempdir().unwrap();
    suite(dir.path(), &|root| Ok(Box::new(Native::open(root)?)));
}
