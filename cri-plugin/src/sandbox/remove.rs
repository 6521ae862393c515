//! RemovePodSandbox: stop, remove the containers, forget.

use std::path::Path;
use std::sync::Arc;

use super::{Files, Sandbox, Stored, stop};
use crate::daemon::Daemon;
use crate::id::ContainerId;
use crate::{Error, Result, container, tasks};

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
    for stray in strays(daemon, sandbox)? {
        container::remove_traces(daemon, &stray).await?;
    }
    daemon.store.delete::<Stored>(sandbox.id().as_str()).await?;
    daemon.pods.remove_sandbox(sandbox.id());
    Ok(())
}

/// Containers of this pod that have a bundle and no record: their records were set aside.
fn strays(daemon: &Daemon, sandbox: &Sandbox) -> Result<Vec<ContainerId>> {
    let dir = tasks::bundle(&daemon.config.state, "");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", dir)(e)),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let unknown = names.filter(|name| daemon.pods.container(name).is_err() && daemon.pods.sandbox(name).is_err());
    let ids = unknown.filter_map(|name| ContainerId::try_from(name).ok());
    Ok(ids.filter(|id| names_sandbox(&dir.join(id.as_str()).join("config.json"), sandbox.id().as_str())).collect())
}

fn names_sandbox(spec: &Path, id: &str) -> bool {
    let spec = std::fs::read(spec).ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
    spec.is_some_and(|spec| spec["annotations"]["io.kubernetes.cri.sandbox-id"] == id)
}
