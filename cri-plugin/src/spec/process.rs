//! The process a container runs: the pieces of the other files in one place; and one that is run beside it.

use cleat_proto::cri::v1::{ContainerConfig, PodSandboxConfig};
use oci_spec::runtime::{Process, Spec, User};

use super::capabilities::Sets;
use super::{Host, Identity, Input, args, env, resources, security};
use crate::spec::security as modules;
use crate::{Error, Result};

/// `process` of the OCI spec. No resource limits: a container inherits the shim's, as under the peers.
pub fn process(input: &Input<'_>, identity: &Identity, capabilities: Sets) -> Result<Process> {
    let Input { config, image, host, .. } = *input;
    let labels = modules::selinux(config, input.sandbox.config, host)?;
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

/// The process of an exec in a container that was made from `container`: the same user, environment, directory and
/// limits, another command line.
///
/// # Errors
/// `Invalid` for an empty command and for NUL bytes; `Corrupt` for a spec without a process.
pub fn exec(container: &Spec, command: &[String], terminal: Terminal) -> Result<Process> {
    if command.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("cmd", "it names no program"));
    }
    if let Some(i) = command.iter().position(|word| word.contains('\0')) {
        return Err(Error::invalid(format!("cmd[{i}]"), "it holds a NUL byte"));
    }
    let process = container.process().as_ref().ok_or_else(|| Error::corrupt("the container's spec", "no process"))?;
    let mut out = process.clone();
    out.set_args(Some(command.to_vec())).set_terminal(Some(terminal == Terminal::Yes));
    let env = process.env().clone().unwrap_or_default();
    if terminal == Terminal::Yes && !env.iter().any(|line| line.starts_with("TERM=")) {
        out.set_env(Some(env.into_iter().chain(["TERM=xterm".to_owned()]).collect()));
    }
    Ok(out)
}

/// Whether a process has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// Its output and errors are one stream.
    Yes,
    /// Three pipes.
    No,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{container, tests::fixture::Case};

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn an_exec_is_the_containers_process_with_other_words() {
        let spec = container(&Case::new().input()).expect("spec");
        let own = spec.process().as_ref().expect("process");
        let got = exec(&spec, &words("ls -l"), Terminal::No).expect("exec");
        assert_eq!((got.args(), got.terminal()), (&Some(words("ls -l")), Some(false)));
        assert_eq!((got.env(), got.capabilities(), got.user()), (own.env(), own.capabilities(), own.user()));
        let got = exec(&spec, &words("sh"), Terminal::Yes).expect("exec");
        assert_eq!(got.terminal(), Some(true));
        assert!(got.env().as_ref().expect("env").contains(&"TERM=xterm".to_owned()));
    }

    #[test]
    fn an_exec_of_nothing_is_refused() {
        let spec = container(&Case::new().input()).expect("spec");
        for bad in [vec![], vec![String::new()], vec!["a".into(), "\0".into()]] {
            assert!(matches!(exec(&spec, &bad, Terminal::No), Err(Error::Invalid { .. })), "{bad:?}");
        }
    }
}
