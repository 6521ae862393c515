//! A container's mounts: what every container has, what the daemon made for it, and what the client asked for.
//!
//! Parents come before children, and where two share a place the client's wins. Nothing is made here: the caller makes
//! missing sources, follows links and mounts images first, and says where in [`Volumes::resolved`].

mod defaults;
mod propagation;
mod volume;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cleat_proto::cri::v1::{ContainerConfig, ImageSpec, MountPropagation};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{LinuxIdMapping, Mount};

use super::{Input, clean, known, security};
use crate::{Error, Result};

pub(super) use defaults::{Kernel, kernel};
pub use propagation::check_propagation;
pub(super) use volume::check;

/// Host paths that the caller made or resolved for a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct Volumes<'a> {
    /// The pod's `/etc/hosts`.
    pub hosts: Option<&'a Path>,
    /// The pod's `/etc/resolv.conf`.
    pub resolv_conf: Option<&'a Path>,
    /// The pod's `/etc/hostname`.
    pub hostname: Option<&'a Path>,
    /// The pod's `/dev/shm`, or the host's for a pod in the host's ipc namespace.
    pub shm: Option<&'a Path>,
    /// By index in the client's `mounts`: the source with links followed, or where the image is mounted. A `host_path`
    /// that is not in here is taken as it is written.
    pub resolved: Option<&'a BTreeMap<usize, PathBuf>>,
    /// A directory of the daemon's for each of [`image_volumes`], by that place in the container.
    pub anonymous: Option<&'a BTreeMap<PathBuf, PathBuf>>,
}

/// The container's mounts, in the order in which the runtime must make them.
///
/// # Errors
/// `Invalid` with the field; `RROUnsupported`; `Unsupported` for mappings the runtime or the kernel cannot do.
pub fn list(input: &Input<'_>) -> Result<Vec<Mount>> {
    let mappings = defaults::ids(input)?;
    let asked = volume::all(input)?;
    let taken: Vec<&Path> = asked.iter().map(|m| m.destination().as_path()).collect();
    let free = |m: &Mount| !taken.contains(&m.destination().as_path());
    // A client that mounts the host's /sys or /dev wants the whole of it: a node agent reads every cgroup there.
    let seen = |m: &Mount| !taken.iter().any(|t| m.destination().starts_with(t));
    let mut out: Vec<Mount> = kernel(&input.into())?.into_iter().filter(seen).collect();
    out.extend(defaults::pod_files(input, mappings.as_ref()).into_iter().filter(free));
    out.extend(defaults::anonymous(input, mappings.as_ref()).into_iter().filter(free));
    drop(taken);
    out.extend(asked);
    // Stable: of two at one place the later one, the client's, lies on top.
    out.sort_by_key(|m| m.destination().components().count());
    Ok(out)
}

/// A bind mount.
pub(super) fn bind(destination: PathBuf, source: PathBuf, options: Vec<String>) -> Mount {
    let mut out = Mount::default();
    out.set_destination(destination).set_typ(Some("bind".into())).set_source(Some(source)).set_options(Some(options));
    out
}

pub(super) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// Both halves of an idmapped mount.
type Ids = (Vec<LinuxIdMapping>, Vec<LinuxIdMapping>);

fn set_ids(mount: &mut Mount, ids: Option<&Ids>) {
    if let Some((uids, gids)) = ids {
        mount.set_uid_mappings(Some(uids.clone())).set_gid_mappings(Some(gids.clone()));
    }
}

/// The client's mounts of host paths, by index: what the caller must find, resolve or make.
pub fn host_sources(config: &ContainerConfig) -> impl Iterator<Item = (usize, &Path)> {
    let hosts = config.mounts.iter().enumerate().filter(|(_, m)| m.image.is_none());
    hosts.map(|(i, m)| (i, Path::new(&m.host_path)))
}

/// The client's image volumes, by index: the image and the path inside it, "" for all of it.
pub fn image_sources(config: &ContainerConfig) -> impl Iterator<Item = (usize, &ImageSpec, &str)> {
    let mounts = config.mounts.iter().enumerate();
    mounts.filter_map(|(i, m)| Some((i, m.image.as_ref()?, m.image_sub_path.as_str())))
}

/// The client's mounts whose sources must carry the container's SELinux file label, by index.
pub fn relabels(config: &ContainerConfig) -> impl Iterator<Item = usize> {
    config.mounts.iter().enumerate().filter(|(_, m)| m.selinux_relabel).map(|(i, _)| i)
}

/// The places where the image wants a volume (VOLUME) and the client mounts none, sorted.
///
/// The caller makes a directory for each and copies what the image has there, never through a link that leaves the
/// root filesystem (CVE-2022-23648).
///
/// # Errors
/// `Invalid` for a volume over the root or over `/proc`, `/sys` or `/dev`.
pub fn image_volumes(config: &ContainerConfig, image: &ImageConfiguration) -> Result<Vec<PathBuf>> {
    let asked: Vec<PathBuf> = config.mounts.iter().filter_map(|m| clean(Path::new(&m.container_path))).collect();
    let given = image.config().as_ref().and_then(|c| c.volumes().as_deref()).unwrap_or_default();
    let mut out = Vec::new();
    for volume in given {
        let wrong = |why: &str| Error::invalid("the image's Volumes", format!("{volume:?} {why}"));
        if volume.contains('\0') {
            return Err(wrong("holds a NUL byte"));
        }
        let path = clean(&Path::new("/").join(volume)).ok_or_else(|| wrong("is no path"))?;
        if path == Path::new("/") || ["/proc", "/sys", "/dev"].iter().any(|p| path.starts_with(p)) {
            return Err(wrong("would cover a file system that every container needs"));
        }
        if !asked.contains(&path) {
            out.push(path);
        }
    }
    out.sort();
    out.dedup();
    Ok(out)
}

/// How mounts travel between the container's root and the host; `None` where no mount of the container asks for it.
///
/// # Errors
/// `Invalid` for a propagation that is none.
pub fn rootfs_propagation(config: &ContainerConfig) -> Result<Option<String>> {
    let mut out = None;
    for (i, mount) in config.mounts.iter().enumerate() {
        match known(format!("mounts[{i}].propagation"), mount.propagation)? {
            MountPropagation::PropagationBidirectional => return Ok(Some("rshared".into())),
            MountPropagation::PropagationHostToContainer => out = Some("rslave".into()),
            MountPropagation::PropagationPrivate => {}
        }
    }
    Ok(out)
}

/// Whether files that the daemon makes for a container are mounted read-only in it.
fn read_only_root(config: &ContainerConfig) -> bool {
    security(config).is_some_and(|s| s.readonly_rootfs)
}

#[cfg(test)]
mod tests;
