//! Where plugins are, and what every call of one has in common.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Error, Result};

/// Plugins find `iptables`, `nft` and the like by it, where the daemon has no PATH of its own.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The folders of plugins and the time one may take.
#[derive(Debug)]
pub(super) struct Plugins {
    dirs: Vec<PathBuf>,
    /// CNI_PATH: a plugin finds its IPAM plugin by it.
    pub(super) cni_path: OsString,
    /// PATH.
    pub(super) path: OsString,
    pub(super) deadline: Duration,
}

impl Plugins {
    pub(super) fn new(dirs: &[PathBuf], deadline: Duration) -> Self {
        let joined: Vec<_> = dirs.iter().map(|dir| dir.as_os_str()).collect();
        Self {
            dirs: dirs.to_vec(),
            cni_path: joined.join(":".as_ref()),
            path: std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()),
            deadline,
        }
    }

    pub(super) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// The binary of a plugin. `Failed`, not `NotFound`: to kubelet a DEL that ends in NOT_FOUND would have worked.
    pub(super) fn find(&self, kind: &str) -> Result<PathBuf> {
        let found = self.dirs.iter().map(|dir| dir.join(kind)).find(|path| is_executable(path));
        found.ok_or_else(|| {
            let dirs: Vec<_> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
            Error::failed(format!("CNI plugin {kind:?}"), format!("not installed in {}", dirs.join(", ")))
        })
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}
