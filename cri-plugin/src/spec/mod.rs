//! From CRI's configuration to an OCI runtime spec: pure code, no side effects.
//!
//! Everything the result depends on stands in [`Input`]: what the client asked for, what the image says, what the host
//! can do. Only two files read anything: [`host`] (facts, once at start) and [`probe`] (device nodes, a seccomp profile
//! of the node). So every rule here is a table in a test, and a refusal happens before anything was made.
//!
//! Deliberately absent: making anything (missing mount sources, volumes, cgroups), CDI injection and NRI adjustment,
//! which edit the finished spec, and the sandbox's own namespaces, which the shim makes.

pub mod annotations;
mod args;
pub mod capabilities;
pub mod cgroup;
pub mod devices;
mod env;
pub mod host;
pub mod labels;
mod linux;
pub mod mounts;
pub mod namespaces;
pub mod paths;
pub mod pause;
pub mod probe;
mod process;
pub mod resources;
pub mod seccomp;
mod security;
pub mod sysctls;
pub mod user;
pub mod validate;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use cleat_proto::cri::v1::{
    ContainerConfig, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceOption, PodSandboxConfig,
};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{Root, Spec};

pub use host::Host;
pub use mounts::Volumes;
pub use namespaces::Namespaces;
pub use pause::{Pause, pause};
pub use probe::Probed;
pub use process::{Terminal, exec};
pub use resources::update;
pub use user::{Accounts, Identity};

use crate::id::{ContainerId, SandboxId};
use crate::{Error, Result, config};

/// What the spec claims to be. crun up to 1.8 refuses anything newer, and nothing here needs more.
const OCI_VERSION: &str = "1.0.2";

/// Everything that decides what a container's spec says.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The container's id.
    pub id: &'a ContainerId,
    /// The pod it belongs to.
    pub sandbox: Sandbox<'a>,
    /// What the client asked for.
    pub config: &'a ContainerConfig,
    /// The image's configuration; hostile.
    pub image: &'a ImageConfiguration,
    /// The image's name as the annotation and the status give it.
    pub image_name: &'a str,
    /// `/etc/passwd` and `/etc/group` of the image's root filesystem; hostile.
    pub accounts: &'a Accounts,
    /// Device nodes and the seccomp profile named in `config`, as [`Probed::read`] found them.
    pub probed: &'a Probed,
    /// What this host can do.
    pub host: &'a Host,
    /// What the handler's OCI runtime can do.
    pub features: Features,
    /// The handler's section of the configuration.
    pub handler: &'a config::Runtime,
    /// The `[containers]` section of the configuration.
    pub containers: &'a config::Containers,
    /// The pod's cgroup, parent of the container's.
    pub cgroup: &'a cgroup::Parent,
    /// Host paths that the caller made or resolved for this container.
    pub volumes: Volumes<'a>,
}

/// The container's pod.
#[derive(Debug, Clone, Copy)]
pub struct Sandbox<'a> {
    /// Its id.
    pub id: &'a SandboxId,
    /// As given to RunPodSandbox.
    pub config: &'a PodSandboxConfig,
    /// Where its namespaces can be joined.
    pub namespaces: &'a Namespaces,
}

/// What the handler's OCI runtime can do beyond OCI 1.0, from its `features` command; nothing where it has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// The mount option `rro`.
    pub recursive_read_only: bool,
    /// `uidMappings` and `gidMappings` of a bind mount.
    pub idmapped_mounts: bool,
}

impl From<&oci_spec::runtime::Features> for Features {
    fn from(features: &oci_spec::runtime::Features) -> Self {
        let linux = features.linux().as_ref();
        let idmap = linux.and_then(|l| l.mount_extensions().as_ref()).and_then(|m| m.idmap().as_ref());
        Self {
            recursive_read_only: features.mount_options().iter().flatten().any(|o| o == "rro"),
            idmapped_mounts: idmap.is_some_and(|i| *i.enabled() == Some(true)),
        }
    }
}

/// The OCI runtime spec of a container (OCI runtime-spec 1.0.2, `config.md` and `config-linux.md`).
///
/// The caller has run [`validate::container_config`] before it made anything; what is checked there is not refused
/// twice here, but nothing here trusts it either.
///
/// # Errors
/// `Invalid` with the field's path in the CRI API, or the image's field; `Unsupported` and the CRI word
/// `RROUnsupported` for what this host or runtime cannot do.
pub fn container(input: &Input<'_>) -> Result<Spec> {
    validate::privilege(input.sandbox.config, input.config)?;
    let identity = user::resolve(input.config, input.image, input.accounts)?;
    let capabilities = capabilities::sets(input.config, input.host)?;
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.into())
        .set_hostname(None)
        .set_root(Some(root(input.config)))
        .set_mounts(Some(mounts::list(input)?))
        .set_annotations(Some(annotations::container(input)?))
        .set_linux(Some(linux::section(input, &capabilities)?))
        .set_process(Some(process::process(input, &identity, capabilities)?));
    Ok(spec)
}

fn root(config: &ContainerConfig) -> Root {
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(security(config).is_some_and(|s| s.readonly_rootfs)));
    root
}

/// The container's security context, if the client sent one.
fn security(config: &ContainerConfig) -> Option<&LinuxContainerSecurityContext> {
    config.linux.as_ref()?.security_context.as_ref()
}

/// The pod's security context, if the client sent one.
fn sandbox_security(config: &PodSandboxConfig) -> Option<&LinuxSandboxSecurityContext> {
    config.linux.as_ref()?.security_context.as_ref()
}

fn namespace_options(config: &ContainerConfig) -> Option<&NamespaceOption> {
    security(config)?.namespace_options.as_ref()
}

fn sandbox_namespace_options(config: &PodSandboxConfig) -> Option<&NamespaceOption> {
    sandbox_security(config)?.namespace_options.as_ref()
}

fn privileged(config: &ContainerConfig) -> bool {
    security(config).is_some_and(|s| s.privileged)
}

/// An enum's value from the wire: a number this version does not know is an error, where prost's own getters would
/// take the default.
fn known<E: TryFrom<i32>>(field: impl Into<String>, value: i32) -> Result<E> {
    E::try_from(value).map_err(|_| Error::invalid(field, format!("{value} is no value this version knows")))
}

/// What an OCI builder made: it fails only for a required field that was not set.
fn built<T>(made: std::result::Result<T, oci_spec::OciSpecError>) -> Result<T> {
    made.map_err(|e| Error::corrupt("a part of the OCI spec", e))
}

/// A path without `.`, `..` and repeated slashes, by its text alone. `..` at the root stays at the root.
///
/// `None` where the path is not absolute.
fn clean(path: &Path) -> Option<PathBuf> {
    use std::path::Component;
    let mut out = PathBuf::from("/");
    let mut parts = path.components();
    if parts.next() != Some(Component::RootDir) {
        return None;
    }
    for part in parts {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => drop(out.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(out)
}
