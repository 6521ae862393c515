//! A container's bundle: the directory the daemon prepares and the shim leaves its notes in.
//!
//! The file names are part of the shim protocol: `address`, `options.json`, `runtime`, `init.pid`, `log.json`, `EXEC.pid`.
//! Of `config.json` only the few fields the shim acts on are read; the rest is the OCI runtime's business. Ids are checked
//! here, before any of them becomes part of a path.

use std::{
    collections::HashMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    error::{At as _, Error, Result},
    options::Options,
};

/// Ids longer than this are refused, as containerd does.
const ID_MAX_BYTES: usize = 76;

/// Refuses anything that could leave its directory or confuse a runtime: letters, digits, `.`, `_` and `-`, starting with
/// a letter or digit.
pub fn check_id(what: &str, id: &str) -> Result<()> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if id.is_empty() || id.len() > ID_MAX_BYTES {
        return Err(Error::Invalid(format!("{what} {id:?} must have 1 to {ID_MAX_BYTES} characters")));
    }
    if !id.bytes().all(legal) || !id.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(Error::Invalid(format!("{what} {id:?} may hold only letters, digits, '.', '_' and '-'")));
    }
    Ok(())
}

/// What the shim reads of a `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The annotations, by which containers are grouped into one shim.
    pub annotations: HashMap<String, String>,
    /// The Linux part.
    pub linux: Linux,
}

/// The Linux part of a `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Linux {
    /// The namespaces the container gets.
    pub namespaces: Vec<Namespace>,
}

/// One namespace of a `config.json`: a new one, or with a path one to join.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// `pid`, `network`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The namespace to join.
    pub path: String,
}

impl Config {
    /// Whether the kernel ends every process of the container together with its init.
    pub fn owns_pid_namespace(&self) -> bool {
        self.linux.namespaces.iter().any(|n| n.kind == "pid" && n.path.is_empty())
    }

    /// The pod this container belongs to, if its annotations name one (the first hit counts).
    pub fn group(&self) -> Option<&str> {
        ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"]
            .iter()
            .find_map(|key| self.annotations.get(*key))
            .map(String::as_str)
            .filter(|group| !group.is_empty())
    }
}

/// A bundle directory.
#[derive(Debug, Clone)]
pub struct Bundle(PathBuf);

impl Bundle {
    /// A bundle at an absolute path.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if !path.is_absolute() {
            return Err(Error::Invalid(format!("bundle {} is not an absolute path", path.display())));
        }
        Ok(Self(path))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file or directory in the bundle.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Where the root filesystem is mounted.
    pub fn rootfs(&self) -> PathBuf {
        self.join("rootfs")
    }

    /// The pid file of the init, or of an exec.
    pub fn pid_file(&self, exec: Option<&str>) -> PathBuf {
        self.join(&format!("{}.pid", exec.unwrap_or("init")))
    }

    /// Where an exec's process is described for the runtime.
    pub fn exec_file(&self, exec: &str) -> PathBuf {
        self.join(&format!("exec-{exec}.json"))
    }

    /// Reads `config.json`; a bundle without one counts as an empty configuration.
    pub fn config(&self) -> Result<Config> {
        let path = self.join("config.json");
        let text = match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Config::default()),
            read => read.at("read", &path)?,
        };
        serde_json::from_slice(&text)
            .map_err(|e| Error::Corrupt { what: path.display().to_string(), problem: e.to_string() })
    }

    /// Writes the address under which the shim serves, for daemons that reload from this file (containerd 1.6, 1.7).
    pub fn save_address(&self, address: &str) -> Result<()> {
        self.save("address", address.as_bytes())
    }

    /// Keeps the options and the runtime's binary for `delete`.
    pub fn save_options(&self, options: &Options, binary: &str) -> Result<()> {
        self.save_shim_options(options)?;
        self.save("runtime", binary.as_bytes())
    }

    /// Keeps the options of a shim in whose bundle there is no container yet, and may never be.
    pub fn save_shim_options(&self, options: &Options) -> Result<()> {
        let json = serde_json::to_vec(options)
            .map_err(|e| Error::Corrupt { what: "options".into(), problem: e.to_string() })?;
        self.save("options.json", &json)
    }

    /// The options [`Bundle::save_options`] kept; the defaults if there are none, or none that can be read.
    pub fn saved_options(&self) -> Options {
        let json = fs::read(self.join("options.json")).unwrap_or_default();
        let mut options: Options = serde_json::from_slice(&json).unwrap_or_default();
        if options.binary_name.is_empty() {
            options.binary_name = fs::read_to_string(self.join("runtime")).unwrap_or_default();
        }
        options
    }

    /// Reads a pid file a runtime wrote.
    pub fn read_pid(&self, exec: Option<&str>) -> Result<i32> {
        let path = self.pid_file(exec);
        let text = fs::read_to_string(&path).at("read", &path)?;
        match text.trim().parse() {
            Ok(pid) if pid > 0 => Ok(pid),
            _ => Err(Error::Corrupt { what: path.display().to_string(), problem: format!("{text:?} is no pid") }),
        }
    }

    /// Writes a file so that a reader never sees half of it.
    pub fn save(&self, name: &str, content: &[u8]) -> Result<()> {
        let (path, new) = (self.join(name), self.join(&format!(".{name}.new")));
        fs::write(&new, content).at("write", &new)?;
        fs::rename(&new, &path).at("rename", &path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_paths_are_refused() {
        for good in ["a", "0a1b", "pod_1.x-y", &"a".repeat(76)] {
            check_id("id", good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "../a", "-a", "a\n", "a b", "é", &"a".repeat(77)] {
            assert!(check_id("id", bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn the_group_is_the_first_annotation_that_hits() {
        let config = |json: &str| serde_json::from_str::<Config>(json).unwrap();
        assert_eq!(config("{}").group(), None);
        let cri = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"p"}}"#;
        assert_eq!(config(cri).group(), Some("p"));
        let both = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"p","io.containerd.runc.v2.group":"g"}}"#;
        assert_eq!(config(both).group(), Some("g"));
    }

    #[test]
    fn a_joined_pid_namespace_is_not_owned() {
        let config = |json: &str| serde_json::from_str::<Config>(json).unwrap().owns_pid_namespace();
        assert!(config(r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#));
        assert!(!config(r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#));
        assert!(!config(r#"{"linux":{"namespaces":[{"type":"mount"}]}}"#));
    }

    #[test]
    fn options_survive_in_the_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(dir.path()).unwrap();
        assert_eq!(bundle.saved_options(), Options::default());
        let options = Options { root: "/r".into(), ..Options::default() };
        bundle.save_options(&options, "/usr/sbin/runc").unwrap();
        assert_eq!(bundle.saved_options().root, "/r");
        assert_eq!(bundle.saved_options().binary_name, "/usr/sbin/runc");
    }

    #[test]
    fn a_pid_file_holds_a_pid() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(dir.path()).unwrap();
        assert!(bundle.read_pid(None).is_err());
        for (text, pid) in [("17", Some(17)), ("17\n", Some(17)), ("", None), ("0", None), ("-1", None)] {
            fs::write(bundle.pid_file(Some("e")), text).unwrap();
            assert_eq!(bundle.read_pid(Some("e")).ok(), pid, "{text:?}");
        }
    }
}
