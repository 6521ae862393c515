//! A container's writable snapshot over its image, and the folder of its own under ROOT.

use std::path::PathBuf;

use cleat_snapshots::mount::Mount;

use crate::daemon::Daemon;
use crate::id::ContainerId;
use crate::{Error, Result};

/// Makes the snapshot; one that is there already is an error of the caller's.
pub(super) async fn prepare(daemon: &Daemon, id: &ContainerId, parent: Option<String>) -> Result<Vec<Mount>> {
    let (snapshotter, key) = (daemon.snapshotter.clone(), id.to_string());
    crate::blocking(move || snapshotter.prepare(&key, parent.as_deref()).map_err(|e| wrong("prepare", &key, e))).await
}

/// The mounts that make up the root filesystem.
pub(super) async fn mounts(daemon: &Daemon, id: &ContainerId) -> Result<Vec<Mount>> {
    let (snapshotter, key) = (daemon.snapshotter.clone(), id.to_string());
    crate::blocking(move || snapshotter.mounts(&key).map_err(|e| wrong("mounts", &key, e))).await
}

/// Removes the snapshot; one that is not there counts as removed.
pub(super) async fn remove(daemon: &Daemon, id: &ContainerId) -> Result<()> {
    let (snapshotter, key) = (daemon.snapshotter.clone(), id.to_string());
    crate::blocking(move || match snapshotter.remove(&key) {
        Ok(()) | Err(cleat_snapshots::Error::NotFound { .. }) => Ok(()),
        Err(e) => Err(wrong("remove", &key, e)),
    })
    .await
}

/// What else a container keeps on disk: the contents of its image's volumes.
pub(super) fn dir(daemon: &Daemon, id: &ContainerId) -> PathBuf {
    daemon.config.root.join("containers").join(id.as_str())
}

fn wrong(verb: &str, key: &str, e: cleat_snapshots::Error) -> Error {
    Error::failed(format!("{verb} snapshot {key}"), e)
}
