//! What every container has mounted: the kernel's file systems, the pod's files, the image's volumes.

use std::path::Path;

use cleat_proto::cri::v1::PodSandboxConfig;
use oci_spec::runtime::Mount;

use super::{Ids, bind, read_only_root, set_ids, words};
use crate::Result;
use crate::spec::{Features, Host, Input, namespaces, privileged};

/// devpts gives a terminal to the group tty (5 on every distribution).
const TTY_GID: u32 = 5;

/// What decides how the kernel's file systems are mounted.
#[derive(Debug, Clone, Copy)]
pub struct Kernel<'a> {
    /// The pod.
    pub pod: &'a PodSandboxConfig,
    /// The host.
    pub host: &'a Host,
    /// The handler's OCI runtime.
    pub features: Features,
    /// A privileged container writes to sysfs and cgroups.
    pub privileged: bool,
}

impl<'a> From<&Input<'a>> for Kernel<'a> {
    fn from(input: &Input<'a>) -> Self {
        let Input { sandbox, config, host, features, .. } = *input;
        Self { pod: sandbox.config, host, features, privileged: privileged(config) }
    }
}

/// `/proc`, `/dev`, `/sys` and below; OCI runtime-spec `config-linux.md`, "Default Filesystems".
///
/// # Errors
/// `Invalid` for a pod whose user namespace is none.
pub fn kernel(input: &Kernel<'_>) -> Result<Vec<Mount>> {
    let write = if input.privileged { "rw" } else { "ro" };
    let mappings = namespaces::mappings(input.pod)?;
    let tty = mappings.as_ref().is_none_or(|m| namespaces::has(&m.gids, TTY_GID));
    let mut pts = words(&["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
    pts.extend(tty.then(|| format!("gid={TTY_GID}")));
    // sysfs shows the network namespace's devices: mounting it takes rights over that namespace, which a user
    // namespace on the host's network has not.
    let sys = if mappings.is_some() && namespaces::host_network(input.pod) {
        let deep = input.features.recursive_read_only && input.host.mount_setattr && !input.privileged;
        let write = if deep { "rro" } else { write };
        bind("/sys".into(), "/sys".into(), words(&["rbind", "rprivate", "nosuid", "noexec", "nodev", write]))
    } else {
        mount("/sys", "sysfs", words(&["nosuid", "noexec", "nodev", write]))
    };
    let mut cgroup = words(&["nosuid", "noexec", "nodev", "relatime", write]);
    if input.privileged {
        cgroup.extend(input.host.cgroup_options.iter().cloned());
    }
    Ok(vec![
        mount("/proc", "proc", words(&["nosuid", "noexec", "nodev"])),
        mount("/dev", "tmpfs", words(&["nosuid", "strictatime", "mode=755", "size=65536k"])),
        mount("/dev/pts", "devpts", pts),
        mount("/dev/mqueue", "mqueue", words(&["nosuid", "noexec", "nodev"])),
        sys,
        mount("/sys/fs/cgroup", "cgroup", cgroup),
    ])
}

fn mount(destination: &str, kind: &str, options: Vec<String>) -> Mount {
    let mut out = Mount::default();
    out.set_destination(destination.into())
        .set_typ(Some(kind.into()))
        .set_source(Some(kind.into()))
        .set_options(Some(options));
    out
}

/// The mappings for files that belong to the daemon's root and should belong to the container's; `None` where the pod
/// has no user namespace, or where runtime or kernel cannot map mounts: the files are readable all the same.
pub fn ids(input: &Input<'_>) -> Result<Option<Ids>> {
    let able = input.features.idmapped_mounts && input.host.mount_setattr;
    Ok(namespaces::mappings(input.sandbox.config)?.filter(|_| able).map(|m| (m.uids, m.gids)))
}

/// hosts, resolv.conf, hostname and `/dev/shm`.
pub fn pod_files(input: &Input<'_>, ids: Option<&Ids>) -> Vec<Mount> {
    let write = if read_only_root(input.config) { "ro" } else { "rw" };
    let volumes = input.volumes;
    let files = [
        ("/etc/hosts", volumes.hosts, ids),
        ("/etc/resolv.conf", volumes.resolv_conf, ids),
        ("/etc/hostname", volumes.hostname, ids),
        // The pod's shm is a mount of its own user namespace already.
        ("/dev/shm", volumes.shm, None),
    ];
    let made = files.into_iter().filter_map(|(place, source, ids)| {
        let write = if place == "/dev/shm" { "rw" } else { write };
        let mut out = bind(place.into(), source?.to_owned(), words(&["rbind", "rprivate", write]));
        set_ids(&mut out, ids);
        Some(out)
    });
    made.collect()
}

/// The image's volumes.
pub fn anonymous(input: &Input<'_>, ids: Option<&Ids>) -> Vec<Mount> {
    let all = input.volumes.anonymous.into_iter().flatten();
    all.map(|(place, source): (_, &std::path::PathBuf)| {
        let mut out = bind(place.clone(), Path::to_owned(source), words(&["rbind", "rprivate", "rw"]));
        set_ids(&mut out, ids);
        out
    })
    .collect()
}
