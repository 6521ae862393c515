//! OCI runtimes: the command line every one of them has, and the flavours in which they have it.
//!
//! [`Oci`] is one runtime with one state directory, as a container's options chose it. Each verb is one call of the binary
//! with a deadline; what a failed call logged as its last error becomes the error. Killing a single process is not here:
//! that goes through its pidfd.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

mod command;
mod exec_fifo;
mod flavour;
mod log;
mod sys;

pub use command::Streams;
use command::{Call, Output};
use flavour::{Flavour, Start};

use crate::{
    bundle::Bundle,
    error::{At as _, Error, Result},
    options::Options,
    reaper::{Process, Reaper},
};

/// Where runtimes keep their state unless the options say otherwise; the namespace follows.
const ROOT: &str = "/run/containerd/runc";

/// Pulling up a container or an exec: image mounts, hooks and a slow disk are in it.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// Everything else a runtime does is a few writes into cgroups.
const VERB_DEADLINE: Duration = Duration::from_secs(10);

/// An OCI runtime together with its state directory.
#[derive(Debug)]
pub struct Oci {
    flavour: &'static Flavour,
    binary: PathBuf,
    root: PathBuf,
    options: Options,
    reaper: Reaper,
    calls: AtomicU32,
}

/// What `create` and `exec` have in common.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The container.
    pub id: &'a str,
    /// Its bundle.
    pub bundle: &'a Bundle,
    /// What the new process gets as 0, 1 and 2.
    pub streams: Streams,
    /// Where a terminal's master is sent.
    pub console: Option<PathBuf>,
}

impl Oci {
    /// The runtime that `options` name, for containers of `namespace`.
    pub fn new(options: Options, namespace: &str, reaper: Reaper) -> Self {
        let or = |value: &str, default: &str| PathBuf::from(if value.is_empty() { default } else { value });
        let binary = or(&options.binary_name, flavour::DEFAULT_BINARY);
        let root = or(&options.root, ROOT).join(namespace);
        Self { flavour: Flavour::of(&binary), binary, root, options, reaper, calls: AtomicU32::new(0) }
    }

    /// The binary as the options name it.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Creates a container, up to the point where its init waits to be started.
    pub async fn create(&self, launch: Launch<'_>) -> Result<()> {
        let mut verb = vec!["create".into(), "--bundle".into(), launch.bundle.path().into()];
        verb.extend(["--pid-file".into(), launch.bundle.pid_file(None).into()]);
        if self.options.no_pivot_root {
            verb.push("--no-pivot".into());
        }
        if self.options.no_new_keyring {
            verb.push("--no-new-keyring".into());
        }
        self.launch(verb, launch).await
    }

    /// Runs a further process in a running container, as [`Bundle::exec_file`] describes it.
    pub async fn exec(&self, launch: Launch<'_>, exec: &str) -> Result<()> {
        let process = launch.bundle.exec_file(exec).into();
        let mut verb = vec!["exec".into(), "--process".into(), process, "--detach".into()];
        verb.extend(["--pid-file".into(), launch.bundle.pid_file(Some(exec)).into()]);
        self.launch(verb, launch).await
    }

    async fn launch(&self, mut verb: Vec<OsString>, launch: Launch<'_>) -> Result<()> {
        if let Some(socket) = launch.console {
            verb.extend(["--console-socket".into(), socket.into()]);
        }
        verb.push(launch.id.into());
        self.run(launch.bundle, verb, launch.streams, START_DEADLINE).await.map(drop)
    }

    /// Lets a created container's init go.
    pub async fn start(&self, id: &str, bundle: &Bundle, init: &Process) -> Result<()> {
        match self.flavour.start {
            Start::ExecFifo => exec_fifo::release(&self.root.join(id).join("exec.fifo"), init, START_DEADLINE).await,
            Start::Command => self.run(bundle, words(["start", id]), Streams::Captured, START_DEADLINE).await.map(drop),
        }
    }

    /// Signals every process of a container.
    pub async fn kill_all(&self, id: &str, bundle: &Bundle, signal: i32) -> Result<()> {
        let verb = words(["kill", "--all", id, &signal.to_string()]);
        self.run(bundle, verb, Streams::Captured, VERB_DEADLINE).await.map(drop)
    }

    /// Removes what is left of a container that is over. One that is gone already counts as removed.
    pub async fn delete(&self, id: &str, bundle: &Bundle) -> Result<()> {
        self.remove(bundle, words(["delete", id]), id).await
    }

    /// Kills a container, whatever its state, and removes it.
    pub async fn delete_force(&self, id: &str, bundle: &Bundle) -> Result<()> {
        self.remove(bundle, words(["delete", "--force", id]), id).await
    }

    async fn remove(&self, bundle: &Bundle, verb: Vec<OsString>, id: &str) -> Result<()> {
        // Every runtime with runc's command line keeps a container's state there.
        let state = self.root.join(id);
        if !state.exists() {
            return Ok(());
        }
        match self.run(bundle, verb, Streams::Captured, VERB_DEADLINE).await {
            Err(_) if !state.exists() => Ok(()),
            result => result.map(drop),
        }
    }

    /// Freezes a container.
    pub async fn pause(&self, id: &str, bundle: &Bundle) -> Result<()> {
        self.run(bundle, words(["pause", id]), Streams::Captured, VERB_DEADLINE).await.map(drop)
    }

    /// Thaws a container.
    pub async fn resume(&self, id: &str, bundle: &Bundle) -> Result<()> {
        self.run(bundle, words(["resume", id]), Streams::Captured, VERB_DEADLINE).await.map(drop)
    }

    /// Changes a container's limits; `resources` is JSON (OCI runtime-spec, `linux.resources`).
    pub async fn update(&self, id: &str, bundle: &Bundle, resources: &[u8]) -> Result<()> {
        let file = self.scratch(bundle, "resources", "json");
        fs::write(&file, resources).at("write", &file)?;
        let verb = vec!["update".into(), "--resources".into(), file.clone().into(), id.into()];
        let result = self.run(bundle, verb, Streams::Captured, VERB_DEADLINE).await;
        let _ = fs::remove_file(&file);
        result.map(drop)
    }

    /// Runs one verb. On failure the last error of its log is the error, and the log stays as `log.json`.
    async fn run(&self, bundle: &Bundle, verb: Vec<OsString>, streams: Streams, deadline: Duration) -> Result<Output> {
        // Calls overlap (execs, a kill): each logs into a file of its own.
        let log = self.scratch(bundle, "log", "json");
        let mut args: Vec<OsString> = vec!["--root".into(), self.root.clone().into()];
        args.extend(["--log".into(), log.clone().into(), "--log-format".into(), "json".into()]);
        if self.options.systemd_cgroup {
            args.push("--systemd-cgroup".into());
        }
        args.extend(verb);
        let dir = if bundle.path().is_dir() { bundle.path() } else { Path::new("/") };
        let call = Call { program: self.binary.clone(), args, dir: dir.into(), streams, deadline };
        let outcome = command::run(call, self.flavour, &self.reaper).await;
        let result = match outcome {
            Ok(output) if output.status != 0 => Err(self.refusal(&log, &output)),
            outcome => outcome,
        };
        let _ = if result.is_ok() { fs::remove_file(&log) } else { fs::rename(&log, bundle.join("log.json")) };
        result
    }

    fn refusal(&self, log: &Path, output: &Output) -> Error {
        let logged = fs::read_to_string(log).ok().and_then(|text| log::last_error(&text));
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_string();
        let message = logged.or_else(|| (!stderr.is_empty()).then_some(stderr));
        Error::Runtime {
            message: message
                .unwrap_or_else(|| format!("{} ended with status {}", self.binary.display(), output.status)),
        }
    }

    fn scratch(&self, bundle: &Bundle, stem: &str, extension: &str) -> PathBuf {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        bundle.join(&format!("{stem}.{number}.{extension}"))
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.into_iter().map(OsString::from).collect()
}
