//! ExecSync: a process beside the container's own, its output gathered, its time limited.
//!
//! Output comes by fifos that the shim writes and this daemon reads: a pipe that fills slows that process alone. What
//! exceeds the limit is read and dropped, so that the process can end. After its end the shim closes its side within a
//! bounded time, whoever else still holds the streams.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::{Container, State};
use crate::daemon::Daemon;
use crate::tasks::{self, Exit, Shim, Stdio, Target};
use crate::{Error, Result, spec};

/// Of each stream; kubelet asks for no more either.
const OUTPUT_MAX_BYTES: usize = 16 << 20;

/// How long the streams may stay open after the process has ended.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// What a process printed and how it ended.
#[derive(Debug, Default, PartialEq)]
pub struct ExecSync {
    /// At most 16 MiB of it.
    pub stdout: Vec<u8>,
    /// At most 16 MiB of it.
    pub stderr: Vec<u8>,
    /// Its exit code.
    pub code: i32,
}

/// Runs a command in a container; a `timeout` of zero is none.
///
/// # Errors
/// `WrongState` for a container that does not run; `TimedOut` after which the process is dead; the runtime's own words
/// for a command that is not there. Source: CRI api.proto, ExecSync.
pub async fn exec_sync(daemon: &Arc<Daemon>, id: &str, command: Vec<String>, timeout: Duration) -> Result<ExecSync> {
    let container = daemon.pods.container(id)?;
    let state = container.state();
    if !matches!(state, State::Running { .. }) {
        let id = container.id().to_string();
        return Err(Error::WrongState { kind: "container", id, state: state.name(), wanted: "running" });
    }
    let shim = daemon.pods.sandbox(container.fixed.sandbox.as_str())?.shim()?;
    let process = process(daemon, &container, &command)?;
    let exec = Exec::new(daemon, container.id().to_string(), shim)?;
    exec.run(process, timeout).await
}

/// The process to execute, as OCI JSON.
fn process(daemon: &Daemon, container: &Container, command: &[String]) -> Result<Vec<u8>> {
    let path = tasks::bundle(&daemon.config.state, container.id().as_str()).join("config.json");
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let corrupt = |e: serde_json::Error| Error::corrupt(path.display().to_string(), e);
    let spec: oci_spec::runtime::Spec = serde_json::from_slice(&text).map_err(corrupt)?;
    serde_json::to_vec(&spec::exec(&spec, command, spec::Terminal::No)?).map_err(corrupt)
}

/// One process being executed, and the folder with its fifos, which goes with it.
struct Exec {
    container: String,
    id: String,
    dir: PathBuf,
    shim: Arc<Shim>,
}

impl Exec {
    fn new(daemon: &Daemon, container: String, shim: Arc<Shim>) -> Result<Self> {
        let id = crate::id::ContainerId::random()?.to_string();
        let dir = daemon.config.state.join("exec").join(&id);
        std::fs::create_dir_all(&dir).map_err(Error::io("mkdir", &dir))?;
        Ok(Self { container, id, dir, shim })
    }

    async fn run(self, process: Vec<u8>, timeout: Duration) -> Result<ExecSync> {
        let (stdout, stderr) = (self.dir.join("stdout"), self.dir.join("stderr"));
        let readers = (fifo(&stdout)?, fifo(&stderr)?);
        let stdio =
            Stdio { stdout: stdout.display().to_string(), stderr: stderr.display().to_string(), ..Stdio::default() };
        self.shim.exec(&self.container, &self.id, process, stdio).await?;
        let done = self.start_and_gather(readers, timeout).await;
        // Whatever happened, the shim forgets the process; a failure here leaks until the container goes, no longer.
        if let Err(e) = self.shim.delete(&self.container, &self.id).await {
            tracing::warn!(container = self.container, error = %e, "an executed process is left in the shim");
        }
        done
    }

    async fn start_and_gather(&self, pipes: (pipe::Receiver, pipe::Receiver), timeout: Duration) -> Result<ExecSync> {
        self.shim.start(&self.container, &self.id).await?;
        let out = tokio::spawn(gather(pipes.0));
        let err = tokio::spawn(gather(pipes.1));
        let gathered = Gathered(out, err);
        let exit = self.wait(timeout).await?;
        let (stdout, stderr) = gathered.finish().await;
        Ok(ExecSync { stdout, stderr, code: i32::try_from(exit.code).unwrap_or(i32::MAX) })
    }

    async fn wait(&self, timeout: Duration) -> Result<Exit> {
        let wait = self.shim.wait(&self.container, &self.id);
        if timeout.is_zero() {
            return wait.await;
        }
        if let Ok(done) = tokio::time::timeout(timeout, wait).await {
            return done;
        }
        self.shim.kill(&self.container, &self.id, libc::SIGKILL, Target::Process).await?;
        let ended = tokio::time::timeout(DRAIN_DEADLINE, self.shim.wait(&self.container, &self.id)).await;
        if ended.is_err() {
            tracing::warn!(container = self.container, "a command outlived its timeout and SIGKILL");
        }
        Err(Error::TimedOut { what: format!("a command in container {}", self.container), after: timeout })
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), error = %e, "the fifos of a command are left");
        }
    }
}

/// Two readers that end with their owner.
struct Gathered(tokio::task::JoinHandle<Vec<u8>>, tokio::task::JoinHandle<Vec<u8>>);

impl Gathered {
    async fn finish(mut self) -> (Vec<u8>, Vec<u8>) {
        (within_drain(&mut self.0).await, within_drain(&mut self.1).await)
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        self.0.abort();
        self.1.abort();
    }
}

async fn within_drain(reader: &mut tokio::task::JoinHandle<Vec<u8>>) -> Vec<u8> {
    tokio::time::timeout(DRAIN_DEADLINE, reader).await.ok().and_then(Result::ok).unwrap_or_default()
}

fn fifo(path: &Path) -> Result<pipe::Receiver> {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).map_err(Error::io("mkfifo", path))?;
    pipe::OpenOptions::new().open_receiver(path).map_err(Error::io("open", path))
}

async fn gather(mut pipe: pipe::Receiver) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let room = OUTPUT_MAX_BYTES - kept.len();
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn output_is_gathered_to_its_end_and_capped() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("out");
        let reader = fifo(&path).expect("fifo");
        let writer = std::thread::spawn(move || {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(&path).expect("open");
            let megabyte = vec![b'x'; 1 << 20];
            (0..20).for_each(|_| pipe.write_all(&megabyte).expect("write"));
        });
        let kept = gather(reader).await;
        writer.join().expect("the writer is never blocked");
        assert_eq!(kept.len(), OUTPUT_MAX_BYTES);
    }
}
