//! RemoveContainer: whatever is left of it goes, and then its record.

use std::sync::Arc;

use super::{Container, Stored, kill, rootfs};
use crate::daemon::Daemon;
use crate::id::ContainerId;
use crate::{Error, Result, sandbox, tasks};

/// Removes a container, running or not; one that is missing is removed already.
///
/// # Errors
/// What resisted; calling again goes on. Source: CRI api.proto, RemoveContainer.
pub async fn remove(daemon: &Arc<Daemon>, id: &str) -> Result<()> {
    let container = match daemon.pods.container(id) {
        Ok(container) => container,
        Err(Error::NotFound { .. }) => return Ok(()),
        Err(e) => return Err(e),
    };
    match daemon.pods.sandbox(container.fixed.sandbox.as_str()) {
        Ok(sandbox) => {
            let _pod = sandbox.op.read().await;
            discard(daemon, &container).await
        }
        Err(_) => discard(daemon, &container).await,
    }
}

/// Removes a container whose pod's turn the caller holds.
pub(crate) async fn discard(daemon: &Arc<Daemon>, container: &Arc<Container>) -> Result<()> {
    kill(daemon, container).await?;
    let _op = container.op.lock().await;
    forget_task(daemon, container).await?;
    remove_traces(daemon, container.id()).await?;
    daemon.store.delete::<Stored>(container.id().as_str()).await?;
    daemon.pods.remove_container(container.id());
    Ok(())
}

/// Removes what a container has on disk; whatever is missing counts as removed.
pub(crate) async fn remove_traces(daemon: &Daemon, id: &ContainerId) -> Result<()> {
    let (root, bundle) = (rootfs::dir(daemon, id), tasks::bundle(&daemon.config.state, id.as_str()));
    crate::blocking(move || {
        cleat_snapshots::mount::unmount_all(&bundle.join("rootfs"))
            .map_err(|e| Error::failed(format!("unmount {}", bundle.display()), e))?;
        sandbox::remove_dir(&bundle)?;
        sandbox::remove_dir(&root)
    })
    .await?;
    rootfs::remove(daemon, id).await
}

/// The shim forgot the task when it ended, unless that failed then; its mount would hold the snapshot.
async fn forget_task(daemon: &Daemon, container: &Container) -> Result<()> {
    let shim = daemon.pods.sandbox(container.fixed.sandbox.as_str()).and_then(|s| s.shim());
    match shim {
        Ok(shim) => match shim.delete(container.id().as_str(), "").await {
            Err(Error::Unreachable { .. }) | Ok(()) => Ok(()),
            Err(e) => Err(e),
        },
        Err(_) => Ok(()),
    }
}
