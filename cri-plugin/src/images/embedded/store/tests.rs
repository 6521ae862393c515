use super::*;

fn record(seed: &str) -> Record {
    let digest = Digest::of(seed.as_bytes());
    Record {
        id: ImageId::new(digest.clone()),
        chain: vec![Digest::of(b"base"), Digest::of(format!("{seed} chain").as_bytes())],
        blobs: BTreeMap::from([(digest, 10), (Digest::of(b"base blob"), 100)]),
        user: "7".into(),
        labels: BTreeMap::from([("k".into(), "v".into())]),
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

fn accounts() -> Accounts {
    Accounts { passwd: b"root:x:0:0::/:/bin/sh\n".to_vec(), group: vec![] }
}

#[test]
fn an_image_comes_back_after_a_restart() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (a, b) = (record("a"), record("b"));
    {
        let store = Store::open(dir.path()).expect("open");
        store
            .insert(a.clone(), &accounts(), &names(&["docker.io/library/a:latest", "docker.io/library/x:1"]))
            .expect("a");
        store.insert(b.clone(), &Accounts::default(), &names(&["docker.io/library/x:1"])).expect("b");
        assert!(store.add_name(&b.id, "docker.io/library/b:2").expect("name"));
    }
    let store = Store::open(dir.path()).expect("open");
    let index = store.index();
    assert_eq!(index.find("a").expect("find").map(|r| (**r).clone()), Some(a.clone()));
    assert_eq!(index.find("x:1").expect("find").map(|r| r.id.clone()), Some(b.id.clone()), "the name moved");
    let images = index.all();
    assert_eq!(images.len(), 2);
    let of_b = images.iter().find(|i| i.id == b.id).expect("b");
    assert_eq!(of_b.repo_tags, ["docker.io/library/b:2", "docker.io/library/x:1"]);
    assert_eq!((of_b.size_bytes, of_b.user.clone()), (110, Some(crate::images::User::Uid(7))));
    assert_eq!(*of_b, index.image(&b));
    assert_eq!(store.accounts(&a.id).expect("accounts"), accounts());
}

#[test]
fn ids_and_prefixes_are_found_and_ambiguous_ones_told() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("open");
    let all: Vec<Record> = (0..40).map(|n| record(&n.to_string())).collect();
    for r in &all {
        store.insert(r.clone(), &Accounts::default(), &names(&[])).expect("insert");
    }
    let index = store.index();
    let one = &all[0];
    for text in [one.id.as_str(), one.id.digest().hex(), &one.id.digest().hex()[..20], &one.id.as_str()[..25]] {
        assert_eq!(index.find(text).expect(text).map(|r| &r.id), Some(&one.id), "{text}");
    }
    assert!(index.find(&one.id.digest().hex()[..1]).is_err(), "40 images, 16 digits");
    for text in ["", "sha256:", "nope", "../x", "A"] {
        assert!(index.find(text).expect(text).is_none(), "{text}");
    }
}

#[test]
fn a_removed_image_is_gone_with_its_names() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("open");
    let a = record("a");
    store.insert(a.clone(), &accounts(), &names(&["docker.io/library/a:latest"])).expect("insert");
    assert_eq!(store.remove(&a.id).expect("remove").as_deref(), Some(&a));
    assert_eq!(store.remove(&a.id).expect("again"), None);
    assert!(!store.add_name(&a.id, "docker.io/library/a:2").expect("name"));
    assert!(store.index().find("a").expect("find").is_none());
    drop(store);
    assert_eq!(Store::open(dir.path()).expect("open").index().all(), []);
}

#[test]
fn a_corrupt_record_is_set_aside_and_a_new_pull_replaces_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (a, b) = (record("a"), record("b"));
    {
        let store = Store::open(dir.path()).expect("open");
        for r in [&a, &b] {
            store.insert(r.clone(), &Accounts::default(), &names(&[])).expect("insert");
        }
        store.add_name(&a.id, "docker.io/library/a:latest").expect("name");
        store.lock().execute("UPDATE images SET record = '{' WHERE id = ?1", [a.id.as_str()]).expect("rot");
    }
    let store = Store::open(dir.path()).expect("open");
    assert_eq!(store.index().all().iter().map(|i| i.id.clone()).collect::<Vec<_>>(), std::slice::from_ref(&b.id));
    assert!(store.index().find("a").expect("find").is_none());
    store.insert(a, &Accounts::default(), &names(&[])).expect("again");
    assert_eq!(store.index().all().len(), 2);
}

#[test]
fn a_file_that_is_no_database_is_set_aside() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("images.db"), vec![7u8; 8192]).expect("write");
    let store = Store::open(dir.path()).expect("open");
    assert_eq!(store.index().all(), []);
    assert!(dir.path().join("images.db.corrupt").exists());
}

#[test]
fn another_manifest_of_the_same_image_adds_its_blobs() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("open");
    let a = record("a");
    let mut other = a.clone();
    other.blobs = BTreeMap::from([(Digest::of(b"zstd"), 5)]);
    store.insert(a.clone(), &Accounts::default(), &names(&[])).expect("insert");
    store.insert(other, &Accounts::default(), &names(&[])).expect("insert");
    assert_eq!(store.index().by_id(&a.id).expect("a").blobs.len(), 3);
}
