//! Namespaces: joined from the pod, new for the container, or the host's; and the user namespace's mappings.
//!
//! Network, ipc, uts and user namespaces belong to the pod, so its configuration decides and the container's cannot
//! widen it. The pid namespace is the container's own choice. Mount is always new; cgroup is new on v2.

mod mappings;

use std::path::PathBuf;

use cleat_proto::cri::v1::{ContainerConfig, NamespaceMode, NamespaceOption, PodSandboxConfig};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

pub use mappings::{Mappings, mappings, supported};
pub(super) use mappings::{has, ranges};

use super::{Host, Input, known, namespace_options, privileged, sandbox_namespace_options};
use crate::{Error, Result};

/// Where the pod's namespaces can be joined; `None` where the pod has none of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// The network namespace.
    pub net: Option<PathBuf>,
    /// The ipc namespace.
    pub ipc: Option<PathBuf>,
    /// The uts namespace.
    pub uts: Option<PathBuf>,
    /// The pid namespace that the pod's containers share.
    pub pid: Option<PathBuf>,
    /// The user namespace.
    pub user: Option<PathBuf>,
    /// The pid namespace of the container that `target_id` names.
    pub target_pid: Option<PathBuf>,
}

/// The modes of a pod or a container, all known.
#[derive(Debug, Clone, Copy)]
struct Modes {
    network: NamespaceMode,
    pid: NamespaceMode,
    ipc: NamespaceMode,
}

impl Modes {
    fn of(field: &str, options: Option<&NamespaceOption>) -> Result<Self> {
        let mode = |name: &str, value| known(format!("{field}.namespace_options.{name}"), value);
        let zero = NamespaceOption::default();
        let options = options.unwrap_or(&zero);
        Ok(Self {
            network: mode("network", options.network)?,
            pid: mode("pid", options.pid)?,
            ipc: mode("ipc", options.ipc)?,
        })
    }
}

/// Whether the pod is on the host's network, which the host's uts namespace goes with.
pub fn host_network(sandbox: &PodSandboxConfig) -> bool {
    sandbox_namespace_options(sandbox).is_some_and(|o| o.network == NamespaceMode::Node as i32)
}

/// Whether the pod is in the host's ipc namespace.
pub fn host_ipc(sandbox: &PodSandboxConfig) -> bool {
    sandbox_namespace_options(sandbox).is_some_and(|o| o.ipc == NamespaceMode::Node as i32)
}

/// The container's namespaces (CRI api.proto, `NamespaceOption`).
///
/// # Errors
/// `Invalid` for a mode that is none or that the pod does not grant, and for a namespace that must be joined where the
/// caller knows no path.
pub fn list(input: &Input<'_>) -> Result<Vec<LinuxNamespace>> {
    use LinuxNamespaceType as T;
    let sandbox = input.sandbox.config;
    check_pod(sandbox)?;
    check_against_pod(sandbox, input.config)?;
    let joined = input.sandbox.namespaces;
    let mut out = vec![own(T::Mount)];
    if !host_network(sandbox) {
        out.push(join(T::Network, "network", &joined.net)?);
        out.push(join(T::Uts, "uts", &joined.uts)?);
    }
    if !host_ipc(sandbox) {
        out.push(join(T::Ipc, "ipc", &joined.ipc)?);
    }
    out.extend(pid(input)?);
    if mappings(sandbox)?.is_some() {
        supported(input.host)?;
        out.push(join(T::User, "userns_options", &joined.user)?);
    }
    if input.host.is_v2() && !privileged(input.config) {
        out.push(own(T::Cgroup));
    }
    Ok(out)
}

/// The namespaces of a pause container, which makes what the pod's containers will join: all but the network and user
/// namespaces, which the caller has made.
///
/// # Errors
/// `Invalid` for modes that no pod has and for a namespace the caller did not make.
pub fn of_pause(sandbox: &PodSandboxConfig, made: &Namespaces, host: &Host) -> Result<Vec<LinuxNamespace>> {
    use LinuxNamespaceType as T;
    check_pod(sandbox)?;
    let modes = Modes::of("linux.security_context", sandbox_namespace_options(sandbox))?;
    let mut out = vec![own(T::Mount)];
    if modes.network != NamespaceMode::Node {
        out.push(join(T::Network, "network", &made.net)?);
        out.push(own(T::Uts));
    }
    out.extend((modes.ipc != NamespaceMode::Node).then(|| own(T::Ipc)));
    out.extend((modes.pid != NamespaceMode::Node).then(|| own(T::Pid)));
    if mappings(sandbox)?.is_some() {
        supported(host)?;
        out.push(join(T::User, "userns_options", &made.user)?);
    }
    Ok(out)
}

fn pid(input: &Input<'_>) -> Result<Option<LinuxNamespace>> {
    use LinuxNamespaceType::Pid;
    let field = "linux.security_context";
    let pod = Modes::of(field, sandbox_namespace_options(input.sandbox.config))?;
    let joined = input.sandbox.namespaces;
    match Modes::of(field, namespace_options(input.config))?.pid {
        NamespaceMode::Container => Ok(Some(own(Pid))),
        NamespaceMode::Target => join(Pid, "target_id", &joined.target_pid).map(Some),
        NamespaceMode::Pod | NamespaceMode::Node if pod.pid == NamespaceMode::Node => Ok(None),
        NamespaceMode::Pod => join(Pid, "pid", &joined.pid).map(Some),
        NamespaceMode::Node => Err(Error::invalid(
            format!("{field}.namespace_options.pid"),
            "the container asks for the host's pid namespace, the pod does not",
        )),
    }
}

/// A container may not ask for a namespace of the host that its pod is not in, nor for one of its own that only pods
/// have.
pub(super) fn check_against_pod(sandbox: &PodSandboxConfig, config: &ContainerConfig) -> Result<()> {
    let field = "linux.security_context";
    let pod = Modes::of(field, sandbox_namespace_options(sandbox))?;
    let own = Modes::of(field, namespace_options(config))?;
    for (name, pod, own) in [("network", pod.network, own.network), ("ipc", pod.ipc, own.ipc)] {
        let wrong = |why: &str| Err(Error::invalid(format!("{field}.namespace_options.{name}"), why));
        match own {
            NamespaceMode::Node if pod != NamespaceMode::Node => {
                return wrong("the container asks for the host's namespace, the pod does not");
            }
            NamespaceMode::Target => return wrong("only the pid namespace can be another container's"),
            _ => {}
        }
    }
    if let Some(own) = namespace_options(config).and_then(|o| o.userns_options.as_ref())
        && sandbox_namespace_options(sandbox).and_then(|o| o.userns_options.as_ref()) != Some(own)
    {
        let name = format!("{field}.namespace_options.userns_options");
        return Err(Error::invalid(name, "the container's differ from the pod's, whose user namespace it joins"));
    }
    let target = namespace_options(config).map_or("", |o| o.target_id.as_str());
    if own.pid == NamespaceMode::Target && target.is_empty() {
        return Err(Error::invalid(format!("{field}.namespace_options.target_id"), "mode TARGET needs it"));
    }
    Ok(())
}

/// The pod's own modes and mappings.
pub(super) fn check_pod(sandbox: &PodSandboxConfig) -> Result<()> {
    let field = "linux.security_context";
    let pod = Modes::of(field, sandbox_namespace_options(sandbox))?;
    for (name, mode) in [("network", pod.network), ("pid", pod.pid), ("ipc", pod.ipc)] {
        if mode == NamespaceMode::Target {
            return Err(Error::invalid(format!("{field}.namespace_options.{name}"), "a pod has no TARGET"));
        }
    }
    mappings(sandbox).map(drop)
}

fn own(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut out = LinuxNamespace::default();
    out.set_typ(kind);
    out
}

fn join(kind: LinuxNamespaceType, name: &str, path: &Option<PathBuf>) -> Result<LinuxNamespace> {
    let Some(path) = path else {
        return Err(Error::invalid(
            format!("linux.security_context.namespace_options.{name}"),
            format!("the container must join a {kind} namespace, and none is known"),
        ));
    };
    let mut out = own(kind);
    out.set_path(Some(path.clone()));
    Ok(out)
}

#[cfg(test)]
mod tests;
