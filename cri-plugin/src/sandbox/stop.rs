//! StopPodSandbox: every container ends, the network and the shim are given back; the record stays.

use std::sync::Arc;

use super::{Sandbox, teardown};
use crate::daemon::Daemon;
use crate::{Result, container};

/// Stops a sandbox; one that is stopped or missing is stopped already.
///
/// # Errors
/// What resisted, first of all a failing CNI DEL; calling again goes on. Source: CRI api.proto, StopPodSandbox.
pub async fn stop(daemon: &Arc<Daemon>, id: &str) -> Result<()> {
    match daemon.pods.sandbox(id) {
        Ok(sandbox) => {
            let _op = sandbox.op.write().await;
            halt(daemon, &sandbox).await
        }
        Err(crate::Error::NotFound { .. }) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Stops a sandbox whose `op` the caller holds.
pub(super) async fn halt(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>) -> Result<()> {
    for container in daemon.pods.containers_of(sandbox.id()) {
        container::kill(daemon, &container).await?;
        // Taken by whoever frees what an ended container held: the shim must not be ended in the middle of that.
        drop(container.op.lock().await);
    }
    sandbox.advance(&daemon.store, |s| Ok(s.not_ready())).await?;
    teardown(daemon, sandbox).await
}
