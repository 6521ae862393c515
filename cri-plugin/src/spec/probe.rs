//! What a container's configuration names on the host and the spec must spell out: device nodes and a seccomp profile.
//!
//! Together with [`super::host`] the only code of `spec` that reads anything. Symlinks of a host device are followed,
//! for kubelet's device plugins hand out links; nothing here lies in an image's hands.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cleat_proto::cri::v1::ContainerConfig;
use oci_spec::runtime::LinuxSeccomp;

use super::devices::{self, Access, Kind, Node};
use super::privileged;
use super::seccomp::{self, Choice};
use crate::{Error, Result, config};

/// Directories below `/dev` that hold no devices of the host but a pod's own mounts.
const NOT_DEVICES: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
/// Ends a walk that a loop of bind mounts would make endless.
const MAX_DEPTH: usize = 16;
/// The largest seccomp profile that is read, in bytes; the biggest known are 100 KB.
const MAX_PROFILE_BYTES: u64 = 4 << 20;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probed {
    /// The device nodes the container gets.
    pub devices: Vec<Node>,
    /// The profile that a seccomp choice of `Localhost` names.
    pub seccomp: Option<LinuxSeccomp>,
}

impl Probed {
    /// Reads what `config` names. Blocks on the host's file system.
    ///
    /// # Errors
    /// `Invalid` with the field for a device that is none and a profile that cannot be read or parsed.
    pub fn read(config: &ContainerConfig, handler: &config::Runtime) -> Result<Self> {
        let mut found = Vec::new();
        if devices::all(config, handler) {
            walk(Path::new("/dev"), Path::new("/dev"), None, MAX_DEPTH, &mut found)?;
            // A device node at these places is the runtime's own to make.
            found.retain(|n: &Node| n.path != Path::new("/dev/console"));
        }
        for (i, device) in config.devices.iter().enumerate() {
            let (inside, access) = devices::check(i, device)?;
            for node in named(i, Path::new(&device.host_path), &inside, &access)? {
                found.retain(|n: &Node| n.path != node.path);
                found.push(node);
            }
        }
        Ok(Self { devices: found, seccomp: profile(config)? })
    }
}

/// A device, or every device below a directory.
fn named(index: usize, host: &Path, inside: &Path, access: &Access) -> Result<Vec<Node>> {
    let field = format!("devices[{index}].host_path");
    let wrong = |why: String| Error::invalid(&field, format!("{}: {why}", host.display()));
    let meta = std::fs::metadata(host).map_err(|e| wrong(e.to_string()))?;
    let mut found = Vec::new();
    if meta.is_dir() {
        walk(host, inside, Some(access), MAX_DEPTH, &mut found)?;
    } else {
        found.extend(node(&meta, inside, Some(access)));
    }
    if found.is_empty() {
        return Err(wrong("neither a device nor a directory of devices".into()));
    }
    Ok(found)
}

/// Devices come and go while we walk: what is no longer there is none.
fn walk(host: &Path, inside: &Path, access: Option<&Access>, depth: usize, found: &mut Vec<Node>) -> Result<()> {
    let Some(depth) = depth.checked_sub(1) else { return Ok(()) };
    let mut entries: Vec<_> = match std::fs::read_dir(host) {
        Ok(entries) => entries.flatten().collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("read", host)(e)),
    };
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let inside: PathBuf = inside.join(&name);
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            if !NOT_DEVICES.iter().any(|n| name == *n) {
                walk(&entry.path(), &inside, access, depth, found)?;
            }
        } else {
            found.extend(node(&meta, &inside, access));
        }
    }
    Ok(())
}

fn node(meta: &Metadata, inside: &Path, access: Option<&Access>) -> Option<Node> {
    let kind = match meta.file_type() {
        t if t.is_block_device() => Kind::Block,
        t if t.is_char_device() => Kind::Char,
        _ => return None,
    };
    Some(Node {
        path: inside.to_owned(),
        kind,
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        access: access.cloned(),
    })
}

fn profile(config: &ContainerConfig) -> Result<Option<LinuxSeccomp>> {
    match seccomp::choice(config)? {
        Choice::Localhost(path) if !privileged(config) => read_profile(&path).map(Some),
        _ => Ok(None),
    }
}

/// Reads and parses a profile of the node.
fn read_profile(path: &Path) -> Result<LinuxSeccomp> {
    let wrong = |why: String| Error::invalid(seccomp::FIELD, format!("{}: {why}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| wrong(e.to_string()))?;
    if !file.metadata().map_err(|e| wrong(e.to_string()))?.is_file() {
        return Err(wrong("not a regular file".into()));
    }
    file.take(MAX_PROFILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| wrong(e.to_string()))?;
    if bytes.len() as u64 > MAX_PROFILE_BYTES {
        return Err(wrong(format!("larger than {MAX_PROFILE_BYTES} bytes")));
    }
    seccomp::parse(&bytes).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::fixture;
    use cleat_proto::cri::v1::{Device, SecurityProfile, security_profile::ProfileType};

    fn with_device(host: &str, inside: &str) -> ContainerConfig {
        let device = Device { host_path: host.into(), container_path: inside.into(), permissions: "rw".into() };
        ContainerConfig { devices: vec![device], ..ContainerConfig::default() }
    }

    #[test]
    fn a_device_and_a_link_to_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        let link = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &link).expect("symlink");
        for host in ["/dev/null", link.to_str().expect("utf-8")] {
            let found = Probed::read(&with_device(host, "/dev/x"), &config::Runtime::default()).expect("probe");
            let [node] = &found.devices[..] else { panic!("{found:?}") };
            assert_eq!(
                (node.path.as_path(), node.kind, node.major, node.minor),
                (Path::new("/dev/x"), Kind::Char, 1, 3)
            );
        }
    }

    #[test]
    fn what_is_no_device_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        for host in ["/etc/passwd", "/nonexistent/device", dir.path().to_str().expect("utf-8")] {
            let e = Probed::read(&with_device(host, ""), &config::Runtime::default()).expect_err(host).to_string();
            assert!(e.contains("devices[0].host_path") && e.contains(host), "{e}");
        }
    }

    #[test]
    fn privileged_sees_the_hosts_devices_and_a_named_one_once() {
        let mut config = fixture::with_security(|s| s.privileged = true);
        config.devices = with_device("/dev/null", "").devices;
        let found = Probed::read(&config, &config::Runtime::default()).expect("probe").devices;
        let nulls = found.iter().filter(|n| n.path == Path::new("/dev/null")).count();
        assert_eq!(nulls, 1);
        assert!(found.len() > 3 && !found.iter().any(|n| n.path.starts_with("/dev/pts")));
        let handler = config::Runtime { privileged_without_host_devices: true, ..config::Runtime::default() };
        assert_eq!(Probed::read(&config, &handler).expect("probe").devices.len(), 1);
    }

    fn with_profile(path: &Path) -> ContainerConfig {
        fixture::with_security(|s| {
            s.seccomp = Some(SecurityProfile {
                profile_type: ProfileType::Localhost as i32,
                localhost_ref: path.to_str().expect("utf-8").into(),
            });
        })
    }

    #[test]
    fn profiles_of_the_node() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("p.json");
        let read = || Probed::read(&with_profile(&path), &config::Runtime::default());
        for (text, words) in [(None, "No such file"), (Some("{"), "EOF"), (Some(r#"{"syscalls":[]}"#), "defaultAction")]
        {
            if let Some(text) = text {
                std::fs::write(&path, text).expect("write");
            }
            let e = read().expect_err(words).to_string();
            assert!(e.contains("seccomp") && e.contains("p.json") && e.contains(words), "{e}");
        }
        std::fs::write(&path, r#"{"defaultAction":"SCMP_ACT_LOG"}"#).expect("write");
        assert!(read().expect("probe").seccomp.is_some());
    }
}
