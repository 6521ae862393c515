//! `/etc/cleat/config.toml`: one struct, unknown keys refused, and the only place where a default is written.
//!
//! `conf.d/*.toml` beside the file is merged over it in the order of the names, table by table.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The daemon's whole configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What must survive a reboot: images, snapshots, the store. 0700.
    pub root: PathBuf,
    /// What a reboot ends: sockets, bundles, network namespaces. 0711.
    pub state: PathBuf,
    /// The socket that answers CRI; 0660.
    pub socket: PathBuf,
    /// The handler that an empty `runtime_handler` means.
    pub default_runtime: String,
    /// `[runtimes.NAME]`: what a RuntimeClass handler of that name starts.
    pub runtimes: BTreeMap<String, Runtime>,
    /// `[images]`.
    pub images: Images,
    /// `[cni]`.
    pub cni: Cni,
    /// `[cgroup]`.
    pub cgroup: Cgroup,
    /// `[containers]`.
    pub containers: Containers,
    /// `[streaming]`.
    pub streaming: Streaming,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
}

/// One handler.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// The runtime type as containerd names it; its last two parts name the shim binary. A path is a shim binary.
    #[serde(rename = "type")]
    pub kind: String,
    /// The OCI runtime the shim executes: a name in PATH or a path. Its base name picks the shim's flavour.
    pub binary: String,
    /// Where that OCI runtime keeps its state; empty: `STATE/NAME`.
    pub root: PathBuf,
    /// Whether cgroups are made by systemd.
    pub systemd_cgroup: bool,
    /// Pod annotations (globs) that are passed to the OCI spec.
    pub pod_annotations: Vec<String>,
    /// A privileged container sees no host devices.
    pub privileged_without_host_devices: bool,
}

/// Images and where their layers lie.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    /// `overlay` or `native`.
    pub snapshotter: String,
    /// Folders of `HOST/hosts.toml`, the first that has the host wins.
    pub hosts_dirs: Vec<PathBuf>,
    /// Layers fetched and unpacked at once, over all pulls.
    pub max_parallel_layers: usize,
    /// A transfer that moves no byte for so long is given up for the next mirror.
    pub no_progress_timeout_secs: u64,
    /// A single layer may not expand to more than this.
    pub max_layer_bytes: u64,
    /// Images that kubelet's garbage collection leaves alone: references, or the beginning of one and a `*`.
    pub pinned: Vec<String>,
}

/// Pod networks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cni {
    /// Where `*.conflist`, `*.conf` and `*.json` lie; the first by name is the pods' network.
    pub conf_dir: PathBuf,
    /// Where plugins are looked for, in order.
    pub bin_dirs: Vec<PathBuf>,
    /// Results that `libcni` would cache, ours; empty: `STATE/cni`.
    pub cache_dir: PathBuf,
    /// One plugin may take so long before its process group is killed.
    pub timeout_secs: u64,
}

/// Control groups.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cgroup {
    /// Shims live in a child of this cgroup each, apart from the daemon and from the pods.
    pub shims: String,
    /// The parent of a pod that names none.
    pub pods: String,
}

/// What every container gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Containers {
    /// A log line longer than this is cut into parts tagged P.
    pub max_log_line_bytes: u32,
    /// Clamp a container's oom_score_adj to the daemon's own where the machine forbids to go below it.
    pub restrict_oom_score_adj: bool,
}

/// Exec, attach and port-forward.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streaming {
    /// Where they are served; a loopback address, since nothing there is encrypted.
    pub address: IpAddr,
    /// 0 is any that is free.
    pub port: u16,
    /// A session in which nothing moves is ended after so long.
    pub idle_timeout_secs: u64,
    /// A client may take so long to open its streams.
    pub stream_creation_timeout_secs: u64,
}

/// How long a peer may take.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// A shim's `start`, create and start of a task.
    pub shim_secs: u64,
    /// Connecting to one shim after a restart of the daemon.
    pub reconnect_secs: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/cleat".into(),
            state: "/run/cleat".into(),
            socket: "/run/cleat/cleat.sock".into(),
            default_runtime: "runc".into(),
            runtimes: BTreeMap::from([
                ("runc".into(), Runtime::default()),
                ("crun".into(), Runtime { binary: "crun".into(), ..Runtime::default() }),
            ]),
            images: Images::default(),
            cni: Cni::default(),
            cgroup: Cgroup::default(),
            containers: Containers::default(),
            streaming: Streaming::default(),
            timeouts: Timeouts::default(),
        }
    }
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            kind: "io.containerd.cleat.v2".into(),
            binary: "runc".into(),
            root: PathBuf::new(),
            systemd_cgroup: false,
            pod_annotations: Vec::new(),
            privileged_without_host_devices: false,
        }
    }
}

impl Default for Images {
    fn default() -> Self {
        Self {
            snapshotter: "overlay".into(),
            hosts_dirs: vec!["/etc/cleat/certs.d".into(), "/etc/containerd/certs.d".into()],
            max_parallel_layers: 4,
            no_progress_timeout_secs: 30,
            max_layer_bytes: 64 << 30,
            pinned: Vec::new(),
        }
    }
}

impl Default for Cni {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cache_dir: PathBuf::new(),
            timeout_secs: 60,
        }
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self { shims: "/cleat-shims".into(), pods: "/cleat-pods".into() }
    }
}

impl Default for Containers {
    fn default() -> Self {
        Self { max_log_line_bytes: 16 << 10, restrict_oom_score_adj: false }
    }
}

impl Default for Streaming {
    fn default() -> Self {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self { address, port: 0, idle_timeout_secs: 4 * 60 * 60, stream_creation_timeout_secs: 30 }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { shim_secs: 30, reconnect_secs: 10 }
    }
}

impl Config {
    /// Reads `path` and `conf.d/*.toml` beside it; no file at all is the default configuration. Blocks.
    ///
    /// # Errors
    /// `Io` for a file that cannot be read; `Invalid`, with the file and the line, for anything that is no
    /// configuration, an unknown key above all.
    pub fn load(path: &Path) -> Result<Self> {
        let mut merged = toml::Table::new();
        for file in std::iter::once(path.to_path_buf()).chain(drop_ins(path)?) {
            match std::fs::read_to_string(&file) {
                Ok(text) => merge(&mut merged, parse(&file, &text)?),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("read", file)(e)),
            }
        }
        let config: Self = merged.try_into().map_err(|e| Error::invalid(path.display().to_string(), e.to_string()))?;
        config.check(path)
    }

    /// The name of the `[runtimes.NAME]` that a `runtime_handler` means.
    ///
    /// # Errors
    /// `NotFound`, with the names that are known.
    pub fn handler<'a>(&'a self, requested: &'a str) -> Result<&'a str> {
        let name = if requested.is_empty() { self.default_runtime.as_str() } else { requested };
        if self.runtimes.contains_key(name) {
            return Ok(name);
        }
        let known: Vec<_> = self.runtimes.keys().map(String::as_str).collect();
        Err(Error::not_found("runtime handler", format!("{name} (known: {})", known.join(", "))))
    }

    fn check(mut self, path: &Path) -> Result<Self> {
        let invalid = |why: String| Err(Error::invalid(path.display().to_string(), why));
        if !self.runtimes.contains_key(&self.default_runtime) {
            return invalid(format!("default_runtime {:?} is no [runtimes.NAME]", self.default_runtime));
        }
        if !matches!(self.images.snapshotter.as_str(), "overlay" | "native") {
            return invalid(format!("images.snapshotter {:?} is neither overlay nor native", self.images.snapshotter));
        }
        if !self.streaming.address.is_loopback() {
            return invalid(format!("streaming.address {} is no loopback address", self.streaming.address));
        }
        for (name, runtime) in &mut self.runtimes {
            if runtime.root.as_os_str().is_empty() {
                runtime.root = self.state.join("runtimes").join(name);
            }
        }
        if self.cni.cache_dir.as_os_str().is_empty() {
            self.cni.cache_dir = self.state.join("cni");
        }
        Ok(self)
    }
}

impl Streaming {
    /// As a duration.
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_secs)
    }

    /// As a duration.
    pub fn stream_creation(&self) -> Duration {
        Duration::from_secs(self.stream_creation_timeout_secs)
    }
}

impl Timeouts {
    /// As a duration.
    pub fn shim(&self) -> Duration {
        Duration::from_secs(self.shim_secs)
    }

    /// As a duration.
    pub fn reconnect(&self) -> Duration {
        Duration::from_secs(self.reconnect_secs)
    }
}

/// The files of `conf.d` beside the configuration, sorted by name.
fn drop_ins(path: &Path) -> Result<Vec<PathBuf>> {
    let Some(dir) = path.parent().map(|p| p.join("conf.d")) else { return Ok(Vec::new()) };
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", dir)(e)),
    };
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    Ok(files)
}

/// Each file is checked by itself first, so that an error names the file that holds it.
fn parse(file: &Path, text: &str) -> Result<toml::Table> {
    let wrong = |e: toml::de::Error| Error::invalid(file.display().to_string(), e.to_string());
    toml::from_str::<Config>(text).map_err(wrong)?;
    toml::from_str(text).map_err(wrong)
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused_with_the_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "rot = \"/x\"\n").expect("write");
        let e = Config::load(&path).expect_err("unknown key").to_string();
        assert!(e.contains("rot") && e.contains("config.toml"), "{e}");
    }

    #[test]
    fn drop_ins_win_table_by_table() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("conf.d")).expect("mkdir");
        std::fs::write(dir.path().join("config.toml"), "[cni]\ntimeout_secs = 5\nconf_dir = \"/a\"\n").expect("write");
        std::fs::write(dir.path().join("conf.d/10.toml"), "[cni]\ntimeout_secs = 7\n").expect("write");
        let config = Config::load(&dir.path().join("config.toml")).expect("load");
        assert_eq!(config.cni.timeout_secs, 7);
        assert_eq!(config.cni.conf_dir, PathBuf::from("/a"));
    }

    #[test]
    fn streams_are_served_on_loopback_only() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "[streaming]\naddress = \"0.0.0.0\"\n").expect("write");
        assert!(Config::load(&path).expect_err("every address").to_string().contains("loopback"));
    }

    #[test]
    fn no_file_is_the_default() {
        let config = Config::load(Path::new("/nonexistent/config.toml")).expect("load");
        assert_eq!(config.default_runtime, "runc");
    }
}
