//! Linux security modules: the AppArmor profile and the SELinux labels.
//!
//! Asking for an AppArmor profile where there is no AppArmor is an error: the workload would run unconfined. SELinux
//! options are ignored where SELinux is off, as Kubernetes documents them.

use cleat_proto::cri::v1::{ContainerConfig, LinuxContainerSecurityContext, PodSandboxConfig, SeLinuxOption};
use cleat_proto::cri::v1::{SecurityProfile, security_profile::ProfileType};

use super::host::Selinux;
use super::{Host, known, privileged, sandbox_security, security};
use crate::{Error, Result};

const APPARMOR: &str = "linux.security_context.apparmor";

/// What the client chose for AppArmor.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    /// Nothing was said.
    Unsaid,
    Default,
    Unconfined,
    Profile(String),
}

/// `process.apparmorProfile`; `None` is unconfined.
///
/// # Errors
/// `Unsupported` for a profile where the host has no AppArmor or nobody loaded the default one; `Invalid` for a choice
/// that is none.
pub fn apparmor(config: &ContainerConfig, host: &Host) -> Result<Option<String>> {
    let choice = choice(security(config))?;
    if privileged(config) {
        return Ok(None);
    }
    match (choice, &host.apparmor) {
        (Choice::Unconfined, _) | (Choice::Unsaid, None) => Ok(None),
        (Choice::Unsaid, Some(apparmor)) => Ok(apparmor.default_profile.clone()),
        (Choice::Default | Choice::Profile(_), None) => {
            Err(Error::Unsupported { what: format!("{APPARMOR}: AppArmor on this host") })
        }
        (Choice::Default, Some(apparmor)) => match &apparmor.default_profile {
            Some(profile) => Ok(Some(profile.clone())),
            None => Err(Error::Unsupported { what: format!("{APPARMOR}: the default profile, which is not loaded,") }),
        },
        (Choice::Profile(name), Some(_)) => Ok(Some(name)),
    }
}

pub(super) fn check(security: &LinuxContainerSecurityContext) -> Result<()> {
    choice(Some(security))?;
    security.selinux_options.as_ref().map_or(Ok(()), check_selinux)
}

fn choice(security: Option<&LinuxContainerSecurityContext>) -> Result<Choice> {
    let Some(security) = security else { return Ok(Choice::Unsaid) };
    match &security.apparmor {
        Some(profile) => of_profile(profile),
        None => of_text(deprecated(security)),
    }
}

/// The field that `apparmor` replaced in 1.24.
#[expect(deprecated, reason = "older clients still send it")]
fn deprecated(security: &LinuxContainerSecurityContext) -> &str {
    &security.apparmor_profile
}

fn of_profile(profile: &SecurityProfile) -> Result<Choice> {
    match known(format!("{APPARMOR}.profile_type"), profile.profile_type)? {
        ProfileType::RuntimeDefault => Ok(Choice::Default),
        ProfileType::Unconfined => Ok(Choice::Unconfined),
        ProfileType::Localhost => named(&format!("{APPARMOR}.localhost_ref"), &profile.localhost_ref),
    }
}

fn of_text(text: &str) -> Result<Choice> {
    match text {
        "" => Ok(Choice::Unsaid),
        "runtime/default" => Ok(Choice::Default),
        "unconfined" => Ok(Choice::Unconfined),
        other => match other.strip_prefix("localhost/") {
            Some(name) => named(&format!("{APPARMOR}_profile"), name),
            None => Err(Error::invalid(format!("{APPARMOR}_profile"), format!("{other:?} names no profile"))),
        },
    }
}

/// The name becomes the argument of a write to `/proc/self/attr`.
fn named(field: &str, name: &str) -> Result<Choice> {
    let name = name.strip_prefix("localhost/").unwrap_or(name);
    if name.is_empty() || name.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(Error::invalid(field, format!("{name:?} is no profile's name")));
    }
    Ok(Choice::Profile(name.to_owned()))
}

/// The labels of the container's process and files; `None` where SELinux is off and for a privileged container.
///
/// A container without options has its pod's; what the options leave empty comes from the host's policy.
///
/// # Errors
/// `Invalid` for a part that would spoil the label.
pub fn selinux(config: &ContainerConfig, pod: &PodSandboxConfig, host: &Host) -> Result<Option<Selinux>> {
    let own = security(config).and_then(|s| s.selinux_options.as_ref());
    if privileged(config) {
        return own.map_or(Ok(()), check_selinux).map(|()| None);
    }
    labels(own.or_else(|| pod_options(pod)), host)
}

/// The labels of the pod's own process and files.
///
/// # Errors
/// As [`selinux`].
pub fn pod_selinux(pod: &PodSandboxConfig, host: &Host) -> Result<Option<Selinux>> {
    labels(pod_options(pod), host)
}

fn pod_options(pod: &PodSandboxConfig) -> Option<&SeLinuxOption> {
    sandbox_security(pod)?.selinux_options.as_ref()
}

fn labels(options: Option<&SeLinuxOption>, host: &Host) -> Result<Option<Selinux>> {
    options.map_or(Ok(()), check_selinux)?;
    let Some(base) = &host.selinux else { return Ok(None) };
    let Some(options) = options else { return Ok(Some(base.clone())) };
    let process = merge(&base.process, [&options.user, &options.role, &options.r#type, &options.level]);
    let none = String::new();
    let file = merge(&base.file, [&options.user, &none, &none, &options.level]);
    Ok(Some(Selinux { process, file }))
}

fn check_selinux(options: &SeLinuxOption) -> Result<()> {
    let parts =
        [("user", &options.user), ("role", &options.role), ("type", &options.r#type), ("level", &options.level)];
    for (name, part) in parts {
        let colon = name != "level" && part.contains(':');
        if colon || part.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(Error::invalid(
                format!("linux.security_context.selinux_options.{name}"),
                format!("{part:?} is no part of a label"),
            ));
        }
    }
    Ok(())
}

fn merge(base: &str, parts: [&String; 4]) -> String {
    let mut base = base.splitn(4, ':');
    let merged = parts.map(|part| {
        let own = base.next().unwrap_or_default();
        if part.is_empty() { own } else { part }
    });
    merged.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::host::Apparmor;
    use crate::spec::tests::fixture;

    fn profile(kind: i32, name: &str) -> ContainerConfig {
        let profile = SecurityProfile { profile_type: kind, localhost_ref: name.into() };
        fixture::with_security(|s| s.apparmor = Some(profile))
    }

    fn with_apparmor() -> Host {
        Host { apparmor: Some(Apparmor { default_profile: Some("cleat-default".into()) }), ..fixture::host() }
    }

    #[test]
    fn profiles() {
        let default = Some("cleat-default".to_owned());
        for (config, wanted) in [
            (ContainerConfig::default(), default.clone()),
            (profile(0, ""), default.clone()),
            (profile(1, ""), None),
            (profile(2, "mine"), Some("mine".into())),
            (profile(2, "localhost/mine"), Some("mine".into())),
            (fixture::with_security(|s| s.privileged = true), None),
        ] {
            assert_eq!(apparmor(&config, &with_apparmor()).expect("profile"), wanted, "{config:?}");
        }
    }

    #[test]
    #[expect(deprecated, reason = "it is what is tested")]
    fn the_deprecated_text() {
        let text = |text: &str| fixture::with_security(|s| s.apparmor_profile = text.into());
        for (given, wanted) in [
            ("", Some("cleat-default")),
            ("runtime/default", Some("cleat-default")),
            ("unconfined", None),
            ("localhost/mine", Some("mine")),
        ] {
            assert_eq!(apparmor(&text(given), &with_apparmor()).expect(given).as_deref(), wanted);
        }
        apparmor(&text("mine"), &with_apparmor()).expect_err("no prefix");
    }

    #[test]
    fn without_apparmor_only_unconfined_passes() {
        let host = fixture::host();
        assert_eq!(apparmor(&ContainerConfig::default(), &host).expect("unsaid"), None);
        assert_eq!(apparmor(&profile(1, ""), &host).expect("unconfined"), None);
        for config in [profile(0, ""), profile(2, "mine")] {
            let e = apparmor(&config, &host).expect_err("none here").to_string();
            assert!(e.contains("AppArmor on this host is not supported"), "{e}");
        }
        for config in [profile(7, ""), profile(2, ""), profile(2, "a b"), profile(2, "a\nb")] {
            assert!(matches!(apparmor(&config, &with_apparmor()), Err(Error::Invalid { .. })), "{config:?}");
        }
    }

    #[test]
    fn labels_of_containers_and_pods() {
        let base = Selinux { process: "u:r:p_t:s0".into(), file: "u:o:f_t:s0".into() };
        let host = Host { selinux: Some(base.clone()), ..fixture::host() };
        let asked = |user: &str, kind: &str, level: &str| {
            let options =
                SeLinuxOption { user: user.into(), r#type: kind.into(), level: level.into(), ..Default::default() };
            fixture::with_security(|s| s.selinux_options = Some(options))
        };
        let mut pod = PodSandboxConfig::default();
        assert_eq!(selinux(&ContainerConfig::default(), &pod, &host).expect("base"), Some(base));
        assert_eq!(
            selinux(&asked("x", "spc_t", "s0:c1,c2"), &pod, &host).expect("merged"),
            Some(Selinux { process: "x:r:spc_t:s0:c1,c2".into(), file: "x:o:f_t:s0:c1,c2".into() })
        );
        assert_eq!(selinux(&asked("x", "", ""), &pod, &fixture::host()).expect("off"), None);
        assert_eq!(selinux(&fixture::with_security(|s| s.privileged = true), &pod, &host).expect("privileged"), None);
        let e = selinux(&asked("a:b", "", ""), &pod, &host).expect_err("colon").to_string();
        assert!(e.contains("selinux_options.user"), "{e}");
        let options = SeLinuxOption { level: "s0:c9".into(), ..Default::default() };
        fixture::pod_security(&mut pod).selinux_options = Some(options);
        let of_pod = Some(Selinux { process: "u:r:p_t:s0:c9".into(), file: "u:o:f_t:s0:c9".into() });
        assert_eq!(selinux(&ContainerConfig::default(), &pod, &host).expect("the pod's"), of_pod);
        assert_eq!(pod_selinux(&pod, &host).expect("the pod's"), of_pod);
    }
}
