//! The `linux` section of the spec: the pieces of the other files in one place.

use oci_spec::runtime::{Linux, LinuxResources};

use super::capabilities::Sets;
use super::{Input, cgroup, devices, mounts, namespaces, paths, resources, seccomp, security};
use crate::Result;

/// `linux` of the OCI spec.
pub fn section(input: &Input<'_>, capabilities: &Sets) -> Result<Linux> {
    let Input { config, host, .. } = *input;
    let mappings = namespaces::mappings(input.sandbox.config)?;
    let (uids, gids) = mappings.map_or((None, None), |m| (Some(m.uids), Some(m.gids)));
    let labels = security::selinux(config, input.sandbox.config, host)?;
    let nodes = &input.probed.devices;
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces::list(input)?))
        .set_uid_mappings(uids)
        .set_gid_mappings(gids)
        .set_cgroups_path(Some(cgroup::path(input.cgroup, input.id)))
        .set_resources(Some(limits(input)?))
        .set_devices((!nodes.is_empty()).then(|| devices::nodes(nodes)))
        .set_masked_paths(list(paths::masked(config)))
        .set_readonly_paths(list(paths::read_only(config)))
        .set_mount_label(labels.map(|l| l.file))
        .set_rootfs_propagation(mounts::rootfs_propagation(config)?)
        .set_seccomp(seccomp::filter(config, capabilities, host, input.probed)?);
    Ok(linux)
}

fn limits(input: &Input<'_>) -> Result<LinuxResources> {
    let mut limits = resources::of(input.config, input.host)?;
    limits.set_devices(Some(devices::rules(input.config, input.handler, &input.probed.devices)));
    Ok(limits)
}

fn list(paths: Vec<String>) -> Option<Vec<String>> {
    (!paths.is_empty()).then_some(paths)
}
