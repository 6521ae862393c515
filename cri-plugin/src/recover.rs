//! Finding the pods of an earlier daemon: the store says what there was, the shims say what there is.
//!
//! Each sandbox is recovered in a task of its own that holds the sandbox's turn, so that one shim that hangs delays
//! nobody but the calls to its own pod. The daemon serves as soon as all are done, or after two seconds.

use std::sync::Arc;
use std::time::Duration;

use crate::container::{self, Container, Exit};
use crate::daemon::Daemon;
use crate::sandbox::{self, Phase, Sandbox};
use crate::{Error, Result};

/// How long the daemon waits for slow shims before it serves.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often leftovers of images are looked for.
const TIDY_INTERVAL: Duration = Duration::from_secs(300);

/// Loads the store and takes up what lives.
///
/// # Errors
/// A store that cannot be read at all; never a single record or shim.
pub async fn recover(daemon: &Arc<Daemon>) -> Result<()> {
    for stored in daemon.store.load::<sandbox::Stored>().await? {
        daemon.pods.insert_sandbox(Sandbox::new(stored.fixed, stored.state));
    }
    for stored in daemon.store.load::<container::Stored>().await? {
        daemon.pods.insert_container(Container::new(stored.fixed, stored.state));
    }
    let mut recovering = Vec::new();
    for sandbox in daemon.pods.sandboxes() {
        let (done, finished) = tokio::sync::oneshot::channel::<()>();
        let (owner, turn) = (daemon.clone(), sandbox.clone());
        // Taken before anybody can ask for the pod.
        let op = sandbox_turn(turn).await;
        daemon.spawn(async move {
            one(&owner, &sandbox).await;
            drop((op, done));
        });
        recovering.push(finished);
    }
    let all = async {
        for finished in recovering {
            let _ = finished.await;
        }
    };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        tracing::warn!("serving although some sandboxes are still being recovered");
    }
    strays(daemon).await;
    keep_tidy(daemon);
    Ok(())
}

/// What failed pulls and killed daemons left is collected behind the daemon's work, now and every few minutes.
fn keep_tidy(daemon: &Arc<Daemon>) {
    let owner = daemon.clone();
    daemon.spawn(async move {
        let known = || owner.pods.sandboxes().iter().map(|s| s.id().clone()).collect();
        owner.cni.gc(known).await;
        loop {
            if let Err(e) = owner.images.collect().await {
                tracing::warn!(error = %e, "leftovers of images could not be collected");
            }
            tokio::time::sleep(TIDY_INTERVAL).await;
        }
    });
}

struct Turn {
    _guard: tokio::sync::OwnedRwLockWriteGuard<()>,
}

async fn sandbox_turn(sandbox: Arc<Sandbox>) -> Turn {
    Turn { _guard: sandbox.op.clone().write_owned().await }
}

async fn one(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>) {
    let outcome = match sandbox.state().phase {
        _ if sandbox.fixed.boot_id != daemon.boot_id => rebooted(daemon, sandbox).await,
        Phase::Creating => unwind(daemon, sandbox).await,
        Phase::Ready => take_up(daemon, sandbox).await,
        Phase::NotReady => half_made(daemon, sandbox).await,
    };
    if let Err(e) = outcome {
        tracing::error!(sandbox = %sandbox.id(), error = %e, "a sandbox could not be recovered as it was");
    }
}

/// A run that the last daemon did not finish.
async fn unwind(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>) -> Result<()> {
    tracing::info!(sandbox = %sandbox.id(), "unwinding a half-made sandbox");
    match sandbox::teardown(daemon, sandbox).await {
        Ok(()) => sandbox::forget(daemon, sandbox).await,
        Err(e) => {
            sandbox.advance(&daemon.store, |s| Ok(s.not_ready())).await?;
            Err(e)
        }
    }
}

async fn take_up(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>) -> Result<()> {
    half_made(daemon, sandbox).await?;
    let shim = match sandbox::reconnect(daemon, sandbox, daemon.config.timeouts.reconnect()).await {
        Ok(shim) => shim,
        Err(e @ (Error::NotFound { .. } | Error::Unreachable { .. })) => return gone(daemon, sandbox, &e).await,
        Err(e) => return Err(e),
    };
    for container in daemon.pods.containers_of(sandbox.id()) {
        match container::resume(daemon, &container, &shim).await {
            Err(e @ Error::Unreachable { .. }) => return gone(daemon, sandbox, &e).await,
            other => other?,
        }
    }
    sandbox::watch_shim(daemon, sandbox);
    Ok(())
}

async fn gone(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>, why: &Error) -> Result<()> {
    sandbox::lost(daemon, sandbox, why).await;
    sandbox.advance(&daemon.store, |s| Ok(s.not_ready())).await
}

/// Containers whose creation the last daemon did not finish.
async fn half_made(daemon: &Arc<Daemon>, sandbox: &Sandbox) -> Result<()> {
    for container in daemon.pods.containers_of(sandbox.id()) {
        if container.state() == container::State::Creating {
            container::discard(daemon, &container).await?;
        }
    }
    Ok(())
}

/// After a reboot no process, mount or namespace is left; records, addresses and folders are.
async fn rebooted(daemon: &Arc<Daemon>, sandbox: &Arc<Sandbox>) -> Result<()> {
    half_made(daemon, sandbox).await?;
    for container in daemon.pods.containers_of(sandbox.id()) {
        let exit = Exit {
            code: 255,
            started_at: 0,
            finished_at: crate::clock::now(),
            reason: "ContainerStatusUnknown".into(),
            message: "the machine was restarted".into(),
        };
        container.follow(&daemon.store, |s, id| s.exited(id, exit)).await;
    }
    sandbox.advance(&daemon.store, |s| Ok(s.not_ready())).await?;
    sandbox::teardown(daemon, sandbox).await
}

/// Containers without a sandbox: their sandbox's record was set aside. They are kept and told to have ended.
async fn strays(daemon: &Arc<Daemon>) {
    for container in daemon.pods.containers() {
        if daemon.pods.sandbox(container.fixed.sandbox.as_str()).is_err() {
            tracing::error!(container = %container.id(), sandbox = %container.fixed.sandbox, "its sandbox has no record");
            container::shim_lost(daemon, &container).await;
        }
    }
}
