//! What the shim takes from a pod's CRI configuration.
//!
//! The daemon has validated it; what could change the host instead of the pod is checked here once more, because this is
//! where it would be done.

use cleat_proto::cri::v1::{IdMapping, NamespaceMode, PodSandboxConfig};
use prost::Message as _;
use protobuf::well_known_types::any::Any;

use crate::error::{Error, Result};

/// The type under which the configuration travels (CRI api.proto, package and message).
const TYPE_NAME: &str = "runtime.v1.PodSandboxConfig";

/// Kept per ipc namespace; a trailing dot stands for everything below (ipc_namespaces(7)).
const IPC_SYSCTLS: [&str; 6] =
    ["fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shmall", "kernel.shmm", "kernel.shm_"];
/// Kept per uts namespace, which the network namespace brings along; the host name has a field of its own.
const UTS_SYSCTLS: [&str; 1] = ["kernel.domainname"];

/// One line of a user namespace's map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id in the namespace.
    pub inside: u32,
    /// The first id on the host.
    pub outside: u32,
    /// How many there are.
    pub count: u32,
}

/// The maps of a pod's user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mappings {
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

/// What of a pod's namespaces is its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The host name; empty leaves the node's.
    pub hostname: String,
    /// A new ipc namespace.
    pub own_ipc: bool,
    /// A user namespace.
    pub user: Option<Mappings>,
    /// A new uts namespace: a pod on the node's network keeps the node's name.
    pub own_uts: bool,
    /// A pid namespace that the containers share.
    pub shared_pid: bool,
    /// Kernel parameters, as names with dots and values, sorted.
    pub sysctls: Vec<(String, String)>,
}

impl Config {
    /// Decodes and checks the options of a CreateSandbox. No options at all is a pod that shares nothing of its own.
    pub fn of(options: &Any) -> Result<Self> {
        let name = options.type_url.rsplit('/').next().unwrap_or_default();
        if name.is_empty() && options.value.is_empty() {
            return Self::from_pod(&PodSandboxConfig::default());
        }
        if name != TYPE_NAME {
            return Err(Error::Invalid(format!("sandbox options of type {name:?} are not {TYPE_NAME}")));
        }
        let pod = PodSandboxConfig::decode(options.value.as_slice());
        Self::from_pod(&pod.map_err(|e| Error::Invalid(format!("sandbox options: {e}")))?)
    }

    fn from_pod(pod: &PodSandboxConfig) -> Result<Self> {
        let linux = pod.linux.clone().unwrap_or_default();
        let security = linux.security_context.unwrap_or_default();
        let options = security.namespace_options.unwrap_or_default();
        let own = |what: &str, mode: i32| match NamespaceMode::try_from(mode) {
            Ok(NamespaceMode::Pod) => Ok(true),
            Ok(NamespaceMode::Node | NamespaceMode::Container) => Ok(false),
            _ => Err(Error::Invalid(format!("{what} namespace mode {mode} is none a sandbox can have"))),
        };
        let user = options
            .userns_options
            .filter(|u| u.mode == NamespaceMode::Pod as i32)
            .map(|user| Mappings { uids: ranges(&user.uids), gids: ranges(&user.gids) });
        if user.as_ref().is_some_and(|user| user.uids.is_empty() || user.gids.is_empty()) {
            return Err(Error::Invalid("a user namespace without a mapping of users and one of groups".into()));
        }
        let own_network = own("network", options.network)?;
        let mut config = Self {
            hostname: if own_network { pod.hostname.clone() } else { String::new() },
            own_ipc: own("ipc", options.ipc)?,
            user,
            own_uts: own_network,
            shared_pid: own("pid", options.pid)?,
            sysctls: Vec::new(),
        };
        for (name, value) in &linux.sysctls {
            config.sysctls.push((config.sysctl(name, value)?, value.clone()));
        }
        config.sysctls.sort();
        Ok(config)
    }

    /// A sysctl's file below `/proc/sys`, if it is one of a namespace the pod has.
    fn sysctl(&self, name: &str, value: &str) -> Result<String> {
        let refuse = |why: &str| Err(Error::Invalid(format!("sysctl {name:?}: {why}")));
        let (dots, path) = spelled(name);
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
        if path.split('/').any(|part| part.is_empty() || part == "." || part == ".." || !part.chars().all(legal)) {
            return refuse("it is no name of a sysctl");
        }
        if value.contains(['\n', '\0']) {
            return refuse("its value holds a newline");
        }
        let under = |list: &[&str]| list.iter().any(|prefix| dots.starts_with(prefix));
        match () {
            () if under(&["net."]) && self.own_uts => Ok(path),
            () if under(&UTS_SYSCTLS) && self.own_uts => Ok(path),
            () if under(&IPC_SYSCTLS) && self.own_ipc => Ok(path),
            () => refuse("it is not one of a namespace of the pod's own"),
        }
    }
}

fn ranges(mappings: &[IdMapping]) -> Vec<IdRange> {
    let range = |m: &IdMapping| IdRange { inside: m.container_id, outside: m.host_id, count: m.length };
    mappings.iter().map(range).collect()
}

/// A name with dots, and its path: the first separator says which of the two spellings it is (sysctl(8)).
fn spelled(name: &str) -> (String, String) {
    let swap = |name: &str| -> String {
        let swapped = |c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        name.chars().map(swapped).collect()
    };
    match name.find(['.', '/']).map(|i| name.as_bytes()[i]) {
        Some(b'/') => (swap(name), name.to_string()),
        _ => (name.to_string(), swap(name)),
    }
}

#[cfg(test)]
mod tests {
    use cleat_proto::cri::v1::{LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceOption};

    use super::*;

    fn pod(network: NamespaceMode, pid: NamespaceMode, ipc: NamespaceMode) -> PodSandboxConfig {
        let options =
            NamespaceOption { network: network as i32, pid: pid as i32, ipc: ipc as i32, ..Default::default() };
        let security_context =
            Some(LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() });
        PodSandboxConfig {
            hostname: "h".into(),
            linux: Some(LinuxPodSandboxConfig { security_context, ..Default::default() }),
            ..Default::default()
        }
    }

    fn any(pod: &PodSandboxConfig) -> Any {
        Any { type_url: TYPE_NAME.into(), value: pod.encode_to_vec(), ..Any::new() }
    }

    #[test]
    fn namespaces_are_the_pod_s_as_far_as_it_says() {
        use NamespaceMode::{Container, Node, Pod};
        let config = Config::of(&any(&pod(Pod, Container, Pod))).unwrap();
        assert!(config.own_ipc && config.own_uts && !config.shared_pid);
        assert_eq!(config.hostname, "h");
        let config = Config::of(&any(&pod(Node, Pod, Node))).unwrap();
        assert!(!config.own_ipc && !config.own_uts && config.shared_pid);
        assert_eq!(config.hostname, "", "a pod on the node's network would rename the node");
        assert!(Config::of(&any(&pod(Pod, NamespaceMode::Target, Pod))).is_err());
        assert!(Config::of(&Any { type_url: "x.Y".into(), ..Any::new() }).is_err());
        assert!(Config::of(&Any::new()).unwrap().own_ipc);
    }

    #[test]
    fn only_sysctls_of_the_pod_s_own_namespaces_pass() {
        use NamespaceMode::{Container, Node, Pod};
        let with = |mode, name: &str, value: &str| {
            let mut pod = pod(mode, Container, mode);
            pod.linux.as_mut().unwrap().sysctls = [(name.to_string(), value.to_string())].into();
            Config::of(&any(&pod)).map(|c| c.sysctls[0].0.clone())
        };
        for (name, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
            ("kernel.shmmax", "kernel/shmmax"),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
        ] {
            assert_eq!(with(Pod, name, "1").unwrap(), path);
            assert!(with(Node, name, "1").is_err(), "{name} of the node was let through");
        }
        for name in
            ["kernel.panic", "vm.swappiness", "net.", "net..x", "net/../kernel/panic", "kernel.core_pattern", ""]
        {
            assert!(with(Pod, name, "1").is_err(), "{name:?} was let through");
        }
        assert!(with(Pod, "net.ipv4.ip_forward", "1\n2").is_err());
    }
}
