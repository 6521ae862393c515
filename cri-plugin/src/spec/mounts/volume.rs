//! A mount that the client asked for: checked, and as the OCI spec has it.

use std::path::{Path, PathBuf};

use cleat_proto::cri::v1::{ContainerConfig, Mount as Asked, MountPropagation};
use oci_spec::runtime::Mount;

use super::{Ids, bind, set_ids};
use crate::error::Word;
use crate::spec::{Input, clean, known, namespaces};
use crate::{Error, Result};

/// Options of a bind mount that a client may set; what the fields of the message say cannot be said again here.
const OPTIONS: [&str; 12] = [
    "noexec",
    "exec",
    "nodev",
    "dev",
    "nosuid",
    "suid",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
    "nosymfollow",
    "symfollow",
];

/// A mount of the client with its place in the list, for errors.
struct Field(usize);

impl Field {
    fn wrong(&self, name: &str, why: impl Into<String>) -> Error {
        Error::invalid(format!("mounts[{}].{name}", self.0), why)
    }
}

/// Everything about the client's mounts that needs no host.
pub fn check(config: &ContainerConfig) -> Result<()> {
    for (i, mount) in config.mounts.iter().enumerate() {
        let field = Field(i);
        destination(&field, mount)?;
        check_source(&field, mount)?;
        propagation(&field, mount)?;
        check_recursive(&field, mount)?;
        check_options(&field, mount)?;
        ids(&field, mount)?;
    }
    Ok(())
}

/// The client's mounts, in its order.
pub fn all(input: &Input<'_>) -> Result<Vec<Mount>> {
    check(input.config)?;
    input.config.mounts.iter().enumerate().map(|(i, mount)| one(input, &Field(i), mount)).collect()
}

fn one(input: &Input<'_>, field: &Field, asked: &Asked) -> Result<Mount> {
    let resolved = input.volumes.resolved.and_then(|r| r.get(&field.0));
    let source = match (resolved, &asked.image) {
        (Some(path), _) => path.clone(),
        (None, None) => PathBuf::from(&asked.host_path),
        (None, Some(image)) => return Err(field.wrong("image", format!("{:?} is not mounted", image.image))),
    };
    let mut options = vec!["rbind".to_owned(), propagation(field, asked)?.to_owned()];
    options.push(write(input, field, asked)?.to_owned());
    options.extend(asked.mount_options.iter().cloned());
    let mut out = bind(destination(field, asked)?, source, options);
    let ids = ids(field, asked)?;
    if ids.is_some() && !(input.features.idmapped_mounts && input.host.mount_setattr) {
        return Err(Error::Unsupported {
            what: format!("mounts[{}].uidMappings: an idmapped mount with this runtime and kernel", field.0),
        });
    }
    set_ids(&mut out, ids.as_ref());
    Ok(out)
}

fn destination(field: &Field, asked: &Asked) -> Result<PathBuf> {
    let given = &asked.container_path;
    let path = clean(Path::new(given)).filter(|p| p != Path::new("/") && !given.contains('\0'));
    path.ok_or_else(|| field.wrong("container_path", format!("{given:?} is no absolute path below /")))
}

fn check_source(field: &Field, asked: &Asked) -> Result<()> {
    let host = &asked.host_path;
    match &asked.image {
        Some(_) if !host.is_empty() => Err(field.wrong("host_path", "image is set too, and they exclude each other")),
        Some(image) if image.image.is_empty() => Err(field.wrong("image.image", "it is empty")),
        Some(_) => check_sub_path(field, &asked.image_sub_path),
        None if !asked.image_sub_path.is_empty() => Err(field.wrong("image_sub_path", "no image is set beside it")),
        None if !host.starts_with('/') || host.contains('\0') => {
            Err(field.wrong("host_path", format!("{host:?} is not an absolute path")))
        }
        None => Ok(()),
    }
}

fn check_sub_path(field: &Field, path: &str) -> Result<()> {
    use std::path::Component::{CurDir, Normal};
    let stays = Path::new(path).components().all(|c| matches!(c, Normal(_) | CurDir));
    if stays && !path.contains('\0') {
        return Ok(());
    }
    Err(field.wrong("image_sub_path", format!("{path:?} is absolute or holds ..")))
}

fn propagation(field: &Field, asked: &Asked) -> Result<&'static str> {
    Ok(match known(format!("mounts[{}].propagation", field.0), asked.propagation)? {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    })
}

/// CRI api.proto, `Mount.recursive_read_only`: readonly must be set, propagation must be private.
fn check_recursive(field: &Field, asked: &Asked) -> Result<()> {
    if asked.recursive_read_only && asked.image.is_none() {
        if !asked.readonly {
            return Err(field.wrong("recursive_read_only", "readonly is not set beside it"));
        }
        if asked.propagation != MountPropagation::PropagationPrivate as i32 {
            return Err(field.wrong("recursive_read_only", "propagation is not PRIVATE"));
        }
    }
    Ok(())
}

/// An image is always mounted read-only.
fn write(input: &Input<'_>, field: &Field, asked: &Asked) -> Result<&'static str> {
    match asked {
        Asked { recursive_read_only: true, .. } if input.features.recursive_read_only && input.host.mount_setattr => {
            Ok("rro")
        }
        Asked { recursive_read_only: true, .. } => Err(Error::Cri {
            word: Word::RROUnsupported,
            why: format!(
                "mounts[{}] at {:?}: this runtime or kernel has no recursively read-only mounts",
                field.0, asked.container_path
            ),
        }),
        Asked { readonly: true, .. } | Asked { image: Some(_), .. } => Ok("ro"),
        _ => Ok("rw"),
    }
}

fn check_options(field: &Field, asked: &Asked) -> Result<()> {
    match asked.mount_options.iter().find(|o| !OPTIONS.contains(&o.as_str())) {
        Some(option) => Err(field.wrong("mount_options", format!("{option:?} is none of {OPTIONS:?}"))),
        None => Ok(()),
    }
}

fn ids(field: &Field, asked: &Asked) -> Result<Option<Ids>> {
    if asked.uid_mappings.is_empty() && asked.gid_mappings.is_empty() {
        return Ok(None);
    }
    let list = |name: &str, given| namespaces::ranges(&format!("mounts[{}].{name}", field.0), given);
    Ok(Some((list("uidMappings", &asked.uid_mappings)?, list("gidMappings", &asked.gid_mappings)?)))
}
