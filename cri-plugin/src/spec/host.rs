//! What this host can do, gathered once when the daemon starts.
//!
//! Hosts differ: cgroup v1, hybrid or v2, no AppArmor, capabilities missing from the bounding set. What is missing is
//! found here, so that the rest of `spec` is a function of plain data and a test can describe any host.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{Error, Result};

/// How control groups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// One hierarchy per controller.
    V1,
    /// Controllers in v1 hierarchies, and a v2 tree at `/sys/fs/cgroup/unified`; for limits it is v1.
    Hybrid,
    /// The one v2 tree at `/sys/fs/cgroup`.
    V2,
}

/// SELinux's labels for containers, from the host's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selinux {
    /// The label of a container's process: `user:role:type:level`.
    pub process: String,
    /// The label of its files.
    pub file: String,
}

/// AppArmor is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apparmor {
    /// The profile that means "the runtime's default", once somebody has loaded it.
    pub default_profile: Option<String>,
}

/// Facts about this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// How control groups are mounted.
    pub cgroup: CgroupMode,
    /// Options of the one v2 tree that a mount of it in the same cgroup namespace must repeat, or it strips them from
    /// the whole host.
    pub cgroup_options: Vec<String>,
    /// The controllers that exist.
    pub controllers: BTreeSet<String>,
    /// Swap can be limited.
    pub swap: bool,
    /// The daemon's own bounding set, a bit per capability number.
    pub bounding: u64,
    /// The kernel filters system calls.
    pub seccomp: bool,
    /// AppArmor, where it is on.
    pub apparmor: Option<Apparmor>,
    /// SELinux, where it is on.
    pub selinux: Option<Selinux>,
    /// The kernel has `mount_setattr`: recursively read-only and idmapped mounts (Linux 5.12).
    pub mount_setattr: bool,
    /// The kernel makes user namespaces.
    pub user_namespaces: bool,
    /// The daemon's own `oom_score_adj`: without CAP_SYS_RESOURCE nothing it starts can go below.
    pub oom_score_adj: i32,
    /// Sizes of huge pages as the controller's files spell them: "2MB", "1GB".
    pub hugepage_sizes: Vec<String>,
    /// The machine as Rust names it: "x86_64", "aarch64", ...
    pub arch: String,
    /// The host's name, which containers on the host's network see.
    pub hostname: String,
}

impl Host {
    /// Reads the facts. Blocks for a few file reads in `/proc` and `/sys`.
    ///
    /// # Errors
    /// `Io` or `Corrupt` where `/proc` itself is no help; whatever else is missing is a fact, not an error.
    pub fn detect() -> Result<Self> {
        Self::from_root(Path::new("/"))
    }

    /// `detect` on a tree that need not be this machine's.
    fn from_root(root: &Path) -> Result<Self> {
        let at = |path: &str| root.join(path);
        let status = must_read(&at("proc/self/status"))?;
        let mountinfo = must_read(&at("proc/self/mountinfo"))?;
        let mode = cgroup_mode(&mountinfo);
        let cgroup_fs = at("sys/fs/cgroup");
        Ok(Self {
            cgroup: mode,
            cgroup_options: cgroup_options(&mountinfo),
            controllers: match mode {
                CgroupMode::V2 => words(&read(&cgroup_fs.join("cgroup.controllers"))),
                CgroupMode::V1 | CgroupMode::Hybrid => enabled(&read(&at("proc/cgroups"))),
            },
            swap: match mode {
                CgroupMode::V2 => at("proc/swaps").exists(),
                CgroupMode::V1 | CgroupMode::Hybrid => cgroup_fs.join("memory/memory.memsw.limit_in_bytes").exists(),
            },
            bounding: bounding(&status).ok_or_else(|| Error::corrupt("/proc/self/status", "it has no CapBnd line"))?,
            seccomp: status.lines().any(|l| l.starts_with("Seccomp:")),
            apparmor: (read(&at("sys/module/apparmor/parameters/enabled")).trim() == "Y")
                .then_some(Apparmor { default_profile: None }),
            selinux: selinux(root),
            mount_setattr: at_least(&read(&at("proc/sys/kernel/osrelease")), (5, 12)),
            user_namespaces: at("proc/self/ns/user").symlink_metadata().is_ok(),
            oom_score_adj: read(&at("proc/self/oom_score_adj")).trim().parse().unwrap_or(0),
            hugepage_sizes: hugepage_sizes(&at("sys/kernel/mm/hugepages")),
            arch: std::env::consts::ARCH.into(),
            hostname: read(&at("proc/sys/kernel/hostname")).trim().to_owned(),
        })
    }

    /// Whether limits are those of cgroup v2.
    pub fn is_v2(&self) -> bool {
        self.cgroup == CgroupMode::V2
    }
}

fn must_read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::io("read", path))
}

/// A file that need not be there.
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(String::from).collect()
}

/// `/proc/cgroups`: name, hierarchy, count, enabled. Hierarchy 0 is the v2 tree, which on a v1 host limits nothing:
/// runc gives up on a limit whose controller is not mounted.
fn enabled(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter(|l| !l.starts_with('#')).map(|l| l.split_whitespace().collect::<Vec<_>>());
    rows.filter(|r| r.get(3) == Some(&"1") && r[1] != "0").map(|r| r[0].to_owned()).collect()
}

/// From mountinfo: field 5 is the mount point, the first after " - " the type (proc_pid_mountinfo(5)).
fn cgroup_mode(mountinfo: &str) -> CgroupMode {
    let is_v2 = |line: &str| line.split_once(" - ").is_some_and(|(_, tail)| tail.starts_with("cgroup2 "));
    let v2_at = |place: &str| mount_at(place, mountinfo).is_some_and(is_v2);
    if v2_at("/sys/fs/cgroup") {
        CgroupMode::V2
    } else if v2_at("/sys/fs/cgroup/unified") {
        CgroupMode::Hybrid
    } else {
        CgroupMode::V1
    }
}

/// The last mount at a place is the one that is seen.
fn mount_at<'a>(place: &str, mountinfo: &'a str) -> Option<&'a str> {
    mountinfo.lines().rfind(|l| l.split(' ').nth(4) == Some(place))
}

fn cgroup_options(mountinfo: &str) -> Vec<String> {
    let tail = mount_at("/sys/fs/cgroup", mountinfo).and_then(|l| l.split_once(" - cgroup2 "));
    let options = tail.and_then(|(_, tail)| tail.split(' ').nth(1)).unwrap_or_default().split(',');
    options.filter(|o| matches!(*o, "nsdelegate" | "memory_recursiveprot")).map(String::from).collect()
}

fn bounding(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The policy's labels for containers: `/etc/selinux/TYPE/contexts/lxc_contexts` (selinux_lxc_contexts_path(3)).
fn selinux(root: &Path) -> Option<Selinux> {
    root.join("sys/fs/selinux/enforce").exists().then_some(())?;
    let config = read(&root.join("etc/selinux/config"));
    let policy = config.lines().find_map(|l| l.trim().strip_prefix("SELINUXTYPE=")).unwrap_or("targeted").trim();
    let contexts = read(&root.join("etc/selinux").join(policy).join("contexts/lxc_contexts"));
    let value = |key: &str| {
        let mut pairs = contexts.lines().filter_map(|l| l.split_once('='));
        let value = pairs.find(|(k, _)| k.trim() == key)?.1;
        Some(value.trim().trim_matches('"').to_owned())
    };
    Some(Selinux {
        process: value("process").unwrap_or_else(|| "system_u:system_r:container_t:s0".into()),
        file: value("file").unwrap_or_else(|| "system_u:object_r:container_file_t:s0".into()),
    })
}

fn at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

/// `hugepages-2048kB` is "2MB" in `hugetlb.2MB.limit_in_bytes`.
fn hugepage_sizes(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut kib: Vec<u64> =
        names.filter_map(|n| n.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()).collect();
    kib.sort_unstable();
    kib.into_iter().map(size_name).collect()
}

fn size_name(kib: u64) -> String {
    match kib {
        k if k >= 1 << 20 => format!("{}GB", k >> 20),
        k if k >= 1 << 10 => format!("{}MB", k >> 10),
        k => format!("{k}KB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        let base = [("proc/self/status", "CapBnd:\t000001fffeffffff\nSeccomp:\t0\n"), ("proc/self/mountinfo", "")];
        for (path, text) in base.iter().chain(files) {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            std::fs::write(path, text).expect("write");
        }
        dir
    }

    #[test]
    fn this_machine_is_detected() {
        let host = Host::detect().expect("detect");
        assert_ne!(host.bounding, 0);
        assert!(!host.controllers.is_empty(), "{host:?}");
        assert!(!host.hostname.is_empty());
    }

    #[test]
    fn modes_of_cgroups() {
        let v1 = "30 25 0:26 / /sys/fs/cgroup rw shared:4 - tmpfs tmpfs rw\n31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let hybrid = format!("{v1}40 30 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let v2 = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        for (text, wanted) in [(v1, CgroupMode::V1), (&hybrid, CgroupMode::Hybrid), (v2, CgroupMode::V2)] {
            assert_eq!(cgroup_mode(text), wanted, "{text}");
            assert!(cgroup_options(text).is_empty());
        }
        let delegated = v2.replace("cgroup2 rw", "cgroup2 rw,nsdelegate,memory_recursiveprot,x");
        assert_eq!(cgroup_options(&delegated), ["nsdelegate", "memory_recursiveprot"]);
    }

    #[test]
    fn a_bare_v1_host() {
        let dir = tree(&[
            ("proc/sys/kernel/osrelease", "5.10.0-8-amd64\n"),
            ("proc/sys/kernel/hostname", "node-1\n"),
            ("proc/cgroups", "#subsys_name\thierarchy\tnum\tenabled\ncpu\t2\t3\t1\nhugetlb\t0\t1\t1\npids\t4\t1\t0\n"),
            ("proc/self/oom_score_adj", "-500\n"),
            ("sys/kernel/mm/hugepages/hugepages-1048576kB/nr", ""),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/nr", ""),
        ]);
        let host = Host::from_root(dir.path()).expect("host");
        assert_eq!(host.controllers, words("cpu"));
        assert_eq!((host.cgroup, host.swap, host.oom_score_adj), (CgroupMode::V1, false, -500));
        assert_eq!(
            (host.hugepage_sizes, host.hostname),
            (vec!["2MB".to_owned(), "1GB".to_owned()], "node-1".to_owned())
        );
        assert!(!host.mount_setattr && host.seccomp && host.apparmor.is_none() && host.selinux.is_none());
    }

    #[test]
    fn security_modules() {
        let dir = tree(&[
            ("proc/sys/kernel/osrelease", "6.1.0"),
            ("sys/module/apparmor/parameters/enabled", "Y\n"),
            ("sys/fs/selinux/enforce", "1"),
            ("etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=mls\n"),
            ("etc/selinux/mls/contexts/lxc_contexts", "process = \"u:r:p_t:s0\"\nfile = \"u:o:f_t:s0\"\n"),
        ]);
        let host = Host::from_root(dir.path()).expect("host");
        assert!(host.apparmor.is_some() && host.mount_setattr);
        assert_eq!(host.selinux, Some(Selinux { process: "u:r:p_t:s0".into(), file: "u:o:f_t:s0".into() }));
    }

    #[test]
    fn a_tree_without_proc_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        let e = Host::from_root(dir.path()).expect_err("no /proc").to_string();
        assert!(e.contains("proc/self/status"), "{e}");
    }
}
