//! Whatever can be refused before a side effect: the configurations of a pod and of a container, field by field.
//!
//! Names end up in CNI arguments, log lines and file names, so what would break those is no name. What only an image or
//! the host can tell is checked where it is used.

mod container;
mod sandbox;

use std::path::{Component, Path, PathBuf};

use cleat_proto::cri::v1::{ContainerConfig, PodSandboxConfig};

pub use container::container_config;
pub use sandbox::sandbox_config;

use super::{clean, privileged, sandbox_security};
use crate::{Error, Result};

/// The longest name of a pod, namespace or container that Kubernetes has, doubled for other clients' prefixes.
const MAX_NAME_BYTES: usize = 512;

/// A privileged container needs a privileged pod (CRI api.proto, `LinuxSandboxSecurityContext.privileged`).
///
/// # Errors
/// `Invalid`.
pub fn privilege(sandbox: &PodSandboxConfig, config: &ContainerConfig) -> Result<()> {
    let granted = sandbox_security(sandbox).is_some_and(|s| s.privileged);
    if privileged(config) && !granted {
        return Err(Error::invalid(
            "linux.security_context.privileged",
            "a privileged container needs a pod whose own security context is privileged",
        ));
    }
    Ok(())
}

/// Where the container's log goes: `log_path` below the pod's `log_directory`; `None` where either is empty.
///
/// # Errors
/// `Invalid` for a path that leaves the pod's directory (CVE-2025-0750).
pub fn log_path(sandbox: &PodSandboxConfig, config: &ContainerConfig) -> Result<Option<PathBuf>> {
    let given = config.log_path.as_str();
    let inside = Path::new(given).components().all(|c| matches!(c, Component::Normal(_)));
    if !inside || given.ends_with('/') || given.contains(char::is_control) {
        return Err(Error::invalid("log_path", format!("{given:?} is no plain path below the pod's log directory")));
    }
    let directory = log_directory(sandbox)?;
    Ok(directory.filter(|_| !given.is_empty()).map(|d| d.join(given)))
}

/// The pod's log directory; `None` where it has none.
fn log_directory(sandbox: &PodSandboxConfig) -> Result<Option<PathBuf>> {
    let given = sandbox.log_directory.as_str();
    if given.is_empty() {
        return Ok(None);
    }
    let climbs = Path::new(given).components().any(|c| c == Component::ParentDir);
    match clean(Path::new(given)) {
        Some(path) if !climbs && path != Path::new("/") && !given.contains(char::is_control) => Ok(Some(path)),
        _ => Err(Error::invalid("log_directory", format!("{given:?} is no absolute path without .. below /"))),
    }
}

/// A name of Kubernetes, or of a client that is less strict about them.
fn name(field: &str, text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(Error::invalid(field, "it is empty"));
    }
    optional_name(field, text)
}

fn optional_name(field: &str, text: &str) -> Result<()> {
    if text.len() > MAX_NAME_BYTES {
        return Err(Error::invalid(field, format!("it has {} bytes, more than {MAX_NAME_BYTES}", text.len())));
    }
    if let Some(c) = text.chars().find(|c| c.is_control() || matches!(c, '/' | ';' | '\\')) {
        return Err(Error::invalid(field, format!("{text:?} holds {c:?}")));
    }
    if text == "." || text == ".." {
        return Err(Error::invalid(field, format!("{text:?} is no name")));
    }
    Ok(())
}

/// A list of words that are written to a file, one beside the other.
fn words(field: &str, list: &[String]) -> Result<()> {
    match list.iter().position(|w| w.is_empty() || w.contains(|c: char| c.is_whitespace() || c.is_control())) {
        Some(i) => Err(Error::invalid(format!("{field}[{i}]"), format!("{:?} is not one word", list[i]))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
