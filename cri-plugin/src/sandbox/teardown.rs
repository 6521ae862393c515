//! Everything a sandbox holds outside this process is given back here, in an order that leaves the rest retriable.
//!
//! Idempotent: what is missing counts as given back. The first error ends it, and the next call starts over.

use std::path::PathBuf;
use std::time::Duration;

use cleat_proto::cri::v1 as cri;

use super::{Files, Network, Sandbox, State, files, reconnect};
use crate::cni::{Attachment, Bandwidth, PortMapping, Protocol};
use crate::daemon::Daemon;
use crate::tasks::{self, Launch};
use crate::{Error, Result, netns};

/// Ends the shim, releases the network, and removes mounts and folders of the state.
///
/// # Errors
/// `TimedOut` for a shim that hangs, the words of a failing CNI DEL, `Io`. Calling it again goes on.
pub async fn teardown(daemon: &Daemon, sandbox: &Sandbox) -> Result<()> {
    end_shim(daemon, sandbox).await?;
    release_network(daemon, sandbox).await?;
    let files = Files::of(&daemon.config, sandbox.id());
    let bundle = tasks::bundle(&daemon.config.state, sandbox.id().as_str());
    crate::blocking(move || {
        files.release()?;
        files::remove_dir(&bundle)
    })
    .await
}

/// Asks the shim to end; where it does not answer any more, its `delete` ends what it left.
async fn end_shim(daemon: &Daemon, sandbox: &Sandbox) -> Result<()> {
    let id = sandbox.id().as_str();
    let connected = match sandbox.shim() {
        Ok(shim) => Ok(shim),
        Err(_) => reconnect(daemon, sandbox, daemon.config.timeouts.reconnect()).await,
    };
    let ended = match connected {
        Ok(shim) => shim.shutdown(id).await,
        Err(Error::NotFound { .. } | Error::Unreachable { .. }) => Ok(()),
        Err(e) => Err(e),
    };
    sandbox.set_shim(None);
    ended?;
    delete_leftovers(daemon, sandbox, id).await
}

/// Runs the shim's `delete` for the sandbox or for one of its containers, if there is a bundle.
pub(crate) async fn delete_leftovers(daemon: &Daemon, sandbox: &Sandbox, id: &str) -> Result<()> {
    let bundle = tasks::bundle(&daemon.config.state, id);
    let (Some(runtime), true) = (daemon.config.runtimes.get(&sandbox.fixed.handler), bundle.is_dir()) else {
        return Ok(());
    };
    let binary = tasks::find_binary(&runtime.kind)?;
    Launch {
        binary: &binary,
        id,
        bundle: &bundle,
        socket: &daemon.config.socket,
        socket_dir: &daemon.config.state.join("s"),
        deadline: Duration::from_secs(10),
    }
    .delete()
    .await
}

async fn release_network(daemon: &Daemon, sandbox: &Sandbox) -> Result<()> {
    let Some(netns) = sandbox.netns(&daemon.config.state) else { return Ok(()) };
    match sandbox.state().network {
        Network::Host | Network::Released => {}
        Network::Pending => daemon.cni.del(&attachment(sandbox, netns.clone())?, None).await?,
        Network::Attached(a) => daemon.cni.del(&attachment(sandbox, netns.clone())?, Some(&a)).await?,
    }
    crate::blocking(move || netns::remove(&netns)).await?;
    sandbox.advance(&daemon.store, |s| Ok(State { network: Network::Released, ..s })).await
}

/// What CNI is told of a pod, the same for ADD and DEL.
///
/// # Errors
/// `Invalid` for ports, addresses and bandwidths that are none.
pub(super) fn attachment(sandbox: &Sandbox, netns: PathBuf) -> Result<Attachment> {
    let config = &sandbox.fixed.config;
    let metadata = config.metadata.clone().unwrap_or_default();
    let ports = config.port_mappings.iter().enumerate().filter(|(_, p)| p.host_port > 0);
    Ok(Attachment {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        port_mappings: ports.map(|(i, p)| port_mapping(i, p)).collect::<Result<_>>()?,
        bandwidth: Bandwidth::from_annotations(&config.annotations)?,
        annotations: config.annotations.clone(),
        ..Attachment::new(sandbox.id().clone(), netns)
    })
}

fn port_mapping(index: usize, port: &cri::PortMapping) -> Result<PortMapping> {
    let wrong = |field: &str, value: String| Error::invalid(format!("port_mappings[{index}].{field}"), value);
    let number = |field: &str, n: i32| u16::try_from(n).map_err(|_| wrong(field, format!("{n} is no port")));
    let protocol = match port.protocol() {
        cri::Protocol::Tcp => Protocol::Tcp,
        cri::Protocol::Udp => Protocol::Udp,
        cri::Protocol::Sctp => Protocol::Sctp,
    };
    let host_ip = match port.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| wrong("host_ip", format!("{text:?} is no address")))?),
    };
    Ok(PortMapping {
        host_port: number("host_port", port.host_port)?,
        container_port: number("container_port", port.container_port)?,
        protocol,
        host_ip,
    })
}
