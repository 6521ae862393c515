//! RemovePodSandbox: stop, remove the containers, forget.

use std::sync::Arc;

use super::{Files, Sandbox, Stored, stop};
use crate::daemon::Daemon;
use crate::{Error, Result, container};

/// Removes a sandbox and all its containers, running or not; one that is missing is removed already.
///
/// # Errors
/// As `stop`. Source: CRI api.proto, RemovePodSandbox.
pub async fn remove(daemon: &Arc<Daemon>, id: &str) -> Result<()> {
    let sandbox = match daemon.pods.sandbox(id) {
        Ok(sandbox) => sandbox,
        Err(Error::NotFound { .. }) => return Ok(()),
        Err(e) => return Err(e),
    };
    let _op = sandbox.op.write().await;
    stop::halt(daemon, &sandbox).await?;
    for container in daemon.pods.containers_of(sandbox.id()) {
        container::discard(daemon, &container).await?;
    }
    forget(daemon, &sandbox).await
}

/// Removes the last files and the record.
pub(crate) async fn forget(daemon: &Daemon, sandbox: &Arc<Sandbox>) -> Result<()> {
    let files = Files::of(&daemon.config, sandbox.id());
    crate::blocking(move || files.remove()).await?;
    daemon.store.delete::<Stored>(sandbox.id().as_str()).await?;
    daemon.pods.remove_sandbox(sandbox.id());
    Ok(())
}
