//! The user namespace's mappings of ids: what a pod's must be, and lists of them in general.

use cleat_proto::cri::v1::{IdMapping, NamespaceMode, PodSandboxConfig, UserNamespace};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use crate::spec::{Host, built, known, sandbox_namespace_options};
use crate::{Error, Result};

/// The mappings of a pod's user namespace; `None` where the pod is in the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mappings {
    /// User ids.
    pub uids: Vec<LinuxIdMapping>,
    /// Group ids.
    pub gids: Vec<LinuxIdMapping>,
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
            uids: with_root(&format!("{field}.uids"), uids)?,
            gids: with_root(&format!("{field}.gids"), gids)?,
        })),
        other => Err(Error::invalid(format!("{field}.mode"), format!("{other:?} is not POD or NODE"))),
    }
}

/// Whether the container's `id` is in one of the ranges.
pub fn has(ranges: &[LinuxIdMapping], id: u32) -> bool {
    ranges.iter().any(|r| id.checked_sub(r.container_id()).is_some_and(|offset| offset < r.size()))
}

/// A pod's mapping must have a root, who owns what the runtime makes.
fn with_root(field: &str, given: &[IdMapping]) -> Result<Vec<LinuxIdMapping>> {
    let ranges = ranges(field, given)?;
    match has(&ranges, 0) {
        true => Ok(ranges),
        false => Err(Error::invalid(field, "id 0 of the container is not mapped")),
    }
}

/// Whether pods with a user namespace can run here.
///
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
pub fn ranges(field: &str, given: &[IdMapping]) -> Result<Vec<LinuxIdMapping>> {
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
