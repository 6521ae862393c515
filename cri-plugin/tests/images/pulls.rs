//! Pulls from docker-registry.

use std::sync::Arc;
use std::time::Duration;

use cleat_snapshots::Snapshotter;
use cleat_snapshots::native::Native;
use cleatd::images::embedded::Embedded;
use cleatd::images::{Images, Pull, User};
use serde_json::json;

use crate::build::{self, Compression, Flavour, Image, Layer, image, layer};
use crate::fixture::Fixture;
use crate::registry::Registry;

fn layers() -> Vec<Layer> {
    let passwd: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nweb:x:7:8::/:/bin/sh\n";
    vec![
        layer(
            &[("etc/", b""), ("etc/passwd", passwd), ("etc/group", b"web:x:8:\n"), ("old", b"old")],
            Compression::Gzip,
        ),
        layer(&[("bin/", b""), ("bin/app", &build::noise(300_000, 1)), (".wh.old", b"")], Compression::Zstd),
        layer(&[("etc/", b""), ("etc/motd", b"hello")], Compression::None),
    ]
}

fn words() -> serde_json::Value {
    json!({"User": "web:web", "Labels": {"maintainer": "nobody"}, "Env": ["A=b"], "Cmd": ["/bin/app"]})
}

/// A registry, and images of ours that pull from it; none where that cannot be.
async fn both(test: &str) -> Option<(Registry, Fixture)> {
    let fixture = Fixture::new(test)?;
    let Some(registry) = Registry::start().await else {
        println!("SKIP {test}: no docker-registry");
        return None;
    };
    fixture.served_by(&registry.address, &[&registry.address]);
    Some((registry, fixture))
}

async fn assert_usable(fixture: &Fixture, id: &cleatd::images::ImageId) {
    assert_eq!(fixture.file(id, "etc/motd").await.as_deref(), Some(&b"hello"[..]));
    assert_eq!(fixture.file(id, "bin/app").await, Some(build::noise(300_000, 1)));
    assert_eq!(fixture.file(id, "old").await, None, "whited out");
    let rootfs = fixture.images.rootfs(id).await.expect("rootfs");
    assert!(rootfs.accounts.passwd.starts_with(b"root:x:0:0") && rootfs.accounts.group == b"web:x:8:\n");
    let config = rootfs.config.config().clone().expect("config");
    assert_eq!(config.env().clone(), Some(vec!["A=b".to_string()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_and_oci_images_of_every_compression() {
    let Some((registry, fixture)) = both("docker_and_oci_images_of_every_compression").await else { return };
    for (flavour, name) in [(Flavour::Oci, "oci/app"), (Flavour::Docker, "docker/app")] {
        let pushed = image(flavour, &layers(), words());
        registry.push(name, "v1", &pushed).await;
        let reference = format!("{}/{name}:v1", registry.address);
        let id = fixture.pull(&reference).await.expect(name);
        assert_eq!(*id.digest(), pushed.config);
        assert_usable(&fixture, &id).await;
        let listed = fixture.images.get(&reference).await.expect("get").expect("there");
        assert!(listed.repo_tags.contains(&reference));
        assert!(listed.repo_digests.contains(&format!("{}/{name}@{}", registry.address, pushed.digest())));
        assert_eq!(listed.user, Some(User::Name("web".into())));
        assert_eq!(listed.labels.get("maintainer").map(String::as_str), Some("nobody"));
    }
    // Both have the same config, so they are one image.
    let all = fixture.images.list().await.expect("list");
    assert_eq!((all.len(), all[0].repo_tags.len(), all[0].repo_digests.len()), (1, 2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshotter_of_dependent_layers_and_one_layer_at_a_time() {
    let Some((registry, fixture)) = both("a_snapshotter_of_dependent_layers").await else { return };
    registry.push("app", "v1", &image(Flavour::Oci, &layers(), words())).await;
    let mut config = fixture.config.clone();
    config.root = config.root.join("native");
    config.images.max_parallel_layers = 1;
    std::fs::create_dir(&config.root).expect("mkdir");
    let native = Arc::new(Native::open(&config.root.join("snapshots")).expect("native"));
    let images = Embedded::open(&config, Arc::clone(&native) as Arc<dyn Snapshotter>).expect("open");
    let pull = Pull { reference: format!("{}/app:v1", registry.address), ..Pull::default() };
    let id = tokio::time::timeout(Duration::from_secs(60), images.pull(pull)).await.expect("no lock-up").expect("pull");
    let rootfs = images.rootfs(&id).await.expect("rootfs");
    let mounts = native.view("look", rootfs.chain_id.as_deref()).expect("view");
    let top = std::path::Path::new(&mounts[0].source);
    assert_eq!(std::fs::read(top.join("etc/motd")).expect("read"), b"hello");
    assert!(!top.join("old").exists());
    assert!(rootfs.accounts.passwd.starts_with(b"root:"));
    native.remove("look").expect("remove");
    images.remove(id.as_str()).await.expect("remove");
    assert_eq!(native.walk().expect("walk"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_leads_to_this_machines_image() {
    let Some((registry, fixture)) = both("an_index_leads_to_this_machines_image").await else { return };
    let host = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let mine = image(Flavour::Oci, &layers(), words());
    let foreign = image(Flavour::Oci, &[layer(&[("x", b"x")], Compression::Gzip)], json!({}));
    let attestation = image(Flavour::Oci, &[layer(&[("y", b"y")], Compression::Gzip)], json!({}));
    for pushed in [&foreign, &attestation, &mine] {
        registry.push("multi", pushed.digest().hex(), pushed).await;
    }
    let entries: [(&Image, &str, &str); 3] =
        [(&foreign, "linux", "s390x"), (&attestation, "unknown", "unknown"), (&mine, "linux", host)];
    for (tag, media_type) in [("oci", build::OCI_INDEX), ("docker", build::DOCKER_LIST)] {
        registry.push_manifest("multi", tag, media_type, &build::index(media_type, &entries)).await;
        let id = fixture.pull(&format!("{}/multi:{tag}", registry.address)).await.expect(tag);
        assert_eq!(*id.digest(), mine.config);
        assert_usable(&fixture, &id).await;
    }
    assert!(!fixture.has_blob(&foreign.config), "nothing foreign was fetched");
    let only_foreign = build::index(build::OCI_INDEX, &entries[..2]);
    registry.push_manifest("multi", "foreign", build::OCI_INDEX, &only_foreign).await;
    let e = fixture.pull(&format!("{}/multi:foreign", registry.address)).await.expect_err("foreign").to_string();
    assert!(e.contains(&format!("linux/{host}")) && e.contains("linux/s390x"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_ids_and_prefixes_find_it_and_one_name_removes_it_all() {
    let Some((registry, fixture)) = both("names_ids_and_prefixes_find_it").await else { return };
    let pushed = image(Flavour::Docker, &layers(), words());
    registry.push("app", "v1", &pushed).await;
    registry.push("app", "v2", &pushed).await;
    let name = format!("{}/app", registry.address);
    let id = fixture.pull(&format!("{name}:v1")).await.expect("v1");
    assert_eq!(fixture.pull(&format!("{name}:v2")).await.expect("v2"), id);
    assert_eq!(fixture.pull(&format!("{name}@{}", pushed.digest())).await.expect("digest"), id);
    let by_digest = format!("{name}@{}", pushed.digest());
    let hex = id.digest().hex();
    for text in [&format!("{name}:v1"), &format!("{name}:v2"), &by_digest, id.as_str(), hex, &hex[..12]] {
        let found = fixture.images.get(text).await.expect(text).unwrap_or_else(|| panic!("{text} not found"));
        assert_eq!(found.id, id);
        assert_eq!(found.repo_tags.len(), 2);
    }
    assert!(fixture.images.get("missing").await.expect("get").is_none());
    let usage = fixture.images.usage().await.expect("usage");
    assert!(usage.bytes > 300_000 && usage.inodes > 8 && usage.path.is_dir(), "{usage:?}");
    fixture.images.remove("missing").await.expect("a missing one is removed");
    fixture.images.remove(&format!("{name}:v2")).await.expect("remove");
    assert_eq!(fixture.images.list().await.expect("list"), []);
    assert_eq!(fixture.blobs().len(), 0);
    fixture.assert_no_layer().await;
    assert_eq!(fixture.images.usage().await.expect("usage").bytes, 0);
    assert!(fixture.images.rootfs(&id).await.is_err());
    assert_eq!(fixture.pull(&format!("{name}:v1")).await.expect("again"), id);
    assert_usable(&fixture, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found() {
    let Some((registry, fixture)) = both("what_is_not_there_is_not_found").await else { return };
    for missing in ["no/such:v1".to_string(), format!("no/such@{}", cleatd::images::digest::Digest::of(b"x"))] {
        let e = fixture.pull(&format!("{}/{missing}", registry.address)).await.expect_err("missing");
        assert!(matches!(&e, cleatd::Error::NotFound { kind: "image", id } if id.contains("no/such")), "{e}");
    }
    let e = fixture.pull("not a reference").await.expect_err("no reference");
    assert!(matches!(e, cleatd::Error::Invalid { .. }), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_leaves_the_old_image_without_it() {
    let Some((registry, fixture)) = both("a_tag_that_moved").await else { return };
    let old = image(Flavour::Oci, &layers()[..1], words());
    let new = image(Flavour::Oci, &layers(), words());
    let reference = format!("{}/app:latest", registry.address);
    registry.push("app", "latest", &old).await;
    let old_id = fixture.pull(&reference).await.expect("old");
    registry.push("app", "latest", &new).await;
    let new_id = fixture.pull(&reference).await.expect("new");
    assert_eq!(fixture.images.get(&reference).await.expect("get").map(|i| i.id), Some(new_id.clone()));
    let stays = fixture.images.get(old_id.as_str()).await.expect("get").expect("still there");
    assert_eq!((stays.repo_tags.len(), stays.repo_digests.len()), (0, 1));
    fixture.images.remove(old_id.as_str()).await.expect("remove");
    assert_usable(&fixture, &new_id).await;
    assert!(fixture.has_blob(&new.layers[0]), "shared with the old one, and still needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_layers() {
    let Some((registry, fixture)) = both("an_image_without_layers").await else { return };
    registry.push("empty", "latest", &image(Flavour::Oci, &[], json!({}))).await;
    let id = fixture.pull(&format!("{}/empty", registry.address)).await.expect("pull");
    let rootfs = fixture.images.rootfs(&id).await.expect("rootfs");
    assert_eq!((rootfs.chain_id, rootfs.accounts.passwd.len()), (None, 0));
    assert!(fixture.images.list().await.expect("list")[0].size_bytes > 0);
}
