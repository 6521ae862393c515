//! Device nodes and the device cgroup: everything denied but what was asked for.
//!
//! The OCI runtime itself adds the handful every container has (`/dev/null` and its like).

use std::path::{Path, PathBuf};

use cleat_proto::cri::v1::{ContainerConfig, Device};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{clean, privileged};
use crate::{Error, Result, config};

const CDI_ANNOTATION: &str = "cdi.k8s.io/";

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

/// The CDI devices the container asks for, in its order, each once: the field, then the annotations that came before
/// the field and that device plugins still send (CDI SPEC.md, "cdi.k8s.io/").
///
/// # Errors
/// `Invalid` with the field for a name that is not `vendor/class=name`.
pub fn cdi(config: &ContainerConfig) -> Result<Vec<&str>> {
    let mut out: Vec<&str> = Vec::new();
    let fields =
        config.cdi_devices.iter().enumerate().map(|(i, d)| (format!("CDI_devices[{i}].name"), d.name.as_str()));
    let annotations = config.annotations.iter().filter(|(key, _)| key.starts_with(CDI_ANNOTATION));
    let listed = annotations.flat_map(|(key, list)| list.split(',').map(move |n| (format!("annotations[{key:?}]"), n)));
    for (field, name) in fields.chain(listed) {
        let qualified = name.split_once('=').is_some_and(|(kind, name)| kind.contains('/') && !name.is_empty());
        if !qualified || name.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(Error::invalid(field, format!("{name:?} is not vendor/class=name")));
        }
        if !out.contains(&name) {
            out.push(name);
        }
    }
    Ok(out)
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

/// The rules of who gets no device.
pub(super) fn none() -> Vec<LinuxDeviceCgroup> {
    vec![rule(false, "rwm")]
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
    use crate::spec::tests::fixture;
    use cleat_proto::cri::v1::CdiDevice;

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
    fn cdi_names_of_field_and_annotations() {
        let named = |name: &str| CdiDevice { name: name.into() };
        let mut config =
            ContainerConfig { cdi_devices: vec![named("v.com/gpu=1"), named("v.com/gpu=0")], ..Default::default() };
        config.annotations.insert("cdi.k8s.io/plugin".into(), "v.com/gpu=0,v.com/net=a".into());
        config.annotations.insert("other".into(), "x".into());
        assert_eq!(cdi(&config).expect("names"), ["v.com/gpu=1", "v.com/gpu=0", "v.com/net=a"]);
        config.annotations.insert("cdi.k8s.io/bad".into(), "gpu".into());
        assert!(cdi(&config).expect_err("no kind").to_string().contains("cdi.k8s.io/bad"));
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
