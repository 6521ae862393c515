//! A pod's configuration.

use std::net::IpAddr;

use cleat_proto::cri::v1::{
    DnsConfig, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSandboxConfig, PortMapping, Protocol,
};

use super::{log_directory, name, optional_name, words};
use crate::spec::{known, namespaces, resources, sysctls, user};
use crate::{Error, Result};

/// The kernel's limit (sethostname(2)).
const MAX_HOSTNAME_BYTES: usize = 64;

/// Checks everything about a pod that needs no side effect.
///
/// # Errors
/// `Invalid` with the path of the field in `PodSandboxConfig`.
pub fn sandbox_config(config: &PodSandboxConfig) -> Result<()> {
    let Some(metadata) = &config.metadata else { return Err(Error::invalid("metadata", "it is missing")) };
    name("metadata.name", &metadata.name)?;
    optional_name("metadata.namespace", &metadata.namespace)?;
    optional_name("metadata.uid", &metadata.uid)?;
    hostname(&config.hostname)?;
    log_directory(config)?;
    config.dns_config.as_ref().map_or(Ok(()), dns)?;
    config.port_mappings.iter().enumerate().try_for_each(|(i, p)| port(i, p))?;
    namespaces::check_pod(config)?;
    sysctls::of(config)?;
    config.linux.as_ref().map_or(Ok(()), linux)
}

fn hostname(text: &str) -> Result<()> {
    let valid = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if !valid || text.len() > MAX_HOSTNAME_BYTES {
        return Err(Error::invalid(
            "hostname",
            format!("{text:?} is no host name of at most {MAX_HOSTNAME_BYTES} letters, digits, dots and dashes"),
        ));
    }
    Ok(())
}

/// These lines become resolv.conf.
fn dns(config: &DnsConfig) -> Result<()> {
    words("dns_config.servers", &config.servers)?;
    words("dns_config.searches", &config.searches)?;
    words("dns_config.options", &config.options)
}

/// A `host_port` of 0 maps nothing (CRI api.proto, `PortMapping`).
fn port(index: usize, mapping: &PortMapping) -> Result<()> {
    let field = |name: &str| format!("port_mappings[{index}].{name}");
    known::<Protocol>(field("protocol"), mapping.protocol)?;
    for (name, port) in [("container_port", mapping.container_port), ("host_port", mapping.host_port)] {
        if !(0..=65535).contains(&port) {
            return Err(Error::invalid(field(name), format!("{port} is no port")));
        }
    }
    if mapping.host_port > 0 && mapping.container_port == 0 {
        return Err(Error::invalid(field("container_port"), "it is missing, and host_port is set"));
    }
    if !mapping.host_ip.is_empty() && mapping.host_ip.parse::<IpAddr>().is_err() {
        return Err(Error::invalid(field("host_ip"), format!("{:?} is no address", mapping.host_ip)));
    }
    Ok(())
}

fn linux(config: &LinuxPodSandboxConfig) -> Result<()> {
    let parent = &config.cgroup_parent;
    if parent.split('/').any(|part| part == "..") || parent.contains(char::is_control) {
        return Err(Error::invalid("linux.cgroup_parent", format!("{parent:?} holds .. or control characters")));
    }
    config.resources.as_ref().map_or(Ok(()), resources::check)?;
    config.security_context.as_ref().map_or(Ok(()), security)
}

fn security(context: &LinuxSandboxSecurityContext) -> Result<()> {
    let field = "linux.security_context";
    if context.run_as_group.is_some() && context.run_as_user.is_none() {
        return Err(Error::invalid(format!("{field}.run_as_group"), "it needs run_as_user beside it"));
    }
    for (name, value) in [("run_as_user", &context.run_as_user), ("run_as_group", &context.run_as_group)] {
        value.as_ref().map(|v| user::id(format!("{field}.{name}"), v.value)).transpose()?;
    }
    for (i, group) in context.supplemental_groups.iter().enumerate() {
        user::id(format!("{field}.supplemental_groups[{i}]"), *group)?;
    }
    Ok(())
}
