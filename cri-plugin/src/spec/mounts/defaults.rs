//! What every container has mounted: the kernel's file systems, the pod's files, the image's volumes.

use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, Mount};

use super::{Ids, bind, read_only_root, set_ids, words};
use crate::Result;
use crate::spec::{Input, namespaces, privileged};

/// devpts gives a terminal to the group tty (5 on every distribution).
const TTY_GID: u32 = 5;

/// `/proc`, `/dev`, `/sys` and below; OCI runtime-spec `config-linux.md`, "Default Filesystems".
pub fn kernel(input: &Input<'_>) -> Result<Vec<Mount>> {
    let write = if privileged(input.config) { "rw" } else { "ro" };
    let mappings = namespaces::mappings(input.sandbox.config)?;
    let tty = mappings.as_ref().is_none_or(|m| maps(&m.gids, TTY_GID));
    let mut pts = words(&["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
    pts.extend(tty.then(|| format!("gid={TTY_GID}")));
    // sysfs shows the network namespace's devices: mounting it takes rights over that namespace, which a user
    // namespace on the host's network has not.
    let sys = if mappings.is_some() && namespaces::host_network(input.sandbox.config) {
        bind("/sys".into(), "/sys".into(), words(&["rbind", "rprivate", "nosuid", "noexec", "nodev", write]))
    } else {
        mount("/sys", "sysfs", words(&["nosuid", "noexec", "nodev", write]))
    };
    Ok(vec![
        mount("/proc", "proc", words(&["nosuid", "noexec", "nodev"])),
        mount("/dev", "tmpfs", words(&["nosuid", "strictatime", "mode=755", "size=65536k"])),
        mount("/dev/pts", "devpts", pts),
        mount("/dev/mqueue", "mqueue", words(&["nosuid", "noexec", "nodev"])),
        sys,
        mount("/sys/fs/cgroup", "cgroup", words(&["nosuid", "noexec", "nodev", "relatime", write])),
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

fn maps(ranges: &[LinuxIdMapping], id: u32) -> bool {
    ranges.iter().any(|r| id.checked_sub(r.container_id()).is_some_and(|offset| offset < r.size()))
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
