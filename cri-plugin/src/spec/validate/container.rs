//! A container's configuration.

use cleat_proto::cri::v1::{
    ContainerConfig, LinuxContainerConfig, LinuxContainerSecurityContext, PodSandboxConfig, Signal,
};

use super::{log_path, name, privilege};
use crate::spec::{capabilities, devices, env, known, mounts, namespaces, resources, seccomp, security, user};
use crate::{Error, Result};

/// Checks everything about a container that needs neither its image nor the host.
///
/// # Errors
/// `Invalid` with the path of the field in `ContainerConfig`.
pub fn container_config(config: &ContainerConfig, sandbox: &PodSandboxConfig) -> Result<()> {
    let Some(metadata) = &config.metadata else { return Err(Error::invalid("metadata", "it is missing")) };
    name("metadata.name", &metadata.name)?;
    if config.image.as_ref().is_none_or(|i| i.image.is_empty()) {
        return Err(Error::invalid("image.image", "it is empty"));
    }
    process(config)?;
    log_path(sandbox, config)?;
    mounts::check(config)?;
    config.devices.iter().enumerate().try_for_each(|(i, d)| devices::check(i, d).map(drop))?;
    devices::cdi(config)?;
    known::<Signal>("stop_signal", config.stop_signal)?;
    privilege(sandbox, config)?;
    namespaces::check_against_pod(sandbox, config)?;
    config.linux.as_ref().map_or(Ok(()), linux)
}

fn process(config: &ContainerConfig) -> Result<()> {
    for (field, list) in [("command", &config.command), ("args", &config.args)] {
        if let Some(i) = list.iter().position(|word| word.contains('\0')) {
            return Err(Error::invalid(format!("{field}[{i}]"), "it holds a NUL byte"));
        }
    }
    for (i, entry) in config.envs.iter().enumerate() {
        env::line(entry).map_err(|why| Error::invalid(format!("envs[{i}]"), why))?;
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid("working_dir", format!("{:?} is not absolute", config.working_dir)));
    }
    Ok(())
}

fn linux(config: &LinuxContainerConfig) -> Result<()> {
    config.resources.as_ref().map_or(Ok(()), resources::check)?;
    config.security_context.as_ref().map_or(Ok(()), context)
}

fn context(context: &LinuxContainerSecurityContext) -> Result<()> {
    user::check(context)?;
    context.capabilities.as_ref().map_or(Ok(()), capabilities::check)?;
    seccomp::chosen(context)?;
    security::check(context)?;
    for (name, list) in [("masked_paths", &context.masked_paths), ("readonly_paths", &context.readonly_paths)] {
        if let Some(i) = list.iter().position(|p| !p.starts_with('/') || p.contains('\0')) {
            return Err(Error::invalid(
                format!("linux.security_context.{name}[{i}]"),
                format!("{:?} is not absolute", list[i]),
            ));
        }
    }
    Ok(())
}
