//! What a pod asks of its network, and what it got: both are stored, so both are plain serialisable data.
//!
//! `capabilities` is the one place where a pod's wishes become the `runtimeConfig` of CNI's conventions
//! (CONVENTIONS.md); a plugin sees only those its configuration declares.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Bandwidth;
use crate::id::SandboxId;
use crate::{Error, Result};

/// A pod that is to have a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attachment {
    /// The sandbox: CNI_CONTAINERID.
    pub id: SandboxId,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's uid.
    pub uid: String,
    /// Where the network namespace is pinned.
    pub netns: PathBuf,
    /// Host ports; those whose host port is 0 ask for nothing.
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
    /// The pod's resolver, for plugins that configure one.
    #[serde(default)]
    pub dns: Option<Dns>,
    /// Traffic limits.
    #[serde(default)]
    pub bandwidth: Option<Bandwidth>,
    /// Addresses the pod insists on, `10.1.2.3/24`.
    #[serde(default)]
    pub ips: Vec<String>,
    /// The hardware address the pod insists on.
    #[serde(default)]
    pub mac: Option<String>,
    /// Names the network may resolve to the pod.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The pod's cgroup, relative to the cgroup mount.
    #[serde(default)]
    pub cgroup_path: Option<String>,
    /// The pod's annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A port of the host that leads to a port of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// On the host; 0: none.
    pub host_port: u16,
    /// In the pod.
    pub container_port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The host's address to listen on; `None`: all.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol, by CNI's names for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A resolver's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

/// What `add` brought about; `del` wants it back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attached {
    /// The pod's addresses in the order of the result: the first is the primary one. Never empty.
    pub ips: Vec<IpAddr>,
    /// The last plugin's result as it was printed, fields unknown to us included.
    pub result: Value,
    /// The configuration list it was made with.
    pub config: Value,
}

impl Attachment {
    /// A pod that asks for a network and nothing else; for struct update.
    pub fn new(id: SandboxId, netns: PathBuf) -> Self {
        Self {
            id,
            name: String::new(),
            namespace: String::new(),
            uid: String::new(),
            netns,
            port_mappings: Vec::new(),
            dns: None,
            bandwidth: None,
            ips: Vec::new(),
            mac: None,
            aliases: Vec::new(),
            cgroup_path: None,
            annotations: BTreeMap::new(),
        }
    }

    /// CNI_ARGS, as every Kubernetes network plugin reads it.
    pub(super) fn args(&self) -> Result<String> {
        let mut args = String::from("IgnoreUnknown=1");
        let values = [
            ("K8S_POD_NAMESPACE", "metadata.namespace", self.namespace.as_str()),
            ("K8S_POD_NAME", "metadata.name", &self.name),
            ("K8S_POD_INFRA_CONTAINER_ID", "id", self.id.as_str()),
            ("K8S_POD_UID", "metadata.uid", &self.uid),
        ];
        for (key, field, value) in values {
            if value.contains(|c: char| matches!(c, ';' | '=') || c.is_control()) {
                return Err(Error::invalid(field, format!("{value:?} holds what separates arguments of CNI")));
            }
            args.extend([";", key, "=", value]);
        }
        Ok(args)
    }

    /// Everything the pod asks for, by the capability a plugin must declare to be told.
    pub(super) fn capabilities(&self) -> Map<String, Value> {
        let mut asked = Map::new();
        let mut ask = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                asked.insert(name.into(), value);
            }
        };
        let ports: Vec<Value> =
            self.port_mappings.iter().filter(|port| port.host_port != 0).map(PortMapping::to_json).collect();
        ask("portMappings", (!ports.is_empty()).then_some(Value::Array(ports)));
        ask("dns", self.dns.as_ref().map(|dns| json!(dns)));
        ask("bandwidth", self.bandwidth.as_ref().map(Bandwidth::to_json));
        ask("ips", (!self.ips.is_empty()).then(|| json!(self.ips)));
        ask("mac", self.mac.as_ref().map(|mac| json!(mac)));
        ask("aliases", (!self.aliases.is_empty()).then(|| json!(self.aliases)));
        ask("cgroupPath", self.cgroup_path.as_ref().map(|path| json!(path)));
        ask("io.kubernetes.cri.pod-annotations", Some(json!(self.annotations)));
        asked
    }
}

impl PortMapping {
    fn to_json(&self) -> Value {
        let host_ip = self.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
        json!({
            "hostPort": self.host_port,
            "containerPort": self.container_port,
            "protocol": self.protocol,
            "hostIP": host_ip,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Attachment {
        let id = SandboxId::try_from("ab".repeat(32)).expect("id");
        Attachment {
            name: "web".into(),
            namespace: "shop".into(),
            uid: "u-1".into(),
            ..Attachment::new(id, "/n".into())
        }
    }

    #[test]
    fn args_are_those_of_kubernetes() {
        let expected = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=u-1",
            "ab".repeat(32)
        );
        assert_eq!(pod().args().expect("args"), expected);
    }

    #[test]
    fn a_name_cannot_smuggle_an_argument() {
        for name in ["web;K8S_POD_NAMESPACE=kube-system", "a=b", "a\nb", "a\0"] {
            assert!(Attachment { name: name.into(), ..pod() }.args().is_err(), "{name:?}");
        }
    }

    #[test]
    fn only_what_is_asked_for_is_a_capability() {
        let bare = pod().capabilities();
        assert_eq!(bare.keys().collect::<Vec<_>>(), ["io.kubernetes.cri.pod-annotations"]);
        let port = |host_port| PortMapping { host_port, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
        let asked = Attachment { port_mappings: vec![port(0), port(8080)], ..pod() }.capabilities();
        let expected = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]);
        assert_eq!(asked["portMappings"], expected);
    }

    #[test]
    fn a_record_without_the_newer_fields_is_read() {
        let old = json!({"id": "ab".repeat(32), "name": "n", "namespace": "s", "uid": "u", "netns": "/n"});
        assert!(serde_json::from_value::<Attachment>(old).is_ok());
    }
}
