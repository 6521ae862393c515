//! The shim's own cgroup: apart from the daemon's, so that neither takes the other along when it is killed or runs out of
//! memory.
//!
//! Moving a process between cgroups waits for an RCU grace period per hierarchy, some ten milliseconds each. A child does
//! it, so that the shim answers its first requests meanwhile. Nothing here is essential: a shim whose cgroup cannot be
//! made serves all the same.

use std::{
    fs,
    path::{Component, Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::Duration,
};

use rustix::process::{Pid, WaitOptions, waitpid};

use super::{Mode, ROOT};
use crate::{
    error::{At as _, Error, Result},
    report::Report,
    sys::{self, Side},
};

/// The v1 hierarchies a shim moves in: the two that limit it, and the one by which systemd finds a service's processes.
const HIERARCHIES: [(&str, &str); 3] = [("memory", "memory"), ("pids", "pids"), ("name=systemd", "systemd")];
/// Where hybrid hosts have the v2 hierarchy.
const UNIFIED: &str = "unified";
/// A cgroup that was just left may count as busy for a moment.
const REMOVE_ATTEMPTS: u32 = 20;
/// The pause between two attempts.
const REMOVE_RETRY: Duration = Duration::from_millis(5);

/// One hierarchy in which the shim has a cgroup.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    origin: PathBuf,
    own: PathBuf,
}

/// The cgroup a shim is to have, in each hierarchy.
#[derive(Debug)]
pub struct Own {
    places: Vec<Place>,
    /// The children that were sent to move somebody.
    helpers: Mutex<Vec<i32>>,
}

impl Own {
    /// The cgroup `path` of the process that calls; none for an empty path. Changes nothing yet.
    pub fn plan(path: &str) -> Result<Option<Self>> {
        if path.is_empty() {
            return Ok(None);
        }
        let file = "/proc/self/cgroup";
        let current = fs::read_to_string(file).at("read", file)?;
        Self::planned(path, &current, Mode::of_host(), Path::new(ROOT)).map(Some)
    }

    fn planned(path: &str, current: &str, mode: Mode, root: &Path) -> Result<Self> {
        let parts = Path::new(path).components();
        let plain = parts.clone().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !plain || parts.count() < 2 || !path.starts_with('/') {
            return Err(Error::Invalid(format!("shim cgroup {path:?} is not an absolute path below the root")));
        }
        let mut places = Vec::new();
        for line in current.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(origin)) = (fields.next(), fields.next()) else { continue };
            let mount = match (mode, controllers) {
                (Mode::V2, "") => root.to_path_buf(),
                (Mode::V1, "") => root.join(UNIFIED),
                (Mode::V2, _) => continue,
                (Mode::V1, _) => match HIERARCHIES.iter().find(|(name, _)| *name == controllers) {
                    Some((_, dir)) => root.join(dir),
                    None => continue,
                },
            };
            if mount.is_dir() {
                let below = |path: &str| mount.join(path.trim_start_matches('/'));
                places.push(Place { origin: below(origin), own: below(path) });
            }
        }
        Ok(Self { places, helpers: Mutex::default() })
    }

    /// Makes the cgroup and moves a process into it. The first failure is told; the other hierarchies are done all the same.
    pub fn join(&self, pid: u32) -> Result<()> {
        let mut first = Ok(());
        for place in &self.places {
            let joined = fs::create_dir_all(&place.own).at("create", &place.own).and_then(|()| enter(&place.own, pid));
            first = first.and(joined);
        }
        first
    }

    /// [`Own::join`], by a child that nobody waits for. What fails is reported: the process goes on where it is.
    pub fn join_behind(&self, pid: u32, report: &Report) -> Result<()> {
        match sys::split()? {
            Side::Parent(helper) => self.helpers().push(helper),
            Side::Child => {
                if let Err(e) = self.join(pid) {
                    report.problem("no cgroup of its own for the shim", &e);
                }
                std::process::exit(0);
            }
        }
        Ok(())
    }

    fn helpers(&self) -> MutexGuard<'_, Vec<i32>> {
        self.helpers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves this process back to where it came from and removes the cgroup. What fails stays for the daemon to remove.
    pub fn leave(&self) {
        for helper in self.helpers().drain(..).filter_map(Pid::from_raw) {
            // One that is at work still would make again what is removed here. Most were collected long ago.
            let _ = waitpid(Some(helper), WaitOptions::empty());
        }
        for place in self.places.iter().filter(|place| place.own.is_dir()) {
            let _ = enter(&place.origin, std::process::id());
        }
        self.remove();
    }

    /// Removes the cgroup where nobody is in it.
    pub fn remove(&self) {
        for place in self.places.iter().filter(|place| place.own.is_dir()) {
            for _ in 0..REMOVE_ATTEMPTS {
                if fs::remove_dir(&place.own).is_ok() {
                    break;
                }
                sleep(REMOVE_RETRY);
            }
        }
    }
}

fn enter(cgroup: &Path, pid: u32) -> Result<()> {
    let procs = cgroup.join("cgroup.procs");
    fs::write(&procs, pid.to_string()).at("write", &procs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(path: &str, mode: Mode, root: &Path) -> Result<Own> {
        let current = "9:name=systemd:/init.scope\n8:pids:/p\n4:memory:/m\n3:cpu:/x\n0::/u\n";
        Own::planned(path, current, mode, root)
    }

    fn place(root: &Path, origin: &str, own: &str) -> Place {
        Place { origin: root.join(origin), own: root.join(own) }
    }

    #[test]
    fn v1_moves_where_it_matters_and_hybrid_too() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for dir in ["memory", "pids", "systemd", "cpu", UNIFIED] {
            fs::create_dir(root.join(dir)).unwrap();
        }
        let expected = vec![
            place(root, "systemd/init.scope", "systemd/cleat-shims/p1"),
            place(root, "pids/p", "pids/cleat-shims/p1"),
            place(root, "memory/m", "memory/cleat-shims/p1"),
            place(root, "unified/u", "unified/cleat-shims/p1"),
        ];
        assert_eq!(plan("/cleat-shims/p1", Mode::V1, root).unwrap().places, expected);
        let v2 = plan("/cleat-shims/p1", Mode::V2, root).unwrap();
        assert_eq!(v2.places, [place(root, "u", "cleat-shims/p1")]);
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["/", "a", "../a", "/a/../../b", "a/b"] {
            assert!(plan(path, Mode::V1, Path::new("/nonexistent")).is_err(), "{path} was accepted");
        }
        assert!(Own::plan("").unwrap().is_none());
    }
}
