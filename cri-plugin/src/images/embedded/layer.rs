//! One layer: fetched, stored and unpacked in one pass, and committed on the layer below.
//!
//! A layer is a flight by its chain id, so images that share it share the work. Where the snapshotter allows it, layers
//! unpack side by side and only the commits follow one another. A blob is fetched by one flight at a time; who comes
//! second finds it in the store. Layers at work are limited over the whole node.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use cleat_snapshots::apply::{Limits, Mode, apply, destination};
use futures_util::future::BoxFuture;
use tokio::sync::OwnedMutexGuard;
use tokio::sync::mpsc::{Sender, channel};

use super::leases::Lease;
use super::node::{Node, snapshot_error};
use super::progress::Meter;
use super::stream::{CHUNKS_UNDER_WAY, Compressed, Expanded, Incoming, Stored, decoder};
use crate::blocking;
use crate::images::digest::Digest;
use crate::images::manifest::Descriptor;
use crate::images::registry::{Blob, Session};
use crate::{Error, Result};

/// How often bytes that are not the digest's are fetched anew when there is only one host.
const FETCHES: usize = 2;
/// How often the failed flight of another pull is flown again with one's own session.
const JOINS: usize = 3;

/// A layer to be there.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The compressed blob.
    pub blob: Descriptor,
    /// The digest of its tar.
    pub diff_id: Digest,
    /// The name it is committed under.
    pub chain_id: Digest,
    /// The layer below.
    pub below: Option<Arc<Self>>,
}

/// What a layer's flight needs of the pull that started it.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Where blobs come from, with whose credentials.
    pub session: Arc<Session>,
    /// What must not be collected meanwhile.
    pub lease: Arc<Lease>,
}

/// Locks on blobs that are being fetched.
#[derive(Debug, Default)]
pub struct BlobLocks(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl BlobLocks {
    async fn lock(&self, digest: &Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let known = locks.get(digest).and_then(Weak::upgrade);
            let lock = known.unwrap_or_default();
            locks.insert(digest.clone(), Arc::downgrade(&lock));
            lock
        };
        lock.lock_owned().await
    }
}

/// Waits until the layer is committed, doing what is left to do.
///
/// # Errors
/// The registry's, the disk's, and `Corrupt` for what is not what its digests say.
pub fn ensure(node: Arc<Node>, layer: Arc<Layer>, origin: Origin) -> BoxFuture<'static, Result<()>> {
    // Boxed: a layer's future holds that of the layer below.
    Box::pin(async move {
        for attempt in 1.. {
            let work = || bring(Arc::clone(&node), Arc::clone(&layer), origin.clone());
            let landed = node.layers.join(&layer.chain_id, work).await;
            if landed.result.is_ok() || landed.own || attempt == JOINS {
                return landed.result;
            }
        }
        Ok(())
    })
}

async fn bring(node: Arc<Node>, layer: Arc<Layer>, origin: Origin) -> Result<()> {
    if is_committed(&node, &layer.chain_id).await? {
        return Ok(());
    }
    let below = async {
        match &layer.below {
            Some(below) => ensure(Arc::clone(&node), Arc::clone(below), origin.clone()).await,
            None => Ok(()),
        }
    };
    let prepared = if node.snapshotter.independent_layers() {
        let (prepared, ()) = tokio::try_join!(unpack(&node, &layer, &origin), below)?;
        prepared
    } else {
        below.await?;
        unpack(&node, &layer, &origin).await?
    };
    let lease = Arc::clone(&origin.lease);
    blocking(move || {
        let _lease = lease;
        prepared.commit(&layer)
    })
    .await
}

async fn is_committed(node: &Arc<Node>, chain_id: &Digest) -> Result<bool> {
    let (node, chain_id) = (Arc::clone(node), chain_id.clone());
    blocking(move || node.is_committed(&chain_id)).await
}

/// Unpacks a layer from the store or, fetching it, from the registry.
async fn unpack(node: &Arc<Node>, layer: &Arc<Layer>, origin: &Origin) -> Result<Prepared> {
    let lock = Arc::new(node.blob_locks.lock(&layer.blob.digest).await);
    if let Some(prepared) = from_store(node, layer, origin, &lock).await? {
        return Ok(prepared);
    }
    let hosts = origin.session.pull_hosts();
    for fetch in 0.. {
        let blob = origin.session.blob(&layer.blob, fetch);
        match from_network(node, layer, origin, &lock, blob).await? {
            Outcome::Unpacked(prepared) => return Ok(prepared),
            Outcome::OtherBytes(e) if fetch + 1 >= FETCHES.max(hosts) => return Err(e),
            Outcome::OtherBytes(e) => tracing::warn!(error = %e, "a layer came damaged and is fetched again"),
        }
    }
    Err(Error::failed("fetch a layer", "no attempt was made"))
}

/// How unpacking from the network ended, if not in an error.
enum Outcome {
    Unpacked(Prepared),
    /// The bytes were not the digest's: another host, or another try, may serve the right ones.
    OtherBytes(Error),
}

async fn from_store(
    node: &Arc<Node>,
    layer: &Arc<Layer>,
    origin: &Origin,
    lock: &Arc<OwnedMutexGuard<()>>,
) -> Result<Option<Prepared>> {
    let permit = node.permit().await?;
    let (node, layer, lock, lease) = (Arc::clone(node), Arc::clone(layer), Arc::clone(lock), Arc::clone(&origin.lease));
    blocking(move || {
        let _held = (permit, lock, lease);
        if node.content.size_bytes(&layer.blob.digest) != Some(layer.blob.size_bytes) {
            return Ok(None);
        }
        let mut stored = Stored::new(node.content.file(&layer.blob.digest)?);
        let prepared = Prepared::fill(&node, &layer, &mut stored);
        let digest = stored.finish().map_err(|e| Error::failed(format!("read blob {}", layer.blob.digest), e))?;
        if digest != layer.blob.digest {
            tracing::warn!(blob = %layer.blob.digest, "a stored blob has rotted and is fetched again");
            node.content.remove(&layer.blob.digest)?;
            return Ok(None);
        }
        prepared.map(Some)
    })
    .await
}

async fn from_network(
    node: &Arc<Node>,
    layer: &Arc<Layer>,
    origin: &Origin,
    lock: &Arc<OwnedMutexGuard<()>>,
    blob: Blob,
) -> Result<Outcome> {
    let permit = node.permit().await?;
    let (sender, chunks) = channel(CHUNKS_UNDER_WAY);
    let meter = node.meters.of(layer);
    let (node, layer, lock, lease) = (Arc::clone(node), Arc::clone(layer), Arc::clone(lock), Arc::clone(&origin.lease));
    let unpacking = blocking(move || {
        let _held = (permit, lock, lease);
        let ingest = node.content.ingest(&layer.blob.digest, layer.blob.size_bytes)?;
        let mut incoming = Incoming::new(chunks, ingest);
        let prepared = Prepared::fill(&node, &layer, &mut incoming);
        // What came decides first: a layer that does not unpack may only have come damaged.
        match incoming.finish() {
            Err(e @ Error::Corrupt { .. }) => Ok(Outcome::OtherBytes(e)),
            Err(e) => Err(e),
            Ok(()) => prepared.map(Outcome::Unpacked),
        }
    });
    let (fed, unpacked) = tokio::join!(feed(blob, sender, &meter), unpacking);
    // A registry that failed explains why too few bytes were unpacked.
    fed.and(unpacked)
}

/// Passes a blob's chunks on, until it ends or nobody wants them.
async fn feed(mut blob: Blob, sender: Sender<Bytes>, meter: &Meter) -> Result<()> {
    while let Some(chunk) = blob.chunk().await? {
        meter.add(chunk.len());
        if sender.send(chunk).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// A layer that is unpacked and not yet committed. Dropped, it is removed.
struct Prepared {
    node: Arc<Node>,
    key: String,
}

impl Prepared {
    /// Unpacks `from` into a new snapshot. Blocks.
    fn fill(node: &Arc<Node>, layer: &Layer, from: &mut impl Compressed) -> Result<Self> {
        let (prepared, root, mode) = Self::new(node, layer)?;
        let what = || format!("layer {}", layer.blob.digest);
        let inner = decoder(from).map_err(|e| Error::corrupt(what(), e))?;
        let mut expanded = Expanded::new(inner, layer.blob.size_bytes, node.max_layer_bytes);
        let limits = Limits { max_bytes: node.max_layer_bytes, ..Limits::default() };
        apply(&mut expanded, &root, mode, &limits).map_err(|e| unpacking(e, &what()))?;
        let diff_id = expanded.finish().map_err(|e| Error::corrupt(what(), e))?;
        if diff_id != layer.diff_id {
            return Err(Error::corrupt(what(), format!("its diff id is {diff_id}, not {}", layer.diff_id)));
        }
        Ok(prepared)
    }

    fn new(node: &Arc<Node>, layer: &Layer) -> Result<(Self, PathBuf, Mode)> {
        let parent = match &layer.below {
            Some(below) if !node.snapshotter.independent_layers() => Some(below.chain_id.as_str()),
            _ => None,
        };
        let key = node.snapshot_key();
        let mounts = node.snapshotter.prepare(&key, parent).map_err(snapshot_error)?;
        let prepared = Self { node: Arc::clone(node), key };
        match destination(&*node.snapshotter, &mounts) {
            Some((root, mode)) => Ok((prepared, root, mode)),
            None => Err(Error::Unsupported { what: format!("unpacking into the mounts {mounts:?}") }),
        }
    }

    /// Makes it a layer. Blocks while the disk takes it.
    fn commit(self, layer: &Layer) -> Result<()> {
        let parent = layer.below.as_ref().map(|below| below.chain_id.as_str());
        let committed = self.node.snapshotter.commit(layer.chain_id.as_str(), &self.key, parent);
        match committed {
            Err(cleat_snapshots::Error::AlreadyExists { .. }) => Ok(()),
            committed => committed.map_err(snapshot_error),
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        match self.node.snapshotter.remove(&self.key) {
            // Committed, it has another name.
            Ok(()) | Err(cleat_snapshots::Error::NotFound { .. }) => {}
            Err(e) => tracing::warn!(key = self.key, error = %e, "an unpacked layer stays until the next start"),
        }
    }
}

/// What the unpacker says of foreign bytes is about the layer; what it says of the disk, about the disk. Reading the
/// layer fails when it cannot be expanded; that storing it failed on the way is told by whoever stored it.
fn unpacking(e: cleat_snapshots::Error, what: &str) -> Error {
    use cleat_snapshots::Error as E;
    match e {
        E::Io { op: "read", path, source } if path == Path::new("layer") => Error::corrupt(what, source),
        e @ (E::Invalid { .. } | E::TooLarge { .. }) => Error::corrupt(what, e),
        e => snapshot_error(e),
    }
}
