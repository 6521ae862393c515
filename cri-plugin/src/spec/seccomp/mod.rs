//! System call filters: which one a container gets.
//!
//! Nothing said means unconfined (CRI: nil is unconfined; kubelet's `SeccompDefault` says RuntimeDefault itself).

pub(super) mod profile;
mod table;

use std::path::PathBuf;

use cleat_proto::cri::v1::{ContainerConfig, LinuxContainerSecurityContext, LinuxSandboxSecurityContext};
use cleat_proto::cri::v1::{SecurityProfile, security_profile::ProfileType};
use oci_spec::runtime::LinuxSeccomp;

use super::capabilities::Sets;
use super::{Host, Probed, known, privileged, security};
use crate::{Error, Result};

/// The field's path.
pub(super) const FIELD: &str = "linux.security_context.seccomp";

/// What the client chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// No filter.
    Unconfined,
    /// Ours, made for the machine and the container's capabilities.
    Default,
    /// A file of the node.
    Localhost(PathBuf),
}

/// What the client chose (CRI api.proto, `SecurityProfile`, and the text that it replaced).
///
/// # Errors
/// `Invalid` for a choice that is none.
pub fn choice(config: &ContainerConfig) -> Result<Choice> {
    match security(config) {
        Some(security) => chosen(security),
        None => Ok(Choice::Unconfined),
    }
}

/// A container's choice; the text is the field that `seccomp` replaced in 1.19.
#[expect(deprecated, reason = "older clients still send it")]
pub(super) fn chosen(security: &LinuxContainerSecurityContext) -> Result<Choice> {
    either(security.seccomp.as_ref(), &security.seccomp_profile_path)
}

/// A pod's choice, for its pause container.
#[expect(deprecated, reason = "older clients still send it")]
pub(super) fn of_pod(security: &LinuxSandboxSecurityContext) -> Result<Choice> {
    either(security.seccomp.as_ref(), &security.seccomp_profile_path)
}

fn either(profile: Option<&SecurityProfile>, text: &str) -> Result<Choice> {
    match profile {
        Some(profile) => of_profile(profile),
        None => of_text(text),
    }
}

fn of_profile(profile: &SecurityProfile) -> Result<Choice> {
    match known(format!("{FIELD}.profile_type"), profile.profile_type)? {
        ProfileType::RuntimeDefault => Ok(Choice::Default),
        ProfileType::Unconfined => Ok(Choice::Unconfined),
        ProfileType::Localhost => file(&format!("{FIELD}.localhost_ref"), &profile.localhost_ref),
    }
}

fn of_text(text: &str) -> Result<Choice> {
    let field = format!("{FIELD}_profile_path");
    match text {
        "" | "unconfined" => Ok(Choice::Unconfined),
        "runtime/default" | "docker/default" => Ok(Choice::Default),
        other => match other.strip_prefix("localhost/") {
            Some(path) => file(&field, path),
            None => Err(Error::invalid(field, format!("{other:?} names no profile"))),
        },
    }
}

fn file(field: &str, path: &str) -> Result<Choice> {
    let path = path.strip_prefix("localhost/").unwrap_or(path);
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Error::invalid(field, format!("{path:?} is not the absolute path of a profile")));
    }
    Ok(Choice::Localhost(path.into()))
}

/// `linux.seccomp`; `None` is unconfined, as a privileged container always is.
///
/// # Errors
/// `Unsupported` for a filter on a kernel without seccomp; `Invalid` for a profile that was not read.
pub fn filter(
    config: &ContainerConfig,
    capabilities: &Sets,
    host: &Host,
    probed: &Probed,
) -> Result<Option<LinuxSeccomp>> {
    let choice = choice(config)?;
    if privileged(config) || choice == Choice::Unconfined {
        return Ok(None);
    }
    if !host.seccomp {
        return Err(Error::Unsupported { what: format!("{FIELD}: a filter on this kernel, which has no seccomp,") });
    }
    match choice {
        Choice::Localhost(path) => match &probed.seccomp {
            Some(profile) => Ok(Some(profile.clone())),
            None => Err(Error::invalid(FIELD, format!("{} was not read", path.display()))),
        },
        _ => profile::default(&capabilities.bounding, &host.arch).map(Some),
    }
}

/// A profile file in the form of the OCI spec.
///
/// docker's own form is refused rather than half understood: its `includes` and `excludes` would be lost, and with
/// them what the profile means.
pub(super) fn parse(bytes: &[u8]) -> Result<LinuxSeccomp, String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let rules = value["syscalls"].as_array().map_or(&[][..], Vec::as_slice);
    let conditional = |rule: &serde_json::Value| {
        ["includes", "excludes"].iter().any(|k| rule[k].as_object().is_some_and(|o| !o.is_empty()))
    };
    if let Some(i) = rules.iter().position(conditional) {
        return Err(format!("syscalls[{i}] has includes or excludes, which an OCI profile cannot have"));
    }
    serde_json::from_value(value).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{capabilities, tests::fixture};
    use oci_spec::runtime::LinuxSeccompAction;

    fn profile(kind: i32, path: &str) -> ContainerConfig {
        let profile = SecurityProfile { profile_type: kind, localhost_ref: path.into() };
        fixture::with_security(|s| s.seccomp = Some(profile))
    }

    #[test]
    fn choices() {
        for (config, wanted) in [
            (ContainerConfig::default(), Some(Choice::Unconfined)),
            (profile(0, ""), Some(Choice::Default)),
            (profile(1, ""), Some(Choice::Unconfined)),
            (profile(2, "/p.json"), Some(Choice::Localhost("/p.json".into()))),
            (profile(2, "localhost//p.json"), Some(Choice::Localhost("/p.json".into()))),
            (profile(2, "p.json"), None),
            (profile(2, ""), None),
            (profile(3, ""), None),
        ] {
            assert_eq!(choice(&config).ok(), wanted, "{config:?}");
        }
    }

    #[test]
    #[expect(deprecated, reason = "it is what is tested")]
    fn the_deprecated_text() {
        for (text, wanted) in [
            ("", Some(Choice::Unconfined)),
            ("unconfined", Some(Choice::Unconfined)),
            ("runtime/default", Some(Choice::Default)),
            ("localhost//p.json", Some(Choice::Localhost("/p.json".into()))),
            ("localhost/p.json", None),
            ("p.json", None),
        ] {
            let config = fixture::with_security(|s| s.seccomp_profile_path = text.into());
            assert_eq!(choice(&config).ok(), wanted, "{text:?}");
        }
    }

    #[test]
    fn filters() {
        let mut host = fixture::host();
        let sets = capabilities::sets(&ContainerConfig::default(), &host).expect("sets");
        let run = |config: &ContainerConfig, host: &Host| filter(config, &sets, host, &Probed::default());
        assert_eq!(run(&profile(1, ""), &host).expect("unconfined"), None);
        let ours = run(&profile(0, ""), &host).expect("default").expect("some");
        assert_eq!(ours.default_action(), LinuxSeccompAction::ScmpActErrno);
        assert!(run(&profile(2, "/p.json"), &host).expect_err("unread").to_string().contains("/p.json"));
        let mut loose = profile(0, "");
        fixture::security(&mut loose).privileged = true;
        assert_eq!(run(&loose, &host).expect("privileged"), None);
        host.seccomp = false;
        assert!(matches!(run(&profile(0, ""), &host), Err(Error::Unsupported { .. })));
        assert_eq!(run(&profile(1, ""), &host).expect("unconfined"), None);
    }

    #[test]
    fn profiles_are_parsed_or_refused() {
        let rule = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}"#;
        assert_eq!(parse(rule.as_bytes()).expect("profile").syscalls().as_ref().map(Vec::len), Some(1));
        for (bad, words) in [
            (r#"{"defaultAction":"SCMP_ACT_WHAT"}"#, "SCMP_ACT_WHAT"),
            (r#"[]"#, "invalid"),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["bpf"],"action":"SCMP_ACT_ALLOW",
                    "includes":{"caps":["CAP_BPF"]}}]}"#,
                "includes",
            ),
        ] {
            let e = parse(bad.as_bytes()).expect_err(bad);
            assert!(e.contains(words), "{e}");
        }
    }
}
