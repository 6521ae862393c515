//! StopSandbox and ShutdownSandbox: end what runs in the pod, then the pod.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use cleat_snapshots::mount::unmount_all;
use tokio::time::timeout;

use super::Ended;
use crate::{
    container::Container,
    error::{Error, Result},
    shim::Shim,
};

/// How long the end of what was killed is awaited.
const KILLED_DEADLINE: Duration = Duration::from_secs(10);

/// Ends every container, politely within `grace` and then by force, and the sandbox. May be repeated.
pub async fn stop(shim: &Shim, grace: Duration) -> Result<()> {
    let running = living(shim);
    if !grace.is_zero() && !running.is_empty() {
        signal(&running, libc::SIGTERM);
        let _ = timeout(grace, ended(&running)).await;
    }
    let running = living(shim);
    signal(&running, libc::SIGKILL);
    let late = |_| Error::TimedOut { what: "the end of the sandbox's containers".into(), after: KILLED_DEADLINE };
    timeout(KILLED_DEADLINE, ended(&running)).await.map_err(late)?;
    if let Some(pause) = shim.sandbox.pause() {
        pause.signal(libc::SIGKILL)?;
        let late = |_| Error::TimedOut { what: "the end of the pause process".into(), after: KILLED_DEADLINE };
        timeout(KILLED_DEADLINE, shim.sandbox.wait()).await.map_err(late)?;
    }
    shim.sandbox.end(Ended { status: 0, at: SystemTime::now() });
    Ok(())
}

/// Stops the sandbox, removes what the daemon left of its containers, and ends the shim.
pub async fn shutdown(shim: &Shim) -> Result<()> {
    let stopped = stop(shim, Duration::ZERO).await;
    for container in shim.containers() {
        // The daemon has given up on them; what fails here its `delete` tries again.
        let _ = container.runtime.delete_force(&container.id, &container.bundle).await;
        let _ = unmount_all(&container.bundle.rootfs());
    }
    shim.stop.notify_one();
    stopped
}

fn living(shim: &Shim) -> Vec<Arc<Container>> {
    let mut containers = shim.containers();
    containers.retain(|container| container.init.life().handle().is_some());
    containers
}

fn signal(containers: &[Arc<Container>], signal: i32) {
    for container in containers {
        // One that has just ended needs none.
        let _ = container.init.signal(signal);
    }
}

async fn ended(containers: &[Arc<Container>]) {
    for container in containers {
        container.init.wait().await;
    }
}
