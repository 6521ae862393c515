//! Control groups, as far as a shim reads them: which ones a process is in, who else is, and what they count.
//!
//! A host is v2 when `/sys/fs/cgroup` itself is a cgroup2 mount; everything else, hybrid hosts included, counts as v1.
//! Making and limiting a container's cgroups is the OCI runtime's business; only the shim's own ([`own`]) is made here.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::fs::statfs;

use crate::error::{At as _, Error, Result};

mod files;
pub mod oom;
pub mod own;
mod stats_v1;
mod stats_v2;

/// Where cgroup filesystems are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` (linux/magic.h).
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// How deep a container may nest cgroups of its own before its processes are no longer listed.
const DEPTH_MAX: usize = 32;

/// The kind of hierarchy a host has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// A hierarchy per controller.
    #[default]
    V1,
    /// One hierarchy.
    V2,
}

impl Mode {
    /// This host's.
    pub fn of_host() -> Self {
        match statfs(ROOT) {
            #[expect(clippy::useless_conversion, reason = "the field's width differs between architectures")]
            Ok(fs) if i64::from(fs.f_type) == CGROUP2_MAGIC => Self::V2,
            _ => Self::V1,
        }
    }
}

/// The cgroups of one process.
#[derive(Debug, Clone, Default)]
pub struct Cgroups {
    mode: Mode,
    /// A directory per v1 controller (`name=` and the unified one left out), or the one of v2 under an empty name.
    dirs: Vec<(String, PathBuf)>,
}

/// Statistics in the form in which they travel.
#[derive(Debug)]
pub struct Stats {
    /// The type of `value`.
    pub type_url: &'static str,
    /// The message.
    pub value: Vec<u8>,
}

impl Cgroups {
    /// The cgroups a process is in; none of a process that is over.
    pub fn of(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&path).at("read", &path)?;
        Ok(Self::parse(&text, Mode::of_host(), Path::new(ROOT)))
    }

    fn parse(text: &str, mode: Mode, root: &Path) -> Self {
        let mut dirs = Vec::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let path = path.trim_start_matches('/');
            match (mode, controllers) {
                (Mode::V2, "") => dirs.push((String::new(), root.join(path))),
                (Mode::V1, "") | (Mode::V2, _) => {}
                (Mode::V1, named) if named.starts_with("name=") => {}
                (Mode::V1, several) => {
                    let all = root.join(several);
                    for one in several.split(',') {
                        let mount = if all.is_dir() { all.clone() } else { root.join(one) };
                        dirs.push((one.to_string(), mount.join(path)));
                    }
                }
            }
        }
        Self { mode, dirs }
    }

    /// The directory in which a controller's files are.
    pub fn dir(&self, controller: &str) -> Option<&Path> {
        let wanted = if self.mode == Mode::V2 { "" } else { controller };
        self.dirs.iter().find(|(name, _)| name == wanted).map(|(_, dir)| dir.as_path())
    }

    /// Every process in here and below.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let dir = ["pids", "memory", "devices"].into_iter().find_map(|controller| self.dir(controller));
        let dir = dir.ok_or_else(|| Error::Unsupported("no cgroup tells the container's processes".into()))?;
        let mut pids = Vec::new();
        collect(dir, &mut pids, DEPTH_MAX)?;
        Ok(pids)
    }

    /// How many processes were killed for memory in here; 0 if nobody counts.
    pub fn oom_kills(&self) -> u64 {
        let Some(dir) = self.dir("memory") else { return 0 };
        files::flat(&dir.join(self.oom_file())).get("oom_kill").copied().unwrap_or_default()
    }

    fn oom_file(&self) -> &'static str {
        if self.mode == Mode::V2 { "memory.events" } else { "memory.oom_control" }
    }

    /// What the cgroups count.
    pub fn stats(&self) -> Result<Stats> {
        match self.mode {
            Mode::V1 => stats_v1::read(self),
            Mode::V2 => stats_v2::read(self),
        }
    }
}

fn collect(dir: &Path, into: &mut Vec<i32>, depth: usize) -> Result<()> {
    let procs = dir.join("cgroup.procs");
    let text = fs::read_to_string(&procs).at("read", &procs)?;
    into.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    if depth == 0 {
        return Ok(());
    }
    for entry in fs::read_dir(dir).at("read", dir)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            // A cgroup that goes while it is read had no processes left.
            let _ = collect(&entry.path(), into, depth - 1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "9:name=systemd:/a\n8:pids:/p/c\n4:memory:/m/c\n3:cpu,cpuacct:/x\n0::/u\n";

    #[test]
    fn v1_knows_a_directory_per_controller() {
        let root = tempfile::tempdir().unwrap();
        for name in ["pids", "memory", "cpu"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let cgroups = Cgroups::parse(HYBRID, Mode::V1, root.path());
        assert_eq!(cgroups.dir("memory").unwrap(), root.path().join("memory/m/c"));
        assert_eq!(cgroups.dir("cpu").unwrap(), root.path().join("cpu/x"));
        assert_eq!(cgroups.dir("systemd"), None);
        fs::create_dir(root.path().join("cpu,cpuacct")).unwrap();
        let cgroups = Cgroups::parse(HYBRID, Mode::V1, root.path());
        assert_eq!(cgroups.dir("cpuacct").unwrap(), root.path().join("cpu,cpuacct/x"));
    }

    #[test]
    fn v2_has_one_directory_for_all() {
        let cgroups = Cgroups::parse("0::/kubepods/pod1/c1\n", Mode::V2, Path::new("/cg"));
        assert_eq!(cgroups.dir("memory").unwrap(), Path::new("/cg/kubepods/pod1/c1"));
        assert_eq!(cgroups.dir("memory"), cgroups.dir("pids"));
    }

    #[test]
    fn processes_are_found_in_nested_cgroups() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("c/sub")).unwrap();
        fs::write(root.path().join("c/cgroup.procs"), "1\n2\n").unwrap();
        fs::write(root.path().join("c/sub/cgroup.procs"), "3\n").unwrap();
        let cgroups = Cgroups::parse("0::/c\n", Mode::V2, root.path());
        assert_eq!(cgroups.processes().unwrap(), [1, 2, 3]);
        assert!(Cgroups::parse("0::/gone\n", Mode::V2, root.path()).processes().is_err());
    }

    #[test]
    fn memory_kills_are_counted_by_the_cgroup_s_own_file() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("memory.events"), "low 0\noom 5\noom_kill 2\n").unwrap();
        assert_eq!(Cgroups::parse("0::/\n", Mode::V2, root.path()).oom_kills(), 2);
        fs::create_dir(root.path().join("memory")).unwrap();
        fs::write(root.path().join("memory/memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
            .unwrap();
        assert_eq!(Cgroups::parse("4:memory:/\n", Mode::V1, root.path()).oom_kills(), 1);
        assert_eq!(Cgroups::parse("4:memory:/none\n", Mode::V1, root.path()).oom_kills(), 0);
    }
}
