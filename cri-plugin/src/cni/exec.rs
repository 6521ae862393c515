//! One call of one plugin: a process in a group of its own, its input written once, its output read and capped.
//!
//! Spawning takes std's `posix_spawn` path, which copies no page tables: nothing here may ask for `pre_exec`. The call
//! blocks the runtime's thread until the exec, which is about 0.2 ms.
//!
//! A process that leaves the group (`setsid`) is out of reach; no plugin has a reason to, and a cgroup per call would
//! cost more than the plugin.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::{Error, Result};

/// No result is larger.
const MAX_STDOUT_BYTES: usize = 1 << 20;
/// What is kept of the diagnostics; the rest is read and dropped.
const MAX_STDERR_BYTES: usize = 64 << 10;
/// How much of a plugin's words an error repeats.
const MAX_WORDS_BYTES: usize = 2 << 10;
/// After the plugin's end its output may be held open by a child it left: so long is waited for the rest.
const DRAIN: Duration = Duration::from_millis(250);
/// A killed process that is stuck in the kernel is left to the orphan queue after so long.
const REAP: Duration = Duration::from_secs(1);

/// A call, ready to run.
pub(super) struct Call<'a> {
    /// "CNI bridge ADD", for errors.
    pub(super) what: String,
    pub(super) binary: &'a Path,
    /// The whole environment.
    pub(super) env: Vec<(&'static str, &'a std::ffi::OsStr)>,
    /// The configuration.
    pub(super) stdin: Vec<u8>,
    pub(super) deadline: Duration,
}

/// How a conversation with a plugin can break off.
enum Broken {
    TooMuch,
    Io(io::Error),
}

/// What the plugin printed so far: it outlives the conversation, so that a killed plugin's words are not lost.
#[derive(Default)]
struct Printed {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// The plugin's process group; dropping it before the plugin's end kills the whole of it.
struct Group(Child);

/// A plugin's error on its standard output (CNI specification, section 5).
#[derive(Deserialize)]
struct Refusal {
    code: Option<u64>,
    msg: String,
    details: Option<String>,
}

impl Call<'_> {
    /// Runs the plugin to its end and returns what it printed.
    ///
    /// # Errors
    /// `Failed` with the plugin's own words, `TimedOut` with what it wrote until its group was killed, `Io` if it could
    /// not be started.
    pub(super) async fn run(mut self) -> Result<Vec<u8>> {
        let stdin = std::mem::take(&mut self.stdin);
        let mut group = Group(self.spawn().map_err(Error::io("exec", self.binary))?);
        let mut printed = Printed::default();
        let end = timeout(self.deadline, group.converse(&stdin, &mut printed)).await;
        match end {
            Ok(Ok(status)) if status.success() => Ok(printed.stdout),
            Ok(Ok(status)) => Err(Error::failed(self.what, printed.refusal(status))),
            Ok(Err(broken)) => {
                group.end().await;
                Err(match broken {
                    Broken::TooMuch => Error::failed(self.what, format!("printed more than {MAX_STDOUT_BYTES} bytes")),
                    Broken::Io(e) => Error::io("talk to", self.binary)(e),
                })
            }
            Err(_) => {
                group.end().await;
                let what = format!("{} (its process group was killed{})", self.what, printed.so_far());
                Err(Error::TimedOut { what, after: self.deadline })
            }
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        Command::new(self.binary)
            .env_clear()
            .envs(self.env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

impl Group {
    async fn converse(&mut self, stdin: &[u8], printed: &mut Printed) -> Result<ExitStatus, Broken> {
        let child = &mut self.0;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut input), Some(output), Some(diagnostics)) = pipes else {
            return Err(Broken::Io(io::ErrorKind::BrokenPipe.into()));
        };
        let feed = async move {
            // A plugin need not read its input; whether that was right, its exit status tells.
            let _ = input.write_all(stdin).await;
            Ok(())
        };
        let talk = async {
            let out = capped(output, &mut printed.stdout);
            let err = kept(diagnostics, &mut printed.stderr);
            tokio::try_join!(feed, out, err).map(drop)
        };
        tokio::pin!(talk);
        tokio::select! {
            // The output normally ends a moment before the process does.
            biased;
            talked = &mut talk => {
                talked?;
                child.wait().await.map_err(Broken::Io)
            }
            status = child.wait() => {
                if let Ok(Err(broken)) = timeout(DRAIN, talk).await {
                    return Err(broken);
                }
                status.map_err(Broken::Io)
            }
        }
    }

    /// Kills the group and reaps the plugin.
    async fn end(mut self) {
        self.kill();
        let _ = timeout(REAP, self.0.wait()).await;
    }

    fn kill(&self) {
        // No id: the plugin was reaped, and its number may be another's by now.
        if let Some(pid) = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Printed {
    /// The words of a plugin that said no.
    fn refusal(&self, status: ExitStatus) -> String {
        let mut words = match serde_json::from_slice::<Refusal>(&self.stdout) {
            Ok(refusal) => refusal.to_string(),
            Err(_) if self.stdout.trim_ascii().is_empty() => status.to_string(),
            Err(_) => format!("{status}; stdout: {}", clip(&self.stdout)),
        };
        if !self.stderr.trim_ascii().is_empty() {
            words.push_str("; stderr: ");
            words.push_str(&clip(&self.stderr));
        }
        words
    }

    fn so_far(&self) -> String {
        let mut words = String::new();
        for (name, bytes) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !bytes.trim_ascii().is_empty() {
                words.extend(["; ", name, ": "]);
                words.push_str(&clip(bytes));
            }
        }
        words
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&clip(self.msg.as_bytes()))?;
        if let Some(code) = self.code {
            write!(f, " (code {code})")?;
        }
        match self.details.as_deref() {
            None | Some("") => Ok(()),
            Some(details) => write!(f, ": {}", clip(details.as_bytes())),
        }
    }
}

/// Reads to the end, which must come within `MAX_STDOUT_BYTES`.
async fn capped(mut stream: impl AsyncRead + Unpin, into: &mut Vec<u8>) -> Result<(), Broken> {
    let mut limited = (&mut stream).take(MAX_STDOUT_BYTES as u64 + 1);
    limited.read_to_end(into).await.map_err(Broken::Io)?;
    if into.len() > MAX_STDOUT_BYTES { Err(Broken::TooMuch) } else { Ok(()) }
}

/// Reads to the end and keeps the first `MAX_STDERR_BYTES`: diagnostics are no reason to fail.
async fn kept(mut stream: impl AsyncRead + Unpin, into: &mut Vec<u8>) -> Result<(), Broken> {
    (&mut stream).take(MAX_STDERR_BYTES as u64).read_to_end(into).await.map_err(Broken::Io)?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map_err(Broken::Io).map(drop)
}

/// A plugin's words for an error or a log: text, without control characters, and not without end.
pub(super) fn clip(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii();
    let (kept, more) = if bytes.len() > MAX_WORDS_BYTES { (&bytes[..MAX_WORDS_BYTES], "...") } else { (bytes, "") };
    let text = String::from_utf8_lossy(kept).replace(|c: char| c.is_control() && c != '\n' && c != '\t', "?");
    text + more
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn words(code: i32, stdout: &str, stderr: &str) -> String {
        Printed { stdout: stdout.into(), stderr: stderr.into() }.refusal(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn a_plugins_words_reach_the_error() {
        let refusal = r#"{"cniVersion": "1.0.0", "code": 11, "msg": "try again", "details": "no addresses"}"#;
        assert_eq!(words(1, refusal, ""), "try again (code 11): no addresses");
        assert_eq!(words(1, r#"{"msg": "m"}"#, "warn\n"), "m; stderr: warn");
        assert_eq!(words(2, "", "panic: x"), "exit status: 2; stderr: panic: x");
        assert_eq!(words(2, "oops\n", ""), "exit status: 2; stdout: oops");
        assert_eq!(Printed::default().refusal(ExitStatus::from_raw(9)), "signal: 9 (SIGKILL)");
    }

    #[test]
    fn words_are_bounded_and_clean() {
        assert_eq!(clip(b" \x1b[31mred\x07\n\xff "), "?[31mred?\n\u{fffd}");
        assert_eq!(clip(&vec![b'a'; 1 << 20]).len(), MAX_WORDS_BYTES + 3);
    }
}
