//! Tables of modes, and of mappings.

use super::*;
use crate::spec::tests::fixture::{self, Case};
use cleat_proto::cri::v1::{IdMapping, UserNamespace};
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
        let wanted = wanted.into_iter().map(|(k, p)| (k.to_owned(), if p == "j" { joined(k) } else { String::new() }));
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
fn a_container_cannot_choose_another_user_namespace() {
    let range = vec![id_range(65536, 0, 65536)];
    let mut case = mapped(Pod, range.clone(), range);
    let pods = sandbox_namespace_options(&case.pod).cloned();
    fixture::security(&mut case.config).namespace_options = pods.clone();
    list(&case.input()).expect("the same");
    fixture::pod_security(&mut case.pod).namespace_options = Some(options(Pod, Container, Pod));
    assert!(list(&case.input()).expect_err("another").to_string().contains("userns_options"));
}

#[test]
fn mappings_that_are_none() {
    let good = vec![id_range(65536, 0, 65536)];
    for (mode, uids, field) in [
        (Pod, vec![], "uids"),
        (Pod, vec![id_range(1000, 1, 100_000)], "uids: id 0"),
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
