//! Annotations of the OCI spec: what shims and NRI plugins read, and what the handler's configuration lets through.
//!
//! No annotation of a pod reaches the spec by itself: a runtime may act on what it finds (CVE-2024-3154).

use std::collections::HashMap;

use cleat_proto::cri::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};

use super::{Input, Sandbox};
use crate::{Error, Result};

/// What the names of ours begin with, containerd's choice that every shim knows.
const PREFIX: &str = "io.kubernetes.cri.";
/// crun and runc make systemd properties of these; never from a pod.
const SYSTEMD: &str = "org.systemd.property.";
/// The largest annotation that is passed on, key and value together, in bytes.
const MAX_BYTES: usize = 256 << 10;

type Annotations = HashMap<String, String>;

/// The annotations of a container's spec.
///
/// # Errors
/// `Invalid` where the sandbox's metadata is missing or an annotation that is let through is too large.
pub fn container(input: &Input<'_>) -> Result<Annotations> {
    let mut out = passed(&input.handler.pod_annotations, input.sandbox.config, Some(input.config))?;
    out.extend(pod(input.sandbox)?);
    let name = input.config.metadata.as_ref().map_or("", |m| m.name.as_str());
    out.extend(
        [("container-type", "container"), ("container-name", name), ("image-name", input.image_name)]
            .map(|(k, v)| (format!("{PREFIX}{k}"), v.to_owned())),
    );
    Ok(out)
}

/// The annotations of a pause container's spec, for shims that need one; `allowed` are the handler's globs, `image` is
/// what the root filesystem is called.
///
/// # Errors
/// As [`container`].
pub fn sandbox(sandbox: Sandbox<'_>, allowed: &[String], image: &str) -> Result<Annotations> {
    let mut out = passed(allowed, sandbox.config, None)?;
    out.extend(pod(sandbox)?);
    out.insert(format!("{PREFIX}container-type"), "sandbox".into());
    out.insert(format!("{PREFIX}podsandbox.image-name"), image.to_owned());
    if let Some(resources) = sandbox.config.linux.as_ref().and_then(|l| l.resources.as_ref()) {
        out.extend(sums(resources).map(|(k, v)| (format!("{PREFIX}{k}"), v.to_string())));
    }
    Ok(out)
}

/// What VMs are sized by.
fn sums(resources: &LinuxContainerResources) -> [(&'static str, i64); 4] {
    [
        ("sandbox-cpu-period", resources.cpu_period),
        ("sandbox-cpu-quota", resources.cpu_quota),
        ("sandbox-cpu-shares", resources.cpu_shares),
        ("sandbox-memory", resources.memory_limit_in_bytes),
    ]
}

fn pod(sandbox: Sandbox<'_>) -> Result<Annotations> {
    let Some(metadata) = &sandbox.config.metadata else {
        return Err(Error::invalid("sandbox_config.metadata", "it is missing"));
    };
    let pairs = [
        ("sandbox-id", sandbox.id.as_str()),
        ("sandbox-name", &metadata.name),
        ("sandbox-namespace", &metadata.namespace),
        ("sandbox-uid", &metadata.uid),
        ("sandbox-log-directory", &sandbox.config.log_directory),
    ];
    Ok(pairs.into_iter().map(|(k, v)| (format!("{PREFIX}{k}"), v.to_owned())).collect())
}

/// What the globs let through, the container's over the pod's.
fn passed(globs: &[String], pod: &PodSandboxConfig, container: Option<&ContainerConfig>) -> Result<Annotations> {
    let mut out = Annotations::new();
    for (key, value) in pod.annotations.iter().chain(container.iter().flat_map(|c| &c.annotations)) {
        let reserved = key.starts_with(PREFIX) || key.starts_with(SYSTEMD);
        if reserved || !globs.iter().any(|g| matches(g.as_bytes(), key.as_bytes())) {
            continue;
        }
        if key.len() + value.len() > MAX_BYTES || value.contains('\0') || key.contains('\0') {
            return Err(Error::invalid(
                format!("annotations[{key:?}]"),
                format!("it holds NUL or exceeds {MAX_BYTES} bytes"),
            ));
        }
        out.insert(key.clone(), value.clone());
    }
    Ok(out)
}

/// `*` is any run of characters but `/`, `?` any one of them, as in containerd's `pod_annotations` (Go's path.Match,
/// whose classes and escapes nobody uses in a name).
fn matches(glob: &[u8], text: &[u8]) -> bool {
    // Where the last star stands and how much it has taken: the only place worth going back to.
    let (mut g, mut t, mut star) = (0, 0, None);
    loop {
        match (glob.get(g), text.get(t)) {
            (Some(b'*'), _) => {
                star = Some((g + 1, t));
                g += 1;
            }
            (None, None) => return true,
            (Some(b'?'), Some(c)) if *c != b'/' => (g, t) = (g + 1, t + 1),
            (Some(a), Some(c)) if a == c && *a != b'?' => (g, t) = (g + 1, t + 1),
            _ => match star {
                Some((after, taken)) if text.get(taken).is_some_and(|c| *c != b'/') => {
                    star = Some((after, taken + 1));
                    (g, t) = (after, taken + 1);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::fixture::{self, Case};
    use proptest::prelude::*;

    #[test]
    fn what_shims_read() {
        let case = Case::new();
        let got = container(&case.input()).expect("annotations");
        let get = |key: &str| got[&format!("{PREFIX}{key}")].as_str();
        assert_eq!((get("container-type"), get("container-name"), get("sandbox-name")), ("container", "main", "pod"));
        assert_eq!((get("sandbox-namespace"), get("sandbox-uid")), ("default", "uid-1"));
        assert_eq!(got.len(), 8);
    }

    #[test]
    fn only_what_the_handler_lets_through() {
        let mut case = Case::new();
        case.handler.pod_annotations = vec!["io.vm.*".into(), "org.systemd.property.*".into(), "*".into()];
        let set = |map: &mut std::collections::BTreeMap<String, String>, pairs: &[(&str, &str)]| {
            map.extend(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        };
        set(
            &mut case.pod.annotations,
            &[
                ("io.vm.memory", "1"),
                ("example.com/other", "x"),
                ("org.systemd.property.ExecStart", "x"),
                ("io.kubernetes.cri.container-type", "sandbox"),
            ],
        );
        set(&mut case.config.annotations, &[("io.vm.memory", "2")]);
        let got = container(&case.input()).expect("annotations");
        assert_eq!(got["io.vm.memory"], "2");
        assert_eq!(got["io.kubernetes.cri.container-type"], "container");
        assert!(!got.keys().any(|k| k.starts_with("org.systemd") || k.starts_with("example.com")), "{got:?}");
    }

    #[test]
    fn a_pause_container_says_so_and_carries_the_sums() {
        let mut case = Case::new();
        fixture::pod_linux(&mut case.pod).resources =
            Some(LinuxContainerResources { memory_limit_in_bytes: 7, ..Default::default() });
        let got = sandbox(case.input().sandbox, &[], "pause").expect("annotations");
        assert_eq!(got["io.kubernetes.cri.container-type"], "sandbox");
        assert_eq!(got["io.kubernetes.cri.sandbox-memory"], "7");
    }

    #[test]
    fn globs() {
        for (glob, text, wanted) in [
            ("a.*", "a.b", true),
            ("a.*", "a.b/c", false),
            ("a.*/*", "a.b/c", true),
            ("*", "", true),
            ("*.x", "a.b.x", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a", "ab", false),
            ("", "", true),
            ("*a*b", "xxaxxab", true),
        ] {
            assert_eq!(matches(glob.as_bytes(), text.as_bytes()), wanted, "{glob} {text}");
        }
    }

    proptest! {
        #[test]
        fn globs_agree_with_the_obvious_definition(glob in "[ab*?/]{0,8}", text in "[ab/]{0,8}") {
            fn slow(g: &[u8], t: &[u8]) -> bool {
                match (g.first(), t.first()) {
                    (None, None) => true,
                    (Some(b'*'), _) => {
                        slow(&g[1..], t) || t.first().is_some_and(|c| *c != b'/') && slow(g, &t[1..])
                    }
                    (Some(b'?'), Some(c)) => *c != b'/' && slow(&g[1..], &t[1..]),
                    (Some(a), Some(c)) => a == c && slow(&g[1..], &t[1..]),
                    _ => false,
                }
            }
            prop_assert_eq!(matches(glob.as_bytes(), text.as_bytes()), slow(glob.as_bytes(), text.as_bytes()));
        }
    }
}
