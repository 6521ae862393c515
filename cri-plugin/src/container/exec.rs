//! ExecSync: a process beside the container's own, its output gathered, its time limited.
//!
//! Output comes by fifos that the shim writes and this daemon reads: a pipe that fills slows that process alone. What
//! exceeds the limit is read and dropped, so that the process can end. After its end the shim closes its side within a
//! bounded time, whoever else still holds the streams.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::process::{self, DRAIN_DEADLINE, Exec};
use crate::daemon::Daemon;
use crate::spec::Terminal;
use crate::tasks::{Exit, Stdio};
use crate::{Error, Result};

/// Of each stream; kubelet asks for no more either.
const OUTPUT_MAX_BYTES: usize = 16 << 20;

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
    let (container, shim) = process::running(daemon, id)?;
    let described = process::described(daemon, &container, &command, Terminal::No)?;
    let exec = Exec::new(daemon, &container, shim)?;
    let ((stdout, out), (stderr, err)) = (exec.folder.output("stdout")?, exec.folder.output("stderr")?);
    let stdio = Stdio { stdout, stderr, ..Stdio::default() };
    let work = async {
        let gathered = Gathered(tokio::spawn(gather(out)), tokio::spawn(gather(err)));
        let exit = wait(&exec, container.id().as_str(), timeout).await?;
        let (stdout, stderr) = gathered.finish().await;
        Ok(ExecSync { stdout, stderr, code: i32::try_from(exit.code).unwrap_or(i32::MAX) })
    };
    exec.run(described, stdio, work).await
}

async fn wait(exec: &Exec, container: &str, timeout: Duration) -> Result<Exit> {
    if timeout.is_zero() {
        return exec.wait().await;
    }
    if let Ok(done) = tokio::time::timeout(timeout, exec.wait()).await {
        return done;
    }
    exec.kill().await?;
    Err(Error::TimedOut { what: format!("a command in container {container}"), after: timeout })
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
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let reader = pipe::OpenOptions::new().open_receiver(&path).expect("open");
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
