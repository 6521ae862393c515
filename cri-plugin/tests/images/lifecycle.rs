//! Crashes, full disks, rot, and layers that containers stand on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cleat_snapshots::Snapshotter;
use cleat_snapshots::overlay::Overlay;
use cleatd::images::Images;
use cleatd::images::embedded::Embedded;
use serde_json::json;

use crate::build::{Compression, Flavour, Image, image, layer, noise};
use crate::fixture::{Fixture, is_no_space, serve};
use crate::server::{Request, Sending, Server};

const SIZE: usize = 2 << 20;

fn two_layers() -> Image {
    let layers = [
        layer(&[("etc/", b""), ("etc/passwd", b"root:x:0:0::/:/bin/sh\n")], Compression::Gzip),
        layer(&[("big", &noise(SIZE, 5))], Compression::Zstd),
    ];
    image(Flavour::Oci, &layers, json!({"User": "5"}))
}

async fn serving(image: &Image) -> Server {
    let image = image.clone();
    Server::start(move |request: &Request| serve(&image, "latest", request)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_cut_off_anywhere_is_not_listed_and_goes_on_later() {
    let pulled = two_layers();
    for stall_at in [0, 1, 100_000, SIZE] {
        let Some(fixture) = Fixture::new("a_pull_cut_off_anywhere") else { return };
        let (served, big) = (pulled.clone(), pulled.layers[1].to_string());
        let stalling = Server::start(move |request: &Request| {
            let answer = serve(&served, "latest", request);
            if request.target.contains(&big) { answer.sending(Sending::StallAfter(stall_at)) } else { answer }
        })
        .await;
        fixture.served_by("r.test", &[&stalling.address]);
        let cut = tokio::time::timeout(Duration::from_millis(700), fixture.pull("r.test/app")).await;
        assert!(cut.is_err(), "it stalls");
        fixture.assert_nothing_is_left().await;
        let fixture = fixture.reopen().await;
        fixture.assert_nothing_is_left().await;
        let server = serving(&pulled).await;
        fixture.served_by("r.test", &[&server.address]);
        let id = fixture.pull("r.test/app").await.expect("pull");
        assert!(fixture.file(&id, "big").await == Some(noise(SIZE, 5)));
        assert!(server.blob_requests(pulled.layers[0].as_str()).is_empty(), "the finished layer is not fetched again");
    }
}

/// The daemon that `a_killed_daemon_leaves_nothing_half_done` kills: pulls and removes for ever below `CLEAT_TEST_ROOT`.
#[tokio::test(flavor = "multi_thread")]
async fn victim() {
    let Some(root) = std::env::var_os("CLEAT_TEST_ROOT") else { return };
    let root = PathBuf::from(root);
    let mut config = cleatd::config::Config { root: root.join("root"), ..cleatd::config::Config::default() };
    config.images.hosts_dirs = vec![root.join("certs.d")];
    let snapshots = Overlay::open(&config.root.join("snapshots")).expect("snapshots");
    let images = Embedded::open(&config, Arc::new(snapshots)).expect("open");
    loop {
        let pull = cleatd::images::Pull { reference: "r.test/app".into(), ..cleatd::images::Pull::default() };
        images.pull(pull).await.expect("pull");
        images.remove("r.test/app").await.expect("remove");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_leaves_nothing_half_done() {
    let Some(mut fixture) = Fixture::new("a_killed_daemon") else { return };
    let pulled = two_layers();
    let server = serving(&pulled).await;
    fixture.served_by("r.test", &[&server.address]);
    for round in 0..12u64 {
        let (config, dir) = fixture.close();
        let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "lifecycle::victim", "--nocapture"]).env("CLEAT_TEST_ROOT", dir.path());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut victim = command.spawn().expect("spawn");
        let before = server.requests().len();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while server.requests().len() == before {
            assert!(std::time::Instant::now() < deadline, "the victim pulls nothing");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(round * 37)).await;
        victim.kill().expect("kill");
        victim.wait().expect("wait");
        fixture = Fixture::open(config, dir).await;
        assert_whole(&fixture, &pulled).await;
    }
}

/// Either the image is there with all its parts, or it is not listed; nothing is half done in either case.
async fn assert_whole(fixture: &Fixture, pulled: &Image) {
    for image in fixture.images.list().await.expect("list") {
        assert!(fixture.file(&image.id, "big").await == Some(noise(SIZE, 5)));
        fixture.images.remove(image.id.as_str()).await.expect("remove");
    }
    fixture.assert_nothing_is_left().await;
    for (digest, bytes) in &pulled.blobs {
        let path = fixture.config.root.join("content/blobs/sha256").join(digest.hex());
        assert!(std::fs::read(&path).is_ok_and(|b| b == *bytes) || !path.exists(), "{digest}");
    }
    let id = fixture.pull("r.test/app").await.expect("pull");
    assert!(fixture.file(&id, "big").await == Some(noise(SIZE, 5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn images_survive_a_restart_and_leftovers_do_not() {
    let Some(fixture) = Fixture::new("images_survive_a_restart") else { return };
    let pulled = two_layers();
    let server = serving(&pulled).await;
    fixture.served_by("r.test", &[&server.address]);
    let id = fixture.pull("r.test/app").await.expect("pull");
    let before = fixture.images.list().await.expect("list");
    std::fs::write(fixture.config.root.join("content/ingest/half"), "x").expect("write");
    fixture.snapshots.prepare("image-pull-7", None).expect("prepare");
    fixture.snapshots.prepare("a-container", None).expect("prepare");
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.images.list().await.expect("list"), before);
    assert!(!fixture.config.root.join("content/ingest/half").exists());
    let names: Vec<_> = fixture.snapshots.walk().expect("walk").into_iter().map(|i| i.name).collect();
    assert!(names.contains(&"a-container".to_string()) && !names.contains(&"image-pull-7".to_string()), "{names:?}");
    assert!(fixture.images.rootfs(&id).await.expect("rootfs").accounts.passwd.starts_with(b"root:"));
    let count = server.requests().len();
    fixture.pull("r.test/app").await.expect("pull");
    assert_eq!(server.requests().len(), count + 1, "one HEAD");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_lost_a_part_is_set_aside_and_pulled_anew() {
    let Some(mut fixture) = Fixture::new("an_image_that_lost_a_part") else { return };
    let pulled = two_layers();
    let server = serving(&pulled).await;
    fixture.served_by("r.test", &[&server.address]);
    let id = fixture.pull("r.test/app").await.expect("pull");
    let config = fixture.config.root.join("content/blobs/sha256").join(pulled.config.hex());

    // Zero bytes after a power cut: seen at the start.
    std::fs::write(&config, "").expect("rot");
    fixture = fixture.reopen().await;
    assert_eq!(fixture.images.list().await.expect("list"), []);
    assert_eq!(fixture.pull("r.test/app").await.expect("pull"), id);
    fixture.images.rootfs(&id).await.expect("rootfs");

    // Other bytes of the same length: seen when they are needed.
    let mut rotten = std::fs::read(&config).expect("read");
    rotten[5] ^= 1;
    std::fs::write(&config, &rotten).expect("rot");
    fixture = fixture.reopen().await;
    let e = fixture.images.rootfs(&id).await.expect_err("rotten");
    assert!(matches!(e, cleatd::Error::Corrupt { .. }), "{e}");
    assert_eq!(fixture.images.list().await.expect("list"), []);
    assert_eq!(fixture.pull("r.test/app").await.expect("pull"), id);
    fixture.images.rootfs(&id).await.expect("rootfs");

    // A layer that is gone, and its blob rotten: unpacked from new bytes.
    let top = fixture.images.rootfs(&id).await.expect("rootfs").chain_id.expect("layers");
    fixture.snapshots.remove(&top).expect("remove");
    let blob = fixture.config.root.join("content/blobs/sha256").join(pulled.layers[1].hex());
    let mut rotten = std::fs::read(&blob).expect("read");
    rotten[1000] ^= 1;
    std::fs::write(&blob, &rotten).expect("rot");
    fixture = fixture.reopen().await;
    assert_eq!(fixture.images.list().await.expect("list"), []);
    assert_eq!(fixture.pull("r.test/app").await.expect("pull"), id);
    assert!(fixture.file(&id, "big").await == Some(noise(SIZE, 5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_under_a_container_outlive_their_image() {
    let Some(fixture) = Fixture::new("layers_under_a_container") else { return };
    let pulled = two_layers();
    let server = serving(&pulled).await;
    fixture.served_by("r.test", &[&server.address]);
    let id = fixture.pull("r.test/app").await.expect("pull");
    let top = fixture.images.rootfs(&id).await.expect("rootfs").chain_id.expect("layers");
    fixture.snapshots.prepare("a-container", Some(&top)).expect("prepare");
    fixture.images.remove("r.test/app").await.expect("remove");
    assert_eq!(fixture.images.list().await.expect("list"), []);
    assert_eq!(fixture.snapshots.walk().expect("walk").len(), 3);
    fixture.snapshots.remove("a-container").expect("remove");
    fixture.images.collect().await.expect("collect");
    assert_eq!(fixture.snapshots.walk().expect("walk").len(), 2, "for an hour they may save a pull its work");
    assert_eq!(fixture.pull("r.test/app").await.expect("pull"), id);
    let fetched = server.blob_requests(pulled.layers[1].as_str()).len();
    assert_eq!(fetched, 1, "and did");
    fixture.images.remove("r.test/app").await.expect("remove");
    fixture.assert_no_layer().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_and_a_removal_of_the_same_layers_do_not_meet() {
    let Some(fixture) = Fixture::new("a_pull_and_a_removal") else { return };
    let pulled = two_layers();
    let server = serving(&pulled).await;
    fixture.served_by("r.test", &[&server.address]);
    let fixture = Arc::new(fixture);
    let remover = {
        let fixture = Arc::clone(&fixture);
        tokio::spawn(async move {
            for _ in 0..60 {
                fixture.images.remove("r.test/app").await.expect("remove");
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
        })
    };
    while !remover.is_finished() {
        fixture.pull("r.test/app").await.expect("pull");
    }
    let id = fixture.pull("r.test/app").await.expect("pull");
    assert!(fixture.file(&id, "big").await == Some(noise(SIZE, 5)));
    fixture.images.remove("r.test/app").await.expect("remove");
    fixture.assert_no_layer().await;
}

/// A small disk of its own.
struct Disk(PathBuf);

impl Disk {
    fn new(dir: &std::path::Path, size: &str) -> Result<Self, String> {
        let options = format!("size={size},mode=0700");
        let flags = rustix::mount::MountFlags::empty();
        let options = std::ffi::CString::new(options).expect("options");
        rustix::mount::mount("cleat-test", dir, "tmpfs", flags, options.as_c_str()).map_err(|e| e.to_string())?;
        Ok(Self(dir.to_path_buf()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_a_clean_error_and_an_image_can_still_be_removed() {
    let test = "a_full_disk";
    if !rustix::process::geteuid().is_root() {
        println!("SKIP {test}: not root");
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let disk = match Disk::new(dir.path(), "24m") {
        Ok(disk) => disk,
        Err(e) => {
            println!("SKIP {test}: no tmpfs: {e}");
            return;
        }
    };
    let Some(fixture) = Fixture::below(test, dir, |_| {}) else { return };
    let small = two_layers();
    let huge = image(Flavour::Oci, &[layer(&[("huge", &noise(30 << 20, 9))], Compression::Gzip)], json!({}));
    let (one, other) = (small.clone(), huge.clone());
    let server = Server::start(move |request: &Request| {
        serve(if request.target.contains("/small/") { &one } else { &other }, "latest", request)
    })
    .await;
    fixture.served_by("r.test", &[&server.address]);
    fixture.pull("r.test/small").await.expect("small");
    let e = fixture.pull("r.test/huge").await.expect_err("full");
    assert!(is_no_space(&e), "{e}");
    assert_eq!(fixture.images.list().await.expect("list").len(), 1);
    assert!(!fixture.has_blob(&huge.layers[0]) && !fixture.has_blob(&huge.config), "what it left is gone");

    let filler = fixture.config.root.join("filler");
    let mut fill = std::fs::File::create(&filler).expect("create");
    for chunk in [1 << 20, 4096, 1] {
        while std::io::Write::write_all(&mut fill, &vec![1; chunk]).is_ok() {}
    }
    fixture.images.remove("r.test/small").await.expect("remove with 0 bytes free");
    assert_eq!(fixture.images.list().await.expect("list"), []);
    assert_eq!(fixture.blobs().len(), 0);
    drop(fill);
    std::fs::remove_file(&filler).expect("unlink");
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.images.list().await.expect("list"), []);
    fixture.pull("r.test/small").await.expect("again");
    drop((fixture, disk));
}
