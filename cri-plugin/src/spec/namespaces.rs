//! Namespaces: joined from the pod, new for the container, or the host's; and the user namespace's mappings.
//!
//! Network, ipc, uts and user namespaces belong to the pod, so its configuration decides and the container's cannot
//! widen it. The pid namespace is the container's own choice. Mount is always new; cgroup is new on v2.

use std::path::PathBuf;

use cleat_proto::cri::v1::{
    ContainerConfig, IdMapping, NamespaceMode, NamespaceOption, PodSandboxConfig, UserNamespace,
};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType};

use super::{Host, Input, built, known, namespace_options, privileged, sandbox_namespace_options};
use crate::{Error, Result};

/// Where the pod's namespaces can be joined; `None` where the pod has none of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// The network namespace.
    pub net: Option<PathBuf>,
    /// The ipc namespace.
    pub ipc: Option<PathBuf>,
    /// The uts namespace.
    pub uts: Option<PathBuf>,
    /// The pid namespace that the pod's containers share.
    pub pid: Option<PathBuf>,
    /// The user namespace.
    pub user: Option<PathBuf>,
    /// The pid namespace of the container that `target_id` names.
    pub target_pid: Option<PathBuf>,
}

/// The mappings of a pod's user namespace; `None` where the pod is in the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mappings {
    /// User ids.
    pub uids: Vec<LinuxIdMapping>,
    /// Group ids.
    pub gids: Vec<LinuxIdMapping>,
}

/// The modes of a pod or a container, all known.
#[derive(Debug, Clone, Copy)]
struct Modes {
    network: NamespaceMode,
    pid: NamespaceMode,
    ipc: NamespaceMode,
}

impl Modes {
    fn of(field: &str, options: Option<&NamespaceOption>) -> Result<Self> {
        let mode = |name: &str, value| known(format!("{field}.namespace_options.{name}"), value);
        let zero = NamespaceOption::default();
        let options = options.unwrap_or(&zero);
        Ok(Self {
            network: mode("network", options.network)?,
            pid: mode("pid", options.pid)?,
            ipc: mode("ipc", options.ipc)?,
        })
    }
}

/// Whether the pod is on the host's network, which the host's uts namespace goes with.
pub fn host_network(sandbox: &PodSandboxConfig) -> bool {
    sandbox_namespace_options(sandbox).is_some_and(|o| o.network == NamespaceMode::Node as i32)
}

/// Whether the pod is in the host's ipc namespace.
pub fn host_ipc(sandbox: &PodSandboxConfig) -> bool {
    sandbox_namespace_options(sandbox).is_some_and(|o| o.ipc == NamespaceMode::Node as i32)
}

/// The container's namespaces (CRI api.proto, `NamespaceOption`).
///
/// # Errors
/// `Invalid` for a mode that is none or that the pod does not grant, and for a namespace that must be joined where the
/// caller knows no path.
pub fn list(input: &Input<'_>) -> Result<Vec<LinuxNamespace>> {
    use LinuxNamespaceType as T;
    let sandbox = input.sandbox.config;
    check_pod(sandbox)?;
    check_against_pod(sandbox, input.config)?;
    let joined = input.sandbox.namespaces;
    let mut out = vec![own(T::Mount)];
    if !host_network(sandbox) {
        out.push(join(T::Network, "network", &joined.net)?);
        out.push(join(T::Uts, "uts", &joined.uts)?);
    }
    if !host_ipc(sandbox) {
        out.push(join(T::Ipc, "ipc", &joined.ipc)?);
    }
    out.extend(pid(input)?);
    if mappings(sandbox)?.is_some() {
        supported(input.host)?;
        out.push(join(T::User, "userns_options", &joined.user)?);
    }
    if input.host.is_v2() && !privileged(input.config) {
        out.push(own(T::Cgroup));
    }
    Ok(out)
}

fn pid(input: &Input<'_>) -> Result<Option<LinuxNamespace>> {
    use LinuxNamespaceType::Pid;
    let field = "linux.security_context";
    let pod = Modes::of(field, sandbox_namespace_options(input.sandbox.config))?;
    let joined = input.sandbox.namespaces;
    match Modes::of(field, namespace_options(input.config))?.pid {
        NamespaceMode::Container => Ok(Some(own(Pid))),
        NamespaceMode::Target => join(Pid, "target_id", &joined.target_pid).map(Some),
        NamespaceMode::Pod | NamespaceMode::Node if pod.pid == NamespaceMode::Node => Ok(None),
        NamespaceMode::Pod => join(Pid, "pid", &joined.pid).map(Some),
        NamespaceMode::Node => Err(Error::invalid(
            format!("{field}.namespace_options.pid"),
            "the container asks for the host's pid namespace, the pod does not",
        )),
    }
}

/// A container may not ask for a namespace of the host that its pod is not in, nor for one of its own that only pods
/// have.
pub(super) fn check_against_pod(sandbox: &PodSandboxConfig, config: &ContainerConfig) -> Result<()> {
    let field = "linux.security_context";
    let pod = Modes::of(field, sandbox_namespace_options(sandbox))?;
    let own = Modes::of(field, namespace_options(config))?;
    for (name, pod, own) in [("network", pod.network, own.network), ("ipc", pod.ipc, own.ipc)] {
        let wrong = |why: &str| Err(Error::invalid(format!("{field}.namespace_options.{name}"), why));
        match own {
            NamespaceMode::Node if pod != NamespaceMode::Node => {
                return wrong("the container asks for the host's namespace, the pod does not");
            }
            NamespaceMode::Target => return wrong("only the pid namespace can be another container's"),
            _ => {}
        }
    }
    let target = namespace_options(config).map_or("", |o| o.target_id.as_str());
    if own.pid == NamespaceMode::Target && target.is_empty() {
        return Err(Error::invalid(format!("{field}.namespace_options.target_id"), "mode TARGET needs it"));
    }
    Ok(())
}

/// The pod's own modes and mappings.
pub(super) fn check_pod(sandbox: &PodSandboxConfig) -> Result<()> {
    let field = "linux.security_context";
    let pod = Modes::of(field, sandbox_namespace_options(sandbox))?;
    for (name, mode) in [("network", pod.network), ("pid", pod.pid), ("ipc", pod.ipc)] {
        if mode == NamespaceMode::Target {
            return Err(Error::invalid(format!("{field}.namespace_options.{name}"), "a pod has no TARGET"));
        }
    }
    mappings(sandbox).map(drop)
}

/// The mappings of the pod's user namespace.
///
/// # Errors
/// `Invalid` for modes other than POD and NODE, for mode POD without mappings of both kinds, and for mappings that are
/// empty, overflow or overlap.
pub fn mappings(sandbox: &PodSandboxConfig) -> Result<Option<Mappings>> {
    let field = "linux.security_context.namespace_options.userns_options";
    let Some(UserNamespace { mode, uids, gids }) =
        sandbox_namespace_options(sandbox).and_then(|o| o.userns_options.as_ref())
    else {
        return Ok(None);
    };
    match known(format!("{field}.mode"), *mode)? {
        NamespaceMode::Node if uids.is_empty() && gids.is_empty() => Ok(None),
        NamespaceMode::Node => Err(Error::invalid(field, "the host's user namespace takes no mappings")),
        NamespaceMode::Pod => Ok(Some(Mappings {
            uids: ranges(&format!("{field}.uids"), uids)?,
            gids: ranges(&format!("{field}.gids"), gids)?,
        })),
        other => Err(Error::invalid(format!("{field}.mode"), format!("{other:?} is not POD or NODE"))),
    }
}

/// # Errors
/// `Unsupported` on a kernel without user namespaces.
pub fn supported(host: &Host) -> Result<()> {
    if host.user_namespaces {
        return Ok(());
    }
    let field = "linux.security_context.namespace_options.userns_options";
    Err(Error::Unsupported { what: format!("{field}: a user namespace with this kernel") })
}

/// Checks and converts a list of mappings; an empty one is refused.
pub(super) fn ranges(field: &str, given: &[IdMapping]) -> Result<Vec<LinuxIdMapping>> {
    if given.is_empty() {
        return Err(Error::invalid(field, "no range is mapped"));
    }
    for (i, range) in given.iter().enumerate() {
        let wrong = |why: &str| Err(Error::invalid(format!("{field}[{i}]"), why));
        let fits = |start: u32| start.checked_add(range.length).is_some();
        if range.length == 0 || !fits(range.host_id) || !fits(range.container_id) {
            return wrong("the range is empty or goes beyond the last id");
        }
        let overlap = |a: u32, b: u32, length: u32| a < b.saturating_add(length) && b < a.saturating_add(range.length);
        let clash = |other: &&IdMapping| {
            overlap(range.host_id, other.host_id, other.length)
                || overlap(range.container_id, other.container_id, other.length)
        };
        if given[..i].iter().find(clash).is_some() {
            return wrong("the range overlaps an earlier one");
        }
    }
    given.iter().map(mapping).collect()
}

fn mapping(given: &IdMapping) -> Result<LinuxIdMapping> {
    let mapping = LinuxIdMappingBuilder::default();
    built(mapping.host_id(given.host_id).container_id(given.container_id).size(given.length).build())
}

fn own(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut out = LinuxNamespace::default();
    out.set_typ(kind);
    out
}

fn join(kind: LinuxNamespaceType, name: &str, path: &Option<PathBuf>) -> Result<LinuxNamespace> {
    let Some(path) = path else {
        return Err(Error::invalid(
            format!("linux.security_context.namespace_options.{name}"),
            format!("the container must join a {kind} namespace, and none is known"),
        ));
    };
    let mut out = own(kind);
    out.set_path(Some(path.clone()));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture::{self, Case};
    use std::collections::BTreeMap;

    fn got(case: &Case) -> BTreeMap<String, String> {
        let list = list(&case.input()).unwrap_or_else(|e| panic!("{e}"));
        let path = |n: &LinuxNamespace| n.path().as_ref().map_or(String::new(), |p| p.display().to_string());
        list.iter().map(|n| (n.typ().to_string(), path(n))).collect()
    }

    fn options(network: NamespaceMode, pid: NamespaceMode, ipc: NamespaceMode) -> NamespaceOption {
        NamespaceOption { network: network as i32, pid: pid as i32, ipc: ipc as i32, ..NamespaceOption::default() }
    }

    fn case(pod: NamespaceOption, own: NamespaceOption) -> Case {
        let mut case = Case::new();
        fixture::pod_security(&mut case.pod).namespace_options = Some(pod);
        fixture::security(&mut case.config).namespace_options = Some(own);
        case
    }

    use NamespaceMode::{Container, Node, Pod, Target};

    #[test]
    fn modes() {
        let joined = |kind: &str| format!("/ns/{kind}");
        for (pod, own, wanted) in [
            (
                options(Pod, Container, Pod),
                options(Pod, Container, Pod),
                vec![("mnt", ""), ("net", "j"), ("uts", "j"), ("ipc", "j"), ("pid", "")],
            ),
            (
                options(Pod, Pod, Pod),
                options(Pod, Pod, Pod),
                vec![("mnt", ""), ("net", "j"), ("uts", "j"), ("ipc", "j"), ("pid", "j")],
            ),
            (options(Node, Node, Node), options(Node, Node, Node), vec![("mnt", "")]),
            (options(Node, Node, Node), options(Pod, Pod, Pod), vec![("mnt", "")]),
            (options(Node, Node, Node), options(Node, Container, Node), vec![("mnt", ""), ("pid", "")]),
        ] {
            let wanted =
                wanted.into_iter().map(|(k, p)| (k.to_owned(), if p == "j" { joined(k) } else { String::new() }));
            assert_eq!(got(&case(pod.clone(), own.clone())), wanted.collect(), "{pod:?} {own:?}");
        }
    }

    #[test]
    fn a_target_is_joined() {
        let own = NamespaceOption { target_id: "other".into(), ..options(Pod, Target, Pod) };
        assert_eq!(got(&case(options(Pod, Container, Pod), own))["pid"], "/ns/target");
        let e = list(&case(options(Pod, Container, Pod), options(Pod, Target, Pod)).input()).expect_err("no id");
        assert!(e.to_string().contains("target_id"), "{e}");
    }

    #[test]
    fn a_container_gets_no_more_of_the_host_than_its_pod() {
        for (own, name) in [
            (options(Node, Container, Pod), "network"),
            (options(Pod, Node, Pod), "pid"),
            (options(Pod, Container, Node), "ipc"),
            (options(Target, Container, Pod), "network"),
            (NamespaceOption { ipc: 9, ..NamespaceOption::default() }, "ipc"),
        ] {
            let e = list(&case(options(Pod, Container, Pod), own).input()).expect_err(name).to_string();
            assert!(e.contains(&format!("namespace_options.{name}")), "{e}");
        }
    }

    #[test]
    fn a_namespace_nobody_knows_is_an_error() {
        let mut case = case(options(Pod, Pod, Pod), options(Pod, Pod, Pod));
        case.namespaces.pid = None;
        let e = list(&case.input()).expect_err("no pid namespace").to_string();
        assert!(e.contains("namespace_options.pid") && e.contains("pid namespace"), "{e}");
    }

    #[test]
    fn cgroup_namespaces_on_v2_only() {
        let mut case = case(options(Pod, Container, Pod), options(Pod, Container, Pod));
        case.host.cgroup = crate::spec::host::CgroupMode::V2;
        assert_eq!(got(&case)["cgroup"], "");
        fixture::security(&mut case.config).privileged = true;
        fixture::pod_security(&mut case.pod).privileged = true;
        assert!(!got(&case).contains_key("cgroup"));
    }

    fn id_range(host_id: u32, container_id: u32, length: u32) -> IdMapping {
        IdMapping { host_id, container_id, length }
    }

    fn mapped(mode: NamespaceMode, uids: Vec<IdMapping>, gids: Vec<IdMapping>) -> Case {
        let userns_options = Some(UserNamespace { mode: mode as i32, uids, gids });
        let pod = NamespaceOption { userns_options, ..options(Pod, Container, Pod) };
        case(pod, options(Pod, Container, Pod))
    }

    #[test]
    fn user_namespaces() {
        let range = vec![id_range(65536, 0, 65536)];
        let case = mapped(Pod, range.clone(), range.clone());
        assert_eq!(got(&case)["user"], "/ns/user");
        let found = mappings(&case.pod).expect("mappings").expect("some");
        assert_eq!((found.uids[0].host_id(), found.gids[0].size()), (65536, 65536));
        let mut old = mapped(Pod, range.clone(), range.clone());
        old.host.user_namespaces = false;
        assert!(matches!(list(&old.input()), Err(Error::Unsupported { .. })));
        assert_eq!(mappings(&mapped(Node, vec![], vec![]).pod).expect("none"), None);
        assert_eq!(mappings(&Case::new().pod).expect("none"), None);
    }

    #[test]
    fn mappings_that_are_none() {
        let good = vec![id_range(65536, 0, 65536)];
        for (mode, uids, field) in [
            (Pod, vec![], "uids"),
            (Pod, vec![id_range(0, 0, 0)], "uids[0]"),
            (Pod, vec![id_range(u32::MAX, 0, 2)], "uids[0]"),
            (Pod, vec![id_range(0, 0, 10), id_range(5, 100, 10)], "uids[1]"),
            (Pod, vec![id_range(0, 0, 10), id_range(100, 9, 10)], "uids[1]"),
            (Node, good.clone(), "userns_options"),
            (Container, good.clone(), "mode"),
        ] {
            let e = mappings(&mapped(mode, uids, good.clone()).pod).expect_err(field).to_string();
            assert!(e.contains(field), "{e}");
        }
    }
}
