//! Where a container's cgroup lies: a path under the pod's, or a systemd scope in the pod's slice.

use std::path::{Component, Path, PathBuf};

use crate::id::{ContainerId, SandboxId};
use crate::{Error, Result};

/// What systemd's scopes of ours begin with: `cri-cleat-ID.scope`.
const SCOPE_PREFIX: &str = "cri-cleat";

/// The pod's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    /// An absolute path in the cgroup file system.
    Cgroupfs(PathBuf),
    /// The name of a slice: `kubepods-burstable-pod123.slice`.
    Systemd(String),
}

impl Parent {
    /// From `cgroup_parent` of the pod or, where that is empty, from the configuration; kubelet writes a path in both
    /// cases (CRI api.proto: "the cgroupfs style syntax will be used"), whose last part is the slice.
    ///
    /// # Errors
    /// `Invalid` for a path that is relative or climbs, and under systemd for one that ends in no slice.
    pub fn new(path: &str, driver: Driver) -> Result<Self> {
        let wrong = |why: &str| Err(Error::invalid("linux.cgroup_parent", format!("{path:?} {why}")));
        if path.contains(['\0', '\n', ':']) {
            return wrong("holds a colon, a newline or a NUL byte");
        }
        if Path::new(path).components().any(|c| c == Component::ParentDir) {
            return wrong("holds ..");
        }
        match driver {
            Driver::Cgroupfs if path.starts_with('/') => Ok(Self::Cgroupfs(Path::new(path).components().collect())),
            Driver::Cgroupfs => wrong("is not absolute"),
            Driver::Systemd => match Path::new(path).file_name().and_then(|n| n.to_str()) {
                Some(slice) if slice.ends_with(".slice") => Ok(Self::Systemd(slice.to_owned())),
                _ => wrong("ends in no .slice, which the systemd cgroup driver needs"),
            },
        }
    }
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The OCI runtime, by mkdir.
    Cgroupfs,
    /// systemd, asked by the OCI runtime.
    Systemd,
}

/// `cgroupsPath` of a container's spec, in the form its runtime expects for the parent's kind.
pub fn path(parent: &Parent, id: &ContainerId) -> PathBuf {
    child(parent, id.as_str())
}

/// `cgroupsPath` of a pause container's spec.
pub fn pause_path(parent: &Parent, id: &SandboxId) -> PathBuf {
    child(parent, id.as_str())
}

fn child(parent: &Parent, id: &str) -> PathBuf {
    match parent {
        Parent::Cgroupfs(parent) => parent.join(id),
        Parent::Systemd(slice) => format!("{slice}:{SCOPE_PREFIX}:{id}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_drivers() {
        let id = ContainerId::try_from("a".repeat(64)).expect("id");
        for (parent, driver, wanted) in [
            ("/kubepods/pod1", Driver::Cgroupfs, "/kubepods/pod1/ID"),
            ("/kubepods//pod1/", Driver::Cgroupfs, "/kubepods/pod1/ID"),
            ("/kubepods.slice/kubepods-pod1.slice", Driver::Systemd, "kubepods-pod1.slice:cri-cleat:ID"),
            ("test.slice", Driver::Systemd, "test.slice:cri-cleat:ID"),
        ] {
            let parent = Parent::new(parent, driver).expect("parent");
            assert_eq!(path(&parent, &id), Path::new(&wanted.replace("ID", id.as_str())));
        }
    }

    #[test]
    fn parents_that_would_leave_the_tree() {
        for (parent, driver) in [
            ("/a/../..", Driver::Cgroupfs),
            ("relative", Driver::Cgroupfs),
            ("", Driver::Cgroupfs),
            ("/kubepods", Driver::Systemd),
            ("/x\n.slice", Driver::Systemd),
            ("/a:b.slice", Driver::Systemd),
        ] {
            let e = Parent::new(parent, driver).expect_err(parent).to_string();
            assert!(e.contains("linux.cgroup_parent"), "{e}");
        }
    }
}
