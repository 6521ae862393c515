//! What a pod's containers share as files: hosts, resolv.conf, hostname, and the tmpfs behind /dev/shm.
//!
//! The files lie under ROOT (they may be asked for after a reboot), the tmpfs under STATE. Blocks.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cleat_proto::cri::v1::{DnsConfig, PodSandboxConfig};
use rustix::mount::MountFlags;

use crate::config::Config;
use crate::id::SandboxId;
use crate::{Error, Result};

/// Docker's and containerd's size of /dev/shm.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=67108864";

/// Where the shared files of one pod are.
#[derive(Debug, Clone)]
pub struct Files {
    /// Holds hosts, resolv.conf and hostname.
    pub dir: PathBuf,
    /// The mount point of the shared tmpfs.
    pub shm: PathBuf,
}

impl Files {
    /// The paths, whether anything is there or not.
    pub fn of(config: &Config, id: &SandboxId) -> Self {
        Self {
            dir: config.root.join("sandboxes").join(id.as_str()),
            shm: config.state.join("sandboxes").join(id.as_str()).join("shm"),
        }
    }

    /// `hosts`.
    pub fn hosts(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    /// `resolv.conf`.
    pub fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }

    /// `hostname`.
    pub fn hostname(&self) -> PathBuf {
        self.dir.join("hostname")
    }

    /// Writes all but `hosts`, which wants the pod's addresses, and mounts the tmpfs.
    ///
    /// # Errors
    /// `Io` with the path.
    pub fn make(&self, config: &PodSandboxConfig) -> Result<()> {
        fs::create_dir_all(&self.dir).map_err(Error::io("mkdir", &self.dir))?;
        // kubelet makes it; a person with crictl does not.
        if !config.log_directory.is_empty() {
            let logs = Path::new(&config.log_directory);
            fs::create_dir_all(logs).map_err(Error::io("mkdir", logs))?;
        }
        let hostname = hostname(config)?;
        write(&self.hostname(), &format!("{hostname}\n"))?;
        write(&self.resolv_conf(), &resolv_conf(config.dns_config.as_ref())?)?;
        fs::create_dir_all(&self.shm).map_err(Error::io("mkdir", &self.shm))?;
        let flags = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("shm", &self.shm, "tmpfs", flags, Some(SHM_OPTIONS)).map_err(Error::io("mount", &self.shm))
    }

    /// Writes `hosts`: the host's own for a pod on the host's network, else the pod's name at its addresses.
    ///
    /// # Errors
    /// `Io`.
    pub fn write_hosts(&self, config: &PodSandboxConfig, ips: &[IpAddr], host_network: bool) -> Result<()> {
        let text = if host_network {
            fs::read_to_string("/etc/hosts").unwrap_or_default()
        } else {
            let hostname = hostname(config)?;
            let own: String = ips.iter().map(|ip| format!("{ip}\t{hostname}\n")).collect();
            format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}")
        };
        write(&self.hosts(), &text)
    }

    /// Unmounts the tmpfs and removes its folder; both may be gone.
    ///
    /// # Errors
    /// `Io` for a mount that will not go.
    pub fn release(&self) -> Result<()> {
        cleat_snapshots::mount::unmount_all(&self.shm)
            .map_err(|e| Error::failed(format!("unmount {}", self.shm.display()), e))?;
        remove_dir(self.shm.parent().unwrap_or(&self.shm))
    }

    /// Removes the files.
    ///
    /// # Errors
    /// `Io`.
    pub fn remove(&self) -> Result<()> {
        remove_dir(&self.dir)
    }
}

/// The pod's host name: the one given, or the machine's own.
fn hostname(config: &PodSandboxConfig) -> Result<String> {
    if !config.hostname.is_empty() {
        return Ok(config.hostname.clone());
    }
    let name = nix::unistd::gethostname().map_err(Error::io("gethostname", "/proc/sys/kernel/hostname"))?;
    Ok(name.to_string_lossy().into_owned())
}

/// The pod's own resolver, or a copy of the machine's.
fn resolv_conf(dns: Option<&DnsConfig>) -> Result<String> {
    let Some(dns) = dns.filter(|d| !(d.servers.is_empty() && d.searches.is_empty() && d.options.is_empty())) else {
        return match fs::read_to_string("/etc/resolv.conf") {
            Ok(text) => Ok(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(e) => Err(Error::io("read", "/etc/resolv.conf")(e)),
        };
    };
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    Ok(text)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io("write", path))
}

/// Removes a folder of ours; one that is gone counts as removed.
pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_of_its_own_is_written_whole() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.10".into(), "fd00::a".into()],
            searches: vec!["a.local".into(), "b.local".into()],
            options: vec!["ndots:5".into()],
        };
        let text = resolv_conf(Some(&dns)).expect("text");
        assert_eq!(text, "search a.local b.local\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5\n");
    }
}
