//! Device nodes and the device cgroup: everything denied but what was asked for.
//!
//! The OCI runtime itself adds the handful every container has (`/dev/null` and its like).

use std::path::{Path, PathBuf};

use cleat_proto::cri::v1::{ContainerConfig, Device};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{clean, privileged};
use crate::{Error, Result, config};

/// A device node of the host as [`super::Probed::read`] found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where the container sees it.
    pub path: PathBuf,
    /// Block or character.
    pub kind: Kind,
    /// Its numbers.
    pub major: u32,
    /// Its numbers.
    pub minor: u32,
    /// Permission bits on the host.
    pub mode: u32,
    /// Owner on the host.
    pub uid: u32,
    /// Group on the host.
    pub gid: u32,
    /// What the cgroup allows; `None` where the whole class of device is allowed anyway.
    pub access: Option<Access>,
}

/// The kinds of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A block device.
    Block,
    /// A character device.
    Char,
}

/// Any of `r`, `w`, `m`, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access(String);

impl Access {
    /// From `Device.permissions`.
    ///
    /// # Errors
    /// `Invalid`, with `field`, for an empty text and for letters other than r, w and m.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        let valid = text.chars().enumerate().all(|(i, c)| matches!(c, 'r' | 'w' | 'm') && !text[..i].contains(c));
        if text.is_empty() || !valid {
            return Err(Error::invalid(field, format!("{text:?} is not made of r, w and m, each at most once")));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Whether the container sees every device of the host.
pub fn all(config: &ContainerConfig, handler: &config::Runtime) -> bool {
    privileged(config) && !handler.privileged_without_host_devices
}

/// Checks one entry of `devices`: where it lies in the container and what may be done with it.
///
/// # Errors
/// `Invalid` with the field.
pub fn check(index: usize, device: &Device) -> Result<(PathBuf, Access)> {
    let field = |name: &str| format!("devices[{index}].{name}");
    if !device.host_path.starts_with('/') || device.host_path.contains('\0') {
        return Err(Error::invalid(field("host_path"), format!("{:?} is not an absolute path", device.host_path)));
    }
    let inside = if device.container_path.is_empty() { &device.host_path } else { &device.container_path };
    let path = clean(Path::new(inside)).filter(|p| p != Path::new("/") && !inside.contains('\0'));
    let path =
        path.ok_or_else(|| Error::invalid(field("container_path"), format!("{inside:?} is no absolute path")))?;
    Ok((path, Access::parse(&field("permissions"), &device.permissions)?))
}

/// `linux.devices`.
pub fn nodes(nodes: &[Node]) -> Vec<LinuxDevice> {
    nodes.iter().map(node).collect()
}

fn node(node: &Node) -> LinuxDevice {
    let mut out = LinuxDevice::default();
    out.set_path(node.path.clone())
        .set_typ(kind(node.kind))
        .set_major(node.major.into())
        .set_minor(node.minor.into())
        .set_file_mode(Some(node.mode & 0o7777))
        .set_uid(Some(node.uid))
        .set_gid(Some(node.gid));
    out
}

fn kind(kind: Kind) -> LinuxDeviceType {
    match kind {
        Kind::Block => LinuxDeviceType::B,
        Kind::Char => LinuxDeviceType::C,
    }
}

/// `linux.resources.devices`: deny all, then what is allowed.
pub fn rules(config: &ContainerConfig, handler: &config::Runtime, nodes: &[Node]) -> Vec<LinuxDeviceCgroup> {
    let everything = all(config, handler);
    let mut rules = vec![rule(everything, "rwm")];
    if !everything {
        rules.extend(nodes.iter().filter_map(|node| {
            let mut out = rule(true, &node.access.as_ref()?.0);
            out.set_typ(Some(kind(node.kind))).set_major(Some(node.major.into())).set_minor(Some(node.minor.into()));
            Some(out)
        }));
    }
    rules
}

fn rule(allow: bool, access: &str) -> LinuxDeviceCgroup {
    let mut out = LinuxDeviceCgroup::default();
    out.set_allow(allow).set_access(Some(access.to_owned()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::fixture;

    fn fuse() -> Node {
        let access = Some(Access::parse("f", "rw").expect("access"));
        Node {
            path: "/dev/fuse".into(),
            kind: Kind::Char,
            major: 10,
            minor: 229,
            mode: 0o20666,
            uid: 0,
            gid: 0,
            access,
        }
    }

    #[test]
    fn denied_but_for_what_was_asked() {
        let handler = config::Runtime::default();
        let got = rules(&ContainerConfig::default(), &handler, &[fuse()]);
        let shown: Vec<String> = got.iter().map(|r| format!("{} {r}", r.allow())).collect();
        assert_eq!(shown, ["false a *:* rwm", "true c 10:229 rw"]);
        assert_eq!(nodes(&[fuse()])[0].file_mode(), Some(0o666));
    }

    #[test]
    fn privileged_with_and_without_host_devices() {
        let config = fixture::with_security(|s| s.privileged = true);
        let mut handler = config::Runtime::default();
        let shown = |handler: &config::Runtime| rules(&config, handler, &[])[0].allow();
        assert!(shown(&handler));
        handler.privileged_without_host_devices = true;
        assert!(!shown(&handler));
    }

    #[test]
    fn entries_are_checked() {
        let device = |host: &str, inside: &str, permissions: &str| Device {
            host_path: host.into(),
            container_path: inside.into(),
            permissions: permissions.into(),
        };
        assert_eq!(check(0, &device("/dev/kvm", "", "rwm")).expect("ok").0, Path::new("/dev/kvm"));
        assert_eq!(check(0, &device("/dev/kvm", "/dev/x/../y", "m")).expect("ok").0, Path::new("/dev/y"));
        for (bad, field) in [
            (device("dev/kvm", "", "r"), "devices[3].host_path"),
            (device("", "/dev/kvm", "r"), "devices[3].host_path"),
            (device("/dev/kvm", "kvm", "r"), "devices[3].container_path"),
            (device("/dev/kvm", "/", "r"), "devices[3].container_path"),
            (device("/dev/kvm", "", ""), "devices[3].permissions"),
            (device("/dev/kvm", "", "rx"), "devices[3].permissions"),
            (device("/dev/kvm", "", "rr"), "devices[3].permissions"),
        ] {
            let e = check(3, &bad).expect_err(field).to_string();
            assert!(e.contains(field), "{e}");
        }
    }
}
