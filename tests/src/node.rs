//! A throw-away node under test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::residue;
use crate::script::hack;
use crate::{Cri, Registry};

/// A daemon with every path under a directory of its own, its registries mirrored to the shared [`Registry`].
///
/// Dropping it takes it down and panics where anything is left of it.
pub struct Node {
    dir: PathBuf,
    registry: Arc<Registry>,
}

impl Node {
    /// Starts one; `config` is TOML merged over what `hack/up` writes. Blocks until it serves.
    ///
    /// # Errors
    /// When the daemon does not come up; with the end of its log.
    pub fn start(config: &str) -> Result<Self> {
        let base = std::env::var_os("CLEAT_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = tempfile::Builder::new().prefix("n").tempdir_in(base)?.keep();
        let node = Self { dir, registry: Registry::shared()? };
        if !config.is_empty() {
            std::fs::create_dir(node.path("conf.d"))?;
            std::fs::write(node.path("conf.d/test.toml"), config)?;
        }
        hack("up", &[&node.dir.to_string_lossy(), node.registry.url()])?;
        Ok(node)
    }

    /// The directory all of it lies under.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path under [`Self::dir`].
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.join(relative)
    }

    /// The registry its images come from.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A fresh connection to the daemon.
    ///
    /// # Errors
    /// When nothing listens.
    pub async fn cri(&self) -> Result<Cri> {
        Cri::connect(&self.path("cleat.sock")).await
    }

    /// The daemon's pid.
    ///
    /// # Errors
    /// When `hack/up` left none.
    pub fn pid(&self) -> Result<i32> {
        Ok(std::fs::read_to_string(self.path("cleatd.pid")).context("cleatd.pid")?.trim().parse()?)
    }

    /// SIGKILL, and waits until the daemon is gone. Blocks.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)
    }

    /// SIGTERM, and waits until the daemon is gone. Blocks.
    ///
    /// # Errors
    /// When it does not run, or does not end within ten seconds.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::SIGTERM)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid()?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to cleatd, pid {pid}"))?;
        let start = Instant::now();
        while !gone(pid) {
            ensure!(start.elapsed() < Duration::from_secs(10), "cleatd, pid {pid}, lives 10 s after {signal}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Starts the daemon anew over the pods that are there, after a kill or as an upgrade. Blocks until it serves.
    ///
    /// # Errors
    /// When it does not come up; with the end of its log.
    pub fn restart(&self) -> Result<()> {
        hack("up", &[&self.dir.to_string_lossy()]).map(drop)
    }

    /// Runs crictl against the daemon and returns its stdout. Blocks.
    ///
    /// # Errors
    /// When crictl fails; with what it said.
    pub fn crictl(&self, args: &[&str]) -> Result<String> {
        hack("crictl", &[&[&*self.dir.to_string_lossy()], args].concat())
    }

    /// The daemon's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("cleatd.log")).unwrap_or_default()
    }

    /// Whatever is there beyond a daemon without pods: shims, mounts, addresses, cgroups, bundles, veths. Blocks for
    /// up to five seconds until there is nothing, because a shim ends a moment after its pod.
    pub fn residue(&self) -> Vec<String> {
        residue::settled(&self.dir)
    }
}

/// Whether a process has ended with all its threads: the last one to die closes its files and gives up its locks.
fn gone(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // Behind the name: the state first, the number of threads as the eighteenth field.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    matches!(fields.first(), Some(&("Z" | "X"))) && matches!(fields.get(17), Some(&("0" | "1")))
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of cleatd.log\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        let down = hack("down", &[&self.dir.to_string_lossy()]);
        let removed = std::fs::remove_dir_all(&self.dir);
        if let (Err(e), false) = (down, std::thread::panicking()) {
            panic!("{e:#}");
        }
        if let (Err(e), false) = (removed, self.dir.symlink_metadata().is_err()) {
            eprintln!("{}: {e}", self.dir.display());
        }
    }
}
