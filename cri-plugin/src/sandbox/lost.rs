//! One task per ready sandbox waits for its shim's word that the sandbox ended, or for the end of the shim.

use std::sync::Arc;

use super::{Phase, Sandbox, State, teardown};
use crate::daemon::Daemon;
use crate::{Error, container};

/// Watches until the sandbox ends or is stopped.
pub fn watch_shim(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>) {
    let Ok(shim) = sandbox.shim() else { return };
    let (daemon, sandbox) = (daemon.clone(), sandbox.clone());
    let owner = daemon.clone();
    owner.spawn(async move {
        let ended = shim.wait_sandbox(sandbox.id().as_str()).await;
        drop(shim);
        let _op = sandbox.op.write().await;
        if sandbox.state().phase != Phase::Ready {
            return;
        }
        match ended {
            Ok(()) => tracing::warn!(sandbox = %sandbox.id(), "the sandbox's own process has ended"),
            Err(e) => lost(&daemon, &sandbox, &e).await,
        }
        let told = sandbox.advance(&daemon.store, |s| Ok(State { phase: Phase::NotReady, ..s })).await;
        if let Err(e) = told {
            tracing::error!(sandbox = %sandbox.id(), error = %e, "the store does not take the end of a sandbox");
        }
    });
}

/// The shim has gone: what it ran is killed and told to have ended. The network stays until Stop.
pub(crate) async fn lost(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>, why: &Error) {
    tracing::error!(sandbox = %sandbox.id(), error = %why, "the shim has ended by itself");
    sandbox.set_shim(None);
    for container in daemon.pods.containers_of(sandbox.id()) {
        if let Err(e) = teardown::delete_leftovers(daemon, sandbox, container.id().as_str()).await {
            tracing::error!(container = %container.id(), error = %e, "a container of a lost shim is left");
        }
        container::shim_lost(daemon, &container).await;
    }
}
