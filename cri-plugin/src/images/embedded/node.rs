//! What all pulls of a node share, and the small things they do with it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cleat_snapshots::{Kind, Snapshotter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::content::Content;
use super::flights::Flights;
use super::layer::BlobLocks;
use super::leases::Leases;
use super::progress::Meters;
use super::pull::Wanted;
use super::store::Store;
use crate::config::Config;
use crate::images::digest::Digest;
use crate::images::registry::Registry;
use crate::images::{ImageId, Rootfs, Usage};
use crate::{Error, Result};

/// Keys of snapshots that only a running pull has start with this.
const KEY_PREFIX: &str = "image-pull-";
/// Root file systems that are kept ready; a node runs few images at a time.
const ROOTFS_MAX: usize = 64;
/// Account files larger than this are read anew each time.
const ACCOUNTS_KEPT_BYTES: usize = 256 << 10;

/// The node's images and what works on them.
pub struct Node {
    /// Blobs.
    pub content: Content,
    /// Records.
    pub store: Store,
    /// Where layers are unpacked.
    pub snapshotter: Arc<dyn Snapshotter>,
    /// Connections and tokens.
    pub registry: Arc<Registry>,
    /// Where `hosts.toml` files are looked for.
    pub hosts_dirs: Vec<PathBuf>,
    /// One layer may not expand to more.
    pub max_layer_bytes: u64,
    /// Pulls under way.
    pub pulls: Flights<Wanted, ImageId>,
    /// Layers under way, by chain id.
    pub layers: Flights<Digest, ()>,
    /// Blobs under way.
    pub blob_locks: BlobLocks,
    /// How far pulls are.
    pub meters: Meters,
    /// What must not be collected.
    pub leases: Arc<Leases>,
    root: PathBuf,
    permits: Arc<Semaphore>,
    next_key: AtomicU64,
    usage: Mutex<HashMap<Digest, cleat_snapshots::Usage>>,
    rootfs: Mutex<HashMap<ImageId, Rootfs>>,
}

impl Node {
    /// Opens what is below the configured root. Blocks.
    ///
    /// # Errors
    /// `Io`, `Failed`; not for anything a single image has wrong with it.
    pub fn open(config: &Config, snapshotter: Arc<dyn Snapshotter>) -> Result<Self> {
        Ok(Self {
            content: Content::open(&config.root)?,
            store: Store::open(&config.root)?,
            snapshotter,
            registry: Registry::new(Duration::from_secs(config.images.no_progress_timeout_secs)),
            hosts_dirs: config.images.hosts_dirs.clone(),
            max_layer_bytes: config.images.max_layer_bytes,
            pulls: Flights::default(),
            layers: Flights::default(),
            blob_locks: BlobLocks::default(),
            meters: Meters::default(),
            leases: Arc::default(),
            root: config.root.clone(),
            permits: Arc::new(Semaphore::new(config.images.max_parallel_layers.max(1))),
            next_key: AtomicU64::new(0),
            usage: Mutex::default(),
            rootfs: Mutex::default(),
        })
    }

    /// A key for a snapshot that does not outlive its pull.
    pub fn snapshot_key(&self) -> String {
        format!("{KEY_PREFIX}{}", self.next_key.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether a key is one of a pull.
    pub fn is_snapshot_key(key: &str) -> bool {
        key.starts_with(KEY_PREFIX)
    }

    /// Whether a layer is there. Blocks.
    ///
    /// # Errors
    /// The snapshotter's.
    pub fn is_committed(&self, chain_id: &Digest) -> Result<bool> {
        match self.snapshotter.stat(chain_id.as_str()) {
            Ok(info) => Ok(info.kind == Kind::Committed),
            Err(cleat_snapshots::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(snapshot_error(e)),
        }
    }

    /// The right to work on a layer.
    ///
    /// # Errors
    /// None in practice: the semaphore is never closed.
    pub async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.map_err(|e| Error::failed("wait to unpack a layer", e))
    }

    /// What blobs and layers of images take. The first call after a start may read layers; blocks.
    ///
    /// # Errors
    /// The snapshotter's.
    pub fn usage(&self) -> Result<Usage> {
        let (blobs, chains) = {
            let index = self.store.index();
            (index.blobs().into_values().collect::<Vec<u64>>(), index.chains().into_iter().cloned().collect::<Vec<_>>())
        };
        let mut total = Usage { bytes: blobs.iter().sum(), inodes: blobs.len() as u64, path: self.root.clone() };
        let mut known = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        for chain_id in &chains {
            let layer = match known.get(chain_id) {
                Some(layer) => *layer,
                None => match self.snapshotter.usage(chain_id.as_str()) {
                    Ok(layer) => *known.entry(chain_id.clone()).or_insert(layer),
                    // Its image is being removed at this moment.
                    Err(cleat_snapshots::Error::NotFound { .. }) => continue,
                    Err(e) => return Err(snapshot_error(e)),
                },
            };
            total.bytes += layer.bytes;
            total.inodes += layer.inodes;
        }
        Ok(total)
    }

    /// Forgets what was remembered of layers and images that are gone.
    pub fn forget(&self, image: Option<&ImageId>) {
        let chains: std::collections::HashSet<Digest> = self.store.index().chains().into_iter().cloned().collect();
        self.usage.lock().unwrap_or_else(PoisonError::into_inner).retain(|chain_id, _| chains.contains(chain_id));
        if let Some(image) = image {
            self.rootfs.lock().unwrap_or_else(PoisonError::into_inner).remove(image);
        }
    }

    /// A root file system that was asked for before.
    pub fn known_rootfs(&self, id: &ImageId) -> Option<Rootfs> {
        self.rootfs.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// What a container of an image starts from. Reads the config and the accounts: blocks.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when the config is, and then the image is no longer listed, so that it is pulled anew.
    pub fn read_rootfs(&self, id: &ImageId) -> Result<Rootfs> {
        let record = self.store.index().by_id(id).cloned();
        let record = record.ok_or_else(|| Error::not_found("image", id.as_str()))?;
        let config = self.content.read(id.digest()).and_then(|bytes| {
            let bytes = bytes.ok_or_else(|| Error::corrupt(format!("image {id}"), "its config is missing"))?;
            serde_json::from_slice(&bytes).map_err(|e| Error::corrupt(format!("config of image {id}"), e))
        });
        if let Err(e @ Error::Corrupt { .. }) = &config {
            self.store.set_aside(id, &e.to_string())?;
        }
        let accounts = self.store.accounts(id)?;
        let kept = accounts.passwd.len() + accounts.group.len() <= ACCOUNTS_KEPT_BYTES;
        let rootfs = Rootfs {
            chain_id: record.chain.last().map(Digest::to_string),
            config: Arc::new(config?),
            accounts: Arc::new(accounts),
        };
        let mut known = self.rootfs.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= ROOTFS_MAX {
            known.clear();
        }
        if kept {
            known.insert(id.clone(), rootfs.clone());
        }
        Ok(rootfs)
    }
}

/// The snapshotter's error as one of ours.
pub fn snapshot_error(e: cleat_snapshots::Error) -> Error {
    let no_space = e.is_no_space();
    match e {
        cleat_snapshots::Error::NotFound { key } => Error::not_found("snapshot", key),
        cleat_snapshots::Error::AlreadyExists { key } => Error::AlreadyExists { kind: "snapshot", id: key },
        cleat_snapshots::Error::Invalid { what, why } => Error::Invalid { what, why },
        cleat_snapshots::Error::Corrupt { what, why } => Error::Corrupt { what, why },
        cleat_snapshots::Error::Io { op, path, source } => Error::Io { op, path, source },
        cleat_snapshots::Error::Metadata { op, path, .. } if no_space => {
            Error::Io { op, path, source: std::io::Error::from_raw_os_error(libc::ENOSPC) }
        }
        e => Error::failed("snapshotter", e),
    }
}
