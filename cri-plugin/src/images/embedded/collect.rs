//! Garbage: blobs and layers that no image is made of and no pull holds, and what a crash left behind.
//!
//! What is unreferenced is not garbage at once: layers of a pull that failed half-way save the next one their work. They
//! stay for an hour, or until an image is removed, which kubelet does when the disk is full. A layer that a container
//! stands on has a child and stays until that is gone.

use std::time::{Duration, SystemTime};

use cleat_snapshots::{Info, Kind};

use super::leases::Condemned;
use super::node::{Node, snapshot_error};
use crate::Result;
use crate::images::ImageId;
use crate::images::digest::Digest;

/// How long what is unreferenced stays for the next pull.
pub const GRACE: Duration = Duration::from_secs(3600);

/// Removes what nobody wants and what is older than `grace`. Blocks.
///
/// # Errors
/// Those of listing; what cannot be removed is logged and stays for the next time.
pub fn collect(node: &Node, grace: Option<Duration>) -> Result<()> {
    blobs(node, grace)?;
    layers(node, grace)?;
    node.forget(None);
    node.store.refill();
    Ok(())
}

fn blobs(node: &Node, grace: Option<Duration>) -> Result<()> {
    let all = node.content.list()?;
    let candidates: Vec<&Digest> = {
        let index = node.store.index();
        let wanted = index.blobs();
        let unwanted = |blob: &&super::content::Blob| !wanted.contains_key(&blob.digest) && is_old(blob.stored, grace);
        all.iter().filter(unwanted).map(|blob| &blob.digest).collect()
    };
    let condemned: Vec<(&Digest, Condemned<'_>)> =
        candidates.into_iter().filter_map(|digest| Some((digest, node.leases.condemn(digest)?))).collect();
    for (digest, _condemned) in condemned {
        // Looked at again: a pull may have finished, and given up its lease, just before it was condemned.
        if !node.store.index().blobs().contains_key(digest)
            && let Err(e) = node.content.remove(digest)
        {
            tracing::warn!(blob = %digest, error = %e, "a blob that nobody wants stays");
        }
    }
    Ok(())
}

fn layers(node: &Node, grace: Option<Duration>) -> Result<()> {
    let all = node.snapshotter.walk().map_err(snapshot_error)?;
    // Children come after their parents.
    for info in all.iter().rev().filter(|info| info.kind == Kind::Committed && is_old(info.updated, grace)) {
        let Ok(chain_id) = info.name.parse::<Digest>() else { continue };
        if node.store.index().chains().contains(&chain_id) {
            continue;
        }
        let Some(_condemned) = node.leases.condemn(&chain_id) else { continue };
        if node.store.index().chains().contains(&chain_id) {
            continue;
        }
        match node.snapshotter.remove(&info.name) {
            Ok(()) | Err(cleat_snapshots::Error::HasChildren { .. } | cleat_snapshots::Error::NotFound { .. }) => {}
            Err(e) => tracing::warn!(layer = info.name, error = %e, "a layer that nobody wants stays"),
        }
    }
    Ok(())
}

fn is_old(since: SystemTime, grace: Option<Duration>) -> bool {
    // A clock that was set back makes nothing old.
    grace.is_none_or(|grace| since.elapsed().is_ok_and(|age| age > grace))
}

/// Puts in order what a crash left, and sets images aside that are not whole. Blocks; for the start, before any pull.
///
/// # Errors
/// The snapshotter's and the store's.
pub fn repair(node: &Node) -> Result<()> {
    let all = node.snapshotter.walk().map_err(snapshot_error)?;
    for info in all.iter().filter(|info| Node::is_snapshot_key(&info.name)) {
        tracing::info!(key = info.name, "removing a layer that a crash left half unpacked");
        node.snapshotter.remove(&info.name).map_err(snapshot_error)?;
    }
    for (id, why) in broken(node, &all) {
        node.store.set_aside(&id, &why)?;
    }
    damaged_blobs(node)?;
    collect(node, Some(GRACE))
}

/// Images that lack a layer or their config. A layer's blob may be missing: it is needed no more.
fn broken(node: &Node, snapshots: &[Info]) -> Vec<(ImageId, String)> {
    let committed: std::collections::HashSet<&str> =
        snapshots.iter().filter(|info| info.kind == Kind::Committed).map(|info| info.name.as_str()).collect();
    let index = node.store.index();
    let wrong = |record: &super::store::Record| {
        if let Some(missing) = record.chain.iter().find(|chain_id| !committed.contains(chain_id.as_str())) {
            return Some(format!("its layer {missing} is missing"));
        }
        let config = record.id.digest();
        let there = node.content.size_bytes(config);
        (there != record.blobs.get(config).copied()).then(|| "its config is missing or damaged".to_string())
    };
    index.records().filter_map(|record| wrong(record).map(|why| (record.id.clone(), why))).collect()
}

/// Blobs of another size than they were stored with.
fn damaged_blobs(node: &Node) -> Result<()> {
    for blob in node.content.list()? {
        let wanted = node.store.index().blobs().get(&blob.digest).copied();
        if wanted.is_some_and(|size| size != blob.size_bytes) {
            tracing::error!(blob = %blob.digest, size_bytes = blob.size_bytes, "removing a blob that lost bytes");
            node.content.remove(&blob.digest)?;
        }
    }
    Ok(())
}
