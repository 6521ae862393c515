//! Sysctls of a pod: only those that the kernel keeps per namespace, and only of namespaces the pod has.
//!
//! They belong to the pod's namespaces, so whoever makes those writes them, once; no container's spec holds any.
//! A `+` or a newline in one was a way to set others (CVE-2022-0811).

use std::collections::BTreeMap;
use std::path::PathBuf;

use cleat_proto::cri::v1::PodSandboxConfig;

use super::namespaces;
use crate::{Error, Result};

/// Kept per ipc namespace; a trailing dot stands for everything below (ipc_namespaces(7)).
const IPC: [&str; 10] = [
    "fs.mqueue.",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.shm_next_id",
];
/// Kept per network namespace.
const NET: [&str; 1] = ["net."];
/// Kept per uts namespace; the host name has a field of its own.
const UTS: [&str; 1] = ["kernel.domainname"];

/// The pod's sysctls, in the form `net.ipv4.ip_forward`, sorted.
///
/// # Errors
/// `Invalid` for a name or value that is none, for a sysctl that is the whole host's, and for one of a namespace in
/// which the pod shares the host's.
pub fn of(sandbox: &PodSandboxConfig) -> Result<BTreeMap<String, String>> {
    let given = sandbox.linux.iter().flat_map(|l| &l.sysctls);
    given
        .map(|(name, value)| {
            let wrong = |why: String| Error::invalid(format!("linux.sysctls[{name:?}]"), why);
            let dotted = dotted(name).map_err(wrong)?;
            check_value(value).map_err(wrong)?;
            check_namespace(&dotted, sandbox).map_err(wrong)?;
            Ok((dotted, value.clone()))
        })
        .collect()
}

/// What containerd 2 sets where a pod says nothing of it: ports below 1024 and ping need no capability. Only in a
/// network namespace of the pod's own; ping's groups must be ones the pod's user namespace has.
///
/// # Errors
/// `Invalid` for a pod whose user namespace is none.
pub fn unprivileged(sandbox: &PodSandboxConfig) -> Result<BTreeMap<String, String>> {
    if namespaces::host_network(sandbox) {
        return Ok(BTreeMap::new());
    }
    let mapped = namespaces::mappings(sandbox)?;
    let last =
        mapped.iter().flat_map(|m| &m.gids).find(|r| r.container_id() == 0).map_or(i32::MAX as u32, |r| r.size() - 1);
    Ok(BTreeMap::from([
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned()),
        ("net.ipv4.ping_group_range".to_owned(), format!("0 {last}")),
    ]))
}

/// Where a sysctl that [`of`] returned is written: below `/proc/sys`.
///
/// A part may hold dots where the name has slashes (`net/ipv4/conf/eth0.100/forwarding`, sysctl(8)): [`of`] writes
/// those as `/`.
pub fn path(name: &str) -> PathBuf {
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    PathBuf::from("/proc/sys").join(name.chars().map(swapped).collect::<String>())
}

/// One spelling for `a.b.c` and `a/b/c`: the first separator of a name says which it is (sysctl(8)).
fn dotted(name: &str) -> Result<String, String> {
    let dotted: String = match name.find(['.', '/']).map(|i| &name[i..=i]) {
        Some("/") => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        Some(_) => name.to_owned(),
        None => return Err("it is no name such as net.ipv4.ip_forward".into()),
    };
    let valid = |part: &str| {
        let letters = part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'/' | b'*' | b'@'));
        letters && !part.is_empty() && part.split('/').all(|p| !p.is_empty())
    };
    if dotted.len() > 253 || !dotted.split('.').all(valid) {
        return Err("it holds an empty part or letters no sysctl has".into());
    }
    Ok(dotted)
}

fn check_value(value: &str) -> Result<(), String> {
    match value.chars().find(|c| *c == '+' || (c.is_control() && *c != '\t')) {
        Some(c) => Err(format!("the value {value:?} holds {c:?}")),
        None => Ok(()),
    }
}

fn check_namespace(name: &str, sandbox: &PodSandboxConfig) -> Result<(), String> {
    let among = |list: &[&str]| {
        list.iter().any(|known| if known.ends_with('.') { name.starts_with(known) } else { name == *known })
    };
    let hosts = if among(&IPC) {
        namespaces::host_ipc(sandbox).then_some("ipc")
    } else if among(&NET) {
        namespaces::host_network(sandbox).then_some("network")
    } else if among(&UTS) {
        namespaces::host_network(sandbox).then_some("uts")
    } else {
        return Err("the kernel does not keep it per namespace: it would change the whole host".into());
    };
    match hosts {
        Some(kind) => Err(format!("the pod is in the host's {kind} namespace: it would change the whole host")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::fixture;
    use cleat_proto::cri::v1::{IdMapping, NamespaceMode, NamespaceOption, UserNamespace};

    fn pod(name: &str, value: &str) -> PodSandboxConfig {
        let mut pod = fixture::pod();
        fixture::pod_linux(&mut pod).sysctls = [(name.to_owned(), value.to_owned())].into();
        pod
    }

    #[test]
    fn namespaced_ones_pass_in_either_spelling() {
        for (name, wanted, file) in [
            ("kernel.shm_rmid_forced", "kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
            ("fs.mqueue.msg_max", "fs.mqueue.msg_max", "fs/mqueue/msg_max"),
            ("net/ipv4/ip_forward", "net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ] {
            let got = of(&pod(name, "1 2\t3")).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(got.into_iter().collect::<Vec<_>>(), [(wanted.to_owned(), "1 2\t3".to_owned())]);
            assert_eq!(path(wanted), PathBuf::from("/proc/sys").join(file));
        }
    }

    #[test]
    fn unprivileged_ports_and_ping() {
        let mut pod = fixture::pod();
        assert_eq!(unprivileged(&pod).expect("pod")["net.ipv4.ping_group_range"], "0 2147483647");
        let range = vec![IdMapping { host_id: 65536, container_id: 0, length: 65536 }];
        let userns_options = Some(UserNamespace { mode: 0, uids: range.clone(), gids: range });
        let options = NamespaceOption { userns_options, ..NamespaceOption::default() };
        fixture::pod_security(&mut pod).namespace_options = Some(options.clone());
        assert_eq!(unprivileged(&pod).expect("pod")["net.ipv4.ping_group_range"], "0 65535");
        let hosts = NamespaceOption { network: NamespaceMode::Node as i32, ..options };
        fixture::pod_security(&mut pod).namespace_options = Some(hosts);
        assert!(unprivileged(&pod).expect("pod").is_empty());
    }

    #[test]
    fn everything_else_is_refused() {
        for (name, value, words) in [
            ("kernel.core_pattern", "|/evil", "whole host"),
            ("kernel.shm_rmid_forced+kernel.core_pattern", "1", "letters"),
            ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/evil #", "'+'"),
            ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=x", "\\n"),
            ("kernel.shm_rmid_forced", "\0", "\\0"),
            ("net.ipv4.conf.../../kernel.core_pattern", "x", "empty part"),
            ("net/../kernel/core_pattern", "x", "empty part"),
            ("net/../../etc/passwd", "x", "empty part"),
            ("net", "1", "no name"),
            ("kernel.hostname", "x", "whole host"),
            ("kernel.msgmaxx", "1", "whole host"),
            ("vm.swappiness", "1", "whole host"),
            ("", "1", "no name"),
        ] {
            let e = of(&pod(name, value)).expect_err(name).to_string();
            assert!(e.contains("linux.sysctls") && e.contains(words), "{e}");
        }
    }

    #[test]
    fn not_in_the_hosts_namespaces() {
        for (name, network, ipc, kind) in [
            ("net.ipv4.ip_forward", NamespaceMode::Node, NamespaceMode::Pod, "network"),
            ("kernel.msgmax", NamespaceMode::Pod, NamespaceMode::Node, "ipc"),
            ("kernel.domainname", NamespaceMode::Node, NamespaceMode::Pod, "uts"),
        ] {
            let mut pod = pod(name, "1");
            fixture::pod_security(&mut pod).namespace_options =
                Some(NamespaceOption { network: network as i32, ipc: ipc as i32, ..Default::default() });
            let e = of(&pod).expect_err(name).to_string();
            assert!(e.contains(kind), "{e}");
        }
    }
}
