//! RunPodSandbox: validate, remember, bring up; whatever fails is torn down again.

use std::sync::Arc;

use cleat_proto::cri::v1::PodSandboxConfig;
use prost::Message;

use super::teardown::{attachment, teardown};
use super::{Files, Fixed, Network, Phase, Sandbox, State, launch, name, watch_shim};
use crate::cni::Attached;
use crate::daemon::Daemon;
use crate::id::SandboxId;
use crate::{Error, Result, netns, spec};

/// Runs a sandbox and returns its id. A second request for the same pod joins the first, or gets its id if that
/// sandbox is still there and ready: kubelet asks again after its own deadline.
///
/// # Errors
/// `Invalid`, `NotFound` for a handler that is not configured, `AlreadyExists` for a name in use by a different
/// request, and whatever the shim or the network said. Source: CRI api.proto, RunPodSandbox.
pub async fn run(daemon: &Arc<Daemon>, config: PodSandboxConfig, handler: String) -> Result<String, Arc<Error>> {
    spec::validate::sandbox_config(&config)?;
    let resolved = daemon.config.handler(&handler)?.to_string();
    let request = [config.encode_to_vec(), handler.clone().into_bytes()].concat();
    let (owner, name) = (daemon.clone(), name(&config));
    daemon
        .claims
        .join(&name, request, async move {
            if let Some(id) = existing(&owner, &config, &handler)? {
                return Ok(id);
            }
            let sandbox = new(&owner, config, handler, resolved)?;
            make(&owner, sandbox).await
        })
        .await
}

/// The sandbox of that name, if this is the request that made it.
fn existing(daemon: &Daemon, config: &PodSandboxConfig, handler: &str) -> Result<Option<String>> {
    let name = name(config);
    let Some(first) = daemon.pods.sandboxes().into_iter().find(|s| self::name(&s.fixed.config) == name) else {
        return Ok(None);
    };
    let same = first.fixed.config == *config && first.fixed.requested_handler == handler;
    if same && first.state().phase == Phase::Ready {
        return Ok(Some(first.id().to_string()));
    }
    Err(Error::AlreadyExists { kind: "sandbox", id: format!("{name} (held by {})", first.id()) })
}

fn new(daemon: &Daemon, config: PodSandboxConfig, requested: String, handler: String) -> Result<Arc<Sandbox>> {
    let fixed = Fixed {
        id: SandboxId::random()?,
        config,
        requested_handler: requested,
        handler,
        created_at: crate::clock::now(),
        boot_id: daemon.boot_id.clone(),
    };
    let sandbox = Sandbox::new(fixed, State { phase: Phase::Creating, network: Network::Pending, pid: 0 });
    Ok(sandbox)
}

async fn make(daemon: &Arc<Daemon>, sandbox: Arc<Sandbox>) -> Result<String> {
    let _op = sandbox.op.write().await;
    let host = sandbox.host_network();
    let network = if host { Network::Host } else { Network::Pending };
    sandbox.advance(&daemon.store, |s| Ok(State { network, ..s })).await?;
    daemon.pods.insert_sandbox(sandbox.clone());
    match bring_up(daemon, &sandbox).await {
        Ok(()) => {
            watch_shim(daemon, &sandbox);
            Ok(sandbox.id().to_string())
        }
        Err(e) => {
            undo(daemon, &sandbox).await;
            Err(e)
        }
    }
}

async fn bring_up(daemon: &Daemon, sandbox: &Sandbox) -> Result<()> {
    let files = Files::of(&daemon.config, sandbox.id());
    let (config, pinned, paths) = (sandbox.fixed.config.clone(), sandbox.netns(&daemon.config.state), files.clone());
    crate::blocking(move || {
        paths.make(&config)?;
        pinned.as_deref().map_or(Ok(()), netns::create)
    })
    .await?;
    // ADD is two or three processes, the shim another: neither needs the other, both need the namespace.
    let (network, pid) = tokio::join!(attach(daemon, sandbox), async {
        let shim = launch::launch(daemon, sandbox).await?;
        launch::start(daemon, sandbox, &shim).await
    });
    let attached = network?;
    // What ADD gave is stored even where the shim failed: its DEL wants it.
    let ips = attached.as_ref().map(|a| a.ips.clone()).unwrap_or_default();
    let network = attached.map_or(Network::Host, |a| Network::Attached(Box::new(a)));
    let kept = network.clone();
    let pid = match pid {
        Ok(pid) => pid,
        Err(e) => {
            sandbox.advance(&daemon.store, |s| Ok(State { network: kept, ..s })).await?;
            return Err(e);
        }
    };
    files.write_hosts(&sandbox.fixed.config, &ips, sandbox.host_network())?;
    sandbox.advance(&daemon.store, |s| s.ready(sandbox.id(), network, pid)).await
}

async fn attach(daemon: &Daemon, sandbox: &Sandbox) -> Result<Option<Attached>> {
    match sandbox.netns(&daemon.config.state) {
        None => Ok(None),
        Some(netns) => daemon.cni.add(&attachment(sandbox, netns)?).await.map(Some),
    }
}

/// After a failure: all is taken down again. What resists stays as a sandbox that is not ready, so that kubelet's
/// Stop and Remove come back to it.
async fn undo(daemon: &Daemon, sandbox: &Arc<Sandbox>) {
    let torn = teardown(daemon, sandbox).await;
    if let Err(e) = &torn {
        tracing::warn!(sandbox = %sandbox.id(), error = %e, "a failed sandbox could not be undone, it stays NotReady");
    }
    let gone = match torn {
        Ok(()) => super::remove::forget(daemon, sandbox).await,
        Err(_) => sandbox.advance(&daemon.store, |s| Ok(s.not_ready())).await,
    };
    if let Err(e) = gone {
        tracing::error!(sandbox = %sandbox.id(), error = %e, "the store does not take the end of a failed sandbox");
    }
}
