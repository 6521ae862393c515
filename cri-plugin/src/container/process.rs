//! A process beside a container's own: announced, started, waited for, deleted. What is done with its streams in between
//! is the callers' affair: `exec` gathers them, `exec_stream` hands them to a client.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::pipe;

use super::{Container, State, relay};
use crate::daemon::Daemon;
use crate::spec::{self, Terminal};
use crate::streaming::streams::Resizes;
use crate::tasks::{self, Exit, Shim, Stdio, Target};
use crate::{Error, Result};

/// How long a process may take to end after SIGKILL, and its streams after its end.
pub(super) const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// A container that runs, and its shim.
///
/// # Errors
/// `NotFound`; `WrongState` for one that does not run; `Unreachable`.
pub(super) fn running(daemon: &Daemon, id: &str) -> Result<(Arc<Container>, Arc<Shim>)> {
    let container = daemon.pods.container(id)?;
    let state = container.state();
    if !matches!(state, State::Running { .. }) {
        let id = container.id().to_string();
        return Err(Error::WrongState { kind: "container", id, state: state.name(), wanted: "running" });
    }
    let shim = daemon.pods.sandbox(container.fixed.sandbox.as_str())?.shim()?;
    Ok((container, shim))
}

/// Whether a container runs.
///
/// # Errors
/// As [`running`].
pub(crate) fn expect_running(daemon: &Daemon, id: &str) -> Result<()> {
    running(daemon, id).map(drop)
}

/// The process to execute, as OCI JSON.
pub(super) fn described(daemon: &Daemon, container: &Container, command: &[String], tty: Terminal) -> Result<Vec<u8>> {
    let path = tasks::bundle(&daemon.config.state, container.id().as_str()).join("config.json");
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let corrupt = |e: serde_json::Error| Error::corrupt(path.display().to_string(), e);
    let spec: oci_spec::runtime::Spec = serde_json::from_slice(&text).map_err(corrupt)?;
    serde_json::to_vec(&spec::exec(&spec, command, tty)?).map_err(corrupt)
}

/// A folder of fifos, which go with it.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes one, of that name, under `STATE/exec`.
    pub(super) fn make(daemon: &Daemon, name: &str) -> Result<Self> {
        let dir = daemon.config.state.join("exec").join(name);
        std::fs::create_dir_all(&dir).map_err(Error::io("mkdir", &dir))?;
        Ok(Self(dir))
    }

    /// Makes a fifo in it.
    pub(super) fn fifo(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        nix::unistd::mkfifo(&path, mode).map_err(Error::io("mkfifo", &path))?;
        Ok(path)
    }

    /// Makes a fifo in it and opens it for reading.
    pub(super) fn output(&self, name: &str) -> Result<(String, pipe::Receiver)> {
        let path = self.fifo(name)?;
        let reader = pipe::OpenOptions::new().open_receiver(&path).map_err(Error::io("open", &path))?;
        Ok((path.to_string_lossy().into_owned(), reader))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), error = %e, "the fifos of a process are left");
        }
    }
}

/// One process being executed.
pub(super) struct Exec {
    container: String,
    id: String,
    shim: Arc<Shim>,
    /// Its fifos.
    pub(super) folder: Folder,
}

impl Exec {
    /// A process that nobody knows of yet.
    pub(super) fn new(daemon: &Daemon, container: &Container, shim: Arc<Shim>) -> Result<Self> {
        let id = crate::id::ContainerId::random()?.to_string();
        let folder = Folder::make(daemon, &id)?;
        Ok(Self { container: container.id().to_string(), id, shim, folder })
    }

    /// Announces and starts the process, does the work, and deletes it, whatever came of it.
    pub(super) async fn run<T>(
        &self,
        process: Vec<u8>,
        stdio: Stdio,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.shim.exec(&self.container, &self.id, process, stdio).await?;
        let done = async {
            self.shim.start(&self.container, &self.id).await?;
            work.await
        }
        .await;
        // A failure here leaks until the container goes, no longer.
        if let Err(e) = self.shim.delete(&self.container, &self.id).await {
            tracing::warn!(container = self.container, error = %e, "an executed process is left in the shim");
        }
        done
    }

    /// Waits for its end.
    pub(super) async fn wait(&self) -> Result<Exit> {
        self.shim.wait(&self.container, &self.id).await
    }

    /// Kills it and waits for its end; None for a process that SIGKILL does not end in time.
    pub(super) async fn kill(&self) -> Result<Option<Exit>> {
        self.shim.kill(&self.container, &self.id, libc::SIGKILL, Target::Process).await?;
        let ended = tokio::time::timeout(DRAIN_DEADLINE, self.wait()).await;
        if ended.is_err() {
            tracing::warn!(container = self.container, "a command outlives SIGKILL");
        }
        ended.ok().transpose()
    }

    /// Tells the shim that its stdin has been written to the end.
    pub(super) async fn close_stdin(&self) {
        if let Err(e) = self.shim.close_stdin(&self.container, &self.id).await {
            tracing::debug!(container = self.container, error = %e, "closing the stdin of a command");
        }
    }

    /// Passes a client's terminal sizes on to it, for as long as it is polled.
    pub(super) async fn resizes(&self, from: Option<Resizes>) -> Infallible {
        relay::resizes(from, &self.shim, &self.container, &self.id).await
    }
}
