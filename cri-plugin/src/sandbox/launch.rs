//! Starting a pod's shim and the sandbox in it, and finding it again after a restart of the daemon.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use super::Sandbox;
use crate::daemon::Daemon;
use crate::tasks::{self, Launch, Shim};
use crate::{Error, Result, spec};

/// Starts the shim, connects, and keeps the connection in the sandbox. The caller starts the sandbox in it when the
/// network namespace is there.
pub(super) async fn launch(daemon: &Daemon, sandbox: &Sandbox) -> Result<Arc<Shim>> {
    let runtime = daemon.config.runtimes.get(&sandbox.fixed.handler).ok_or_else(|| unknown(daemon, sandbox))?;
    let binary = tasks::find_binary(&runtime.kind)?;
    let bundle = tasks::bundle(&daemon.config.state, sandbox.id().as_str());
    std::fs::create_dir_all(&bundle).map_err(Error::io("mkdir", &bundle))?;
    let cgroup = format!("{}/{}", daemon.config.cgroup.shims.trim_end_matches('/'), sandbox.id());
    let start = Launch {
        binary: &binary,
        id: sandbox.id().as_str(),
        bundle: &bundle,
        socket: &daemon.config.socket,
        socket_dir: &daemon.config.state.join("s"),
        deadline: daemon.config.timeouts.shim(),
    };
    let address = start.start(tasks::runc_options(runtime, cgroup)?).await?;
    let shim = connect(daemon, sandbox, &address, daemon.config.timeouts.shim()).await?;
    sandbox.set_shim(Some(shim.clone()));
    Ok(shim)
}

/// Makes and starts the sandbox in its shim; returns the pid of its pause process, or zero.
pub(super) async fn start(daemon: &Daemon, sandbox: &Sandbox, shim: &Shim) -> Result<u32> {
    let bundle = tasks::bundle(&daemon.config.state, sandbox.id().as_str());
    let netns = sandbox.netns(&daemon.config.state);
    let mut config = sandbox.fixed.config.clone();
    // Ports below 1024 and ping without a capability, as under containerd; what the pod itself asks for wins.
    let mut sysctls = spec::sysctls::unprivileged(&config)?;
    sysctls.extend(spec::sysctls::of(&config)?);
    config.linux.get_or_insert_default().sysctls = sysctls;
    shim.start_sandbox(sandbox.id().as_str(), &bundle, netns.as_deref(), config.encode_to_vec()).await
}

/// Connects again to a shim that an earlier daemon started, by the address it left in its bundle.
///
/// # Errors
/// `NotFound` where it left none; `Unreachable`, `TimedOut`.
pub async fn reconnect(daemon: &Daemon, sandbox: &Sandbox, deadline: Duration) -> Result<Arc<Shim>> {
    let file = tasks::bundle(&daemon.config.state, sandbox.id().as_str()).join("address");
    let address = match std::fs::read_to_string(&file) {
        Ok(address) => address,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::not_found("shim address", file.display().to_string()));
        }
        Err(e) => return Err(Error::io("read", file)(e)),
    };
    let shim = connect(daemon, sandbox, address.trim(), deadline).await?;
    sandbox.set_shim(Some(shim.clone()));
    Ok(shim)
}

async fn connect(_: &Daemon, sandbox: &Sandbox, address: &str, deadline: Duration) -> Result<Arc<Shim>> {
    Shim::connect(address, format!("shim of sandbox {}", sandbox.id()), deadline).await.map(Arc::new)
}

/// A handler that was in the configuration when the pod was made and is not now.
fn unknown(daemon: &Daemon, sandbox: &Sandbox) -> Error {
    let known: Vec<_> = daemon.config.runtimes.keys().cloned().collect();
    Error::not_found("runtime handler", format!("{} (known: {})", sandbox.fixed.handler, known.join(", ")))
}
