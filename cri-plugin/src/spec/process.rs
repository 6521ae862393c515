//! The process a container runs: the pieces of the other files in one place.

use cleat_proto::cri::v1::{ContainerConfig, PodSandboxConfig};
use oci_spec::runtime::{Process, User};

use super::capabilities::Sets;
use super::{Host, Identity, Input, args, env, resources, security};
use crate::Result;
use crate::spec::security as modules;

/// `process` of the OCI spec. No resource limits: a container inherits the shim's, as under the peers.
pub fn process(input: &Input<'_>, identity: &Identity, capabilities: Sets) -> Result<Process> {
    let Input { config, image, host, .. } = *input;
    let labels = modules::selinux(config, host)?;
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_console_size(None)
        .set_user(oci_user(identity))
        .set_args(Some(args::args(config, image)?))
        .set_env(Some(env::env(config, image, hostname(input.sandbox.config, host))?))
        .set_cwd(args::cwd(config, image)?)
        .set_capabilities(Some(capabilities.oci()))
        .set_rlimits(None)
        .set_no_new_privileges(Some(no_new_privileges(config)))
        .set_apparmor_profile(modules::apparmor(config, host)?)
        .set_selinux_label(labels.map(|l| l.process))
        .set_oom_score_adj(resources::oom_score_adj(config, host, input.containers)?);
    Ok(process)
}

fn oci_user(identity: &Identity) -> User {
    let mut user = User::default();
    user.set_uid(identity.uid).set_gid(identity.gid).set_additional_gids(Some(identity.additional_gids.clone()));
    user
}

fn no_new_privileges(config: &ContainerConfig) -> bool {
    security(config).is_some_and(|s| s.no_new_privs)
}

/// A pod on the host's network has no name of its own.
fn hostname<'a>(sandbox: &'a PodSandboxConfig, host: &'a Host) -> &'a str {
    if sandbox.hostname.is_empty() { &host.hostname } else { &sandbox.hostname }
}
