//! The options a container is created with, in the three forms in which daemons send them.
//!
//! containerd's own `containerd.runc.v1.Options`, nothing at all, and for a runtime type a stock containerd does not know
//! by name - ours, in its CRI configuration - `runtimeoptions.v1.Options`, which carries the TOML of the handler's
//! `options` table. That table is flat, so its few lines are read here and no TOML parser is linked. What the shim was
//! created with it keeps in the bundle as JSON.

use std::fs;

use prost::Message as _;
use protobuf::{Message as _, well_known_types::any::Any};
use serde::{Deserialize, Serialize};

use crate::error::{At as _, Error, Result};

/// containerd, `api/types/runtimeoptions/v1/api.proto`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Generic {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    config_path: String,
    #[prost(bytes = "vec", tag = "3")]
    config_body: Vec<u8>,
}

/// The type under which [`Generic`] travels.
const GENERIC: &str = "runtimeoptions.v1.Options";

/// The options a container was created with, kept so that `delete` finds its runtime without the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Do not pivot_root into the root filesystem.
    pub no_pivot_root: bool,
    /// Do not create a session keyring.
    pub no_new_keyring: bool,
    /// The shim's own cgroup.
    pub shim_cgroup: String,
    /// Owner of the pipes a container writes to.
    pub io_uid: u32,
    /// Group of the pipes a container writes to.
    pub io_gid: u32,
    /// The OCI runtime's binary.
    pub binary_name: String,
    /// The OCI runtime's state directory; the namespace is appended.
    pub root: String,
    /// Let systemd make the cgroups.
    pub systemd_cgroup: bool,
}

impl Options {
    /// The type of runc's options (containerd, `api/types/runc/options/oci.proto`).
    pub const TYPE_NAME: &str = "containerd.runc.v1.Options";

    /// Whether an Any of this type is ours to read.
    pub fn are_in(any: &Any) -> bool {
        matches!(type_name(any), Self::TYPE_NAME | GENERIC)
    }

    /// Reads the options out of an Any; none for an empty one, an error for a foreign type.
    pub fn from_any(any: &Any) -> Result<Option<Self>> {
        match type_name(any) {
            "" if any.value.is_empty() => Ok(None),
            Self::TYPE_NAME => Self::from_runc(&any.value).map(Some),
            GENERIC => Self::from_generic(&any.value),
            name => Err(Error::Invalid(format!("runtime options of type {name:?} are not known here"))),
        }
    }

    fn from_runc(bytes: &[u8]) -> Result<Self> {
        let wire = containerd_shim_protos::shim::oci::Options::parse_from_bytes(bytes)
            .map_err(|e| Error::Invalid(format!("runtime options: {e}")))?;
        Ok(Self {
            no_pivot_root: wire.no_pivot_root,
            no_new_keyring: wire.no_new_keyring,
            shim_cgroup: wire.shim_cgroup,
            io_uid: wire.io_uid,
            io_gid: wire.io_gid,
            binary_name: wire.binary_name,
            root: wire.root,
            systemd_cgroup: wire.systemd_cgroup,
        })
    }

    fn from_generic(bytes: &[u8]) -> Result<Option<Self>> {
        let wire = Generic::decode(bytes).map_err(|e| Error::Invalid(format!("runtime options: {e}")))?;
        let table = if wire.config_path.is_empty() {
            String::from_utf8(wire.config_body).map_err(|e| Error::Invalid(format!("runtime options: {e}")))?
        } else {
            fs::read_to_string(&wire.config_path).at("read", &wire.config_path)?
        };
        if table.trim().is_empty() { Ok(None) } else { Self::from_table(&table).map(Some) }
    }

    /// Reads the lines `Key = value` of an options table, by the names runc's options have there.
    fn from_table(table: &str) -> Result<Self> {
        let mut options = Self::default();
        let lines = table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let wrong = || Error::Invalid(format!("runtime options: {line:?} is not understood"));
            let (key, value) = line.split_once('=').ok_or_else(wrong)?;
            options.set(key.trim(), value.trim()).ok_or_else(wrong)?;
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "NoPivotRoot" => self.no_pivot_root = value.parse().ok()?,
            "NoNewKeyring" => self.no_new_keyring = value.parse().ok()?,
            "ShimCgroup" => self.shim_cgroup = quoted(value)?,
            "IoUid" => self.io_uid = value.parse().ok()?,
            "IoGid" => self.io_gid = value.parse().ok()?,
            "BinaryName" => self.binary_name = quoted(value)?,
            "Root" => self.root = quoted(value)?,
            "SystemdCgroup" => self.systemd_cgroup = value.parse().ok()?,
            // Of use only for checkpoints, which this shim does not make.
            "CriuPath" | "CriuImagePath" | "CriuWorkPath" => {}
            _ => return None,
        }
        Some(())
    }
}

fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// A string of one line without escapes, in either of TOML's quotes.
fn quoted(value: &str) -> Option<String> {
    let inner = |quote| value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote));
    let text = inner('"').or_else(|| inner('\''))?;
    (!text.contains(['"', '\'', '\\'])).then(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_by_their_type() {
        let mut wire = containerd_shim_protos::shim::oci::Options::new();
        wire.binary_name = "crun".into();
        wire.systemd_cgroup = true;
        let mut any = Any::new();
        any.value = wire.write_to_bytes().unwrap();
        for url in ["containerd.runc.v1.Options", "type.googleapis.com/containerd.runc.v1.Options"] {
            any.type_url = url.into();
            let options = Options::from_any(&any).unwrap().unwrap();
            assert_eq!((options.binary_name.as_str(), options.systemd_cgroup), ("crun", true));
        }
        any.type_url = "foreign.v1.Options".into();
        assert!(Options::from_any(&any).is_err());
        assert_eq!(Options::from_any(&Any::new()).unwrap(), None);
    }

    fn generic(path: &str, body: &str) -> Result<Option<Options>> {
        let wire = Generic { config_path: path.into(), config_body: body.into(), ..Generic::default() };
        let mut any = Any::new();
        any.type_url = GENERIC.into();
        any.value = wire.encode_to_vec();
        Options::from_any(&any)
    }

    #[test]
    fn a_stock_containerd_s_table_is_understood() {
        let options = generic("", "BinaryName = \"crun\"\nSystemdCgroup = true\nIoUid = 7\n\n# x\nRoot = '/r'\n");
        let options = options.unwrap().unwrap();
        assert_eq!((options.binary_name.as_str(), options.root.as_str()), ("crun", "/r"));
        assert_eq!((options.systemd_cgroup, options.io_uid), (true, 7));
        assert_eq!(generic("", "").unwrap(), None);
        assert!(generic("/nonexistent/file", "").is_err());
        for bad in ["Nosuch = 1", "BinaryName = crun", "SystemdCgroup = 1", "[table]", "BinaryName", "Root = \"a\\nb\""]
        {
            assert!(generic("", bad).is_err_and(|e| e.to_string().contains("is not understood")), "{bad}");
        }
    }
}
