//! A daemon's images in a directory of their own, and registries that serve an image by script.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cleat_snapshots::Snapshotter;
use cleat_snapshots::overlay::Overlay;
use cleatd::config::Config;
use cleatd::images::digest::Digest;
use cleatd::images::embedded::Embedded;
use cleatd::images::{Auth, ImageId, Images, Pull};
use cleatd::{Error, Result};

use crate::build::Image;
use crate::server::{Answer, Request};

pub struct Fixture {
    pub config: Config,
    pub images: Arc<Embedded>,
    pub snapshots: Arc<Overlay>,
    dir: tempfile::TempDir,
}

impl Fixture {
    /// None, with a word why, where layers cannot be unpacked.
    pub fn new(test: &str) -> Option<Self> {
        Self::below(test, tempfile::tempdir().expect("tempdir"), |_| {})
    }

    pub fn below(test: &str, dir: tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP {test}: not root");
            return None;
        }
        let mut config = Config { root: dir.path().join("root"), ..Config::default() };
        config.images.hosts_dirs = vec![dir.path().join("certs.d")];
        config.images.no_progress_timeout_secs = 2;
        change(&mut config);
        std::fs::create_dir_all(&config.root).expect("mkdir");
        let snapshots = match Overlay::open(&config.root.join("snapshots")) {
            Ok(snapshots) => Arc::new(snapshots),
            Err(e) => {
                println!("SKIP {test}: no overlay here: {e}");
                return None;
            }
        };
        let images = Embedded::open(&config, Arc::clone(&snapshots) as Arc<dyn Snapshotter>).expect("open");
        Some(Self { config, images, snapshots, dir })
    }

    /// As after a restart of the daemon.
    pub async fn reopen(self) -> Self {
        let (config, dir) = self.close();
        Self::open(config, dir).await
    }

    /// Ends the daemon; its directory stays.
    pub fn close(self) -> (Config, tempfile::TempDir) {
        (self.config, self.dir)
    }

    /// Opens what a daemon left, waiting for what a cancelled pull of its still has to finish.
    pub async fn open(config: Config, dir: tempfile::TempDir) -> Self {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let opened = Overlay::open(&config.root.join("snapshots")).map(Arc::new).map_err(|e| e.to_string());
            let opened = opened.and_then(|snapshots| {
                let images = Embedded::open(&config, Arc::clone(&snapshots) as Arc<dyn Snapshotter>);
                images.map(|images| (images, snapshots)).map_err(|e| e.to_string())
            });
            match opened {
                Ok((images, snapshots)) => return Self { config, images, snapshots, dir },
                Err(e) => assert!(Instant::now() < deadline, "open: {e}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes `certs.d/REGISTRY/hosts.toml`.
    pub fn hosts(&self, registry: &str, text: &str) {
        let folder = self.dir.path().join("certs.d").join(registry);
        std::fs::create_dir_all(&folder).expect("mkdir");
        std::fs::write(folder.join("hosts.toml"), text).expect("hosts.toml");
    }

    /// `registry` is served by these addresses over http, in this order.
    pub fn served_by(&self, registry: &str, addresses: &[&str]) {
        let (last, mirrors) = addresses.split_last().expect("an address");
        let mut text = format!("server = \"http://{last}\"\n");
        for mirror in mirrors {
            text.push_str(&format!("[host.\"http://{mirror}\"]\n"));
        }
        self.hosts(registry, &text);
    }

    pub async fn pull(&self, reference: &str) -> Result<ImageId> {
        self.pull_as(reference, None).await
    }

    pub async fn pull_as(&self, reference: &str, auth: Option<Auth>) -> Result<ImageId> {
        let pull = Pull { reference: reference.to_string(), auth, ..Pull::default() };
        tokio::time::timeout(Duration::from_secs(60), self.images.pull(pull)).await.expect("no pull takes a minute")
    }

    /// A file of an image, through a view of its layers.
    pub async fn file(&self, id: &ImageId, path: &str) -> Option<Vec<u8>> {
        let rootfs = self.images.rootfs(id).await.expect("rootfs");
        let mounts = self.snapshots.view("test-view", rootfs.chain_id.as_deref()).expect("view");
        let root = cleat_snapshots::mount::open_detached(&mounts).expect("mount");
        let bytes = cleat_snapshots::mount::read_in_root(std::os::fd::AsFd::as_fd(&root), path, 1 << 30);
        drop(root);
        self.snapshots.remove("test-view").expect("remove");
        bytes.expect("read")
    }

    pub fn blobs(&self) -> Vec<PathBuf> {
        files(&self.config.root.join("content/blobs/sha256"))
    }

    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.config.root.join("content/blobs/sha256").join(digest.hex()).exists()
    }

    /// Nothing is listed, half stored or half unpacked.
    pub async fn assert_nothing_is_left(&self) {
        assert_eq!(self.images.list().await.expect("list"), []);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let ingests = files(&self.config.root.join("content/ingest"));
            let working: Vec<_> = self.snapshots.walk().expect("walk").into_iter().map(|info| info.name).collect();
            if ingests.is_empty() && !working.iter().any(|name| !name.starts_with("sha256:")) {
                return;
            }
            assert!(Instant::now() < deadline, "left: {ingests:?} {working:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn snapshots_of_layers(&self) -> usize {
        self.snapshots.walk().expect("walk").len()
    }

    /// No layer was committed either.
    pub async fn assert_no_layer(&self) {
        self.assert_nothing_is_left().await;
        assert_eq!(self.snapshots.walk().expect("walk"), []);
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).expect("read").flatten().map(|e| e.path()).collect()
}

/// Answers as a good registry would for this image, by tag `tag` and by digest, Range included.
pub fn serve(image: &Image, tag: &str, request: &Request) -> Answer {
    let path = request.target.split('?').next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    if path.contains("/manifests/") {
        if name != tag && name != image.digest().as_str() {
            return Answer::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#);
        }
        return Answer::new(200, image.manifest.clone())
            .header("Content-Type", image.media_type)
            .header("Docker-Content-Digest", image.digest());
    }
    let blob = name.parse::<Digest>().ok().and_then(|digest| image.blobs.get(&digest));
    match blob {
        Some(bytes) => ranged(bytes, request),
        None => Answer::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#),
    }
}

pub fn range_start(request: &Request) -> Option<usize> {
    request.header("range")?.strip_prefix("bytes=")?.trim_end_matches('-').parse().ok()
}

fn ranged(bytes: &[u8], request: &Request) -> Answer {
    match range_start(request) {
        Some(start) if start < bytes.len() => Answer::new(206, &bytes[start..])
            .header("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
        Some(_) => Answer::new(416, ""),
        None => Answer::new(200, bytes),
    }
}

pub fn is_no_space(e: &Error) -> bool {
    matches!(e, Error::Io { source, .. } if source.raw_os_error() == Some(28))
}
