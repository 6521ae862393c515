//! Exec: a process beside the container's own whose streams are a client's.
//!
//! When the client goes, the process's stdin ends, and a process that does not end by that is killed: nobody is left to read
//! it or to stop it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use cleat_proto::cri::v1::ExecRequest;
use tokio::sync::watch;

use super::process::{self, DRAIN_DEADLINE, Exec};
use super::relay::{Pipes, Writer};
use crate::daemon::Daemon;
use crate::spec::Terminal;
use crate::streaming::Streams;
use crate::streaming::streams::{Gone, Inlet};
use crate::tasks::Exit;
use crate::{Error, Result};

/// How long a process has to end by itself once its client is gone.
const GRACE: Duration = Duration::from_secs(2);

/// Runs a command with a client's streams; returns its exit code after its output has been handed on.
///
/// # Errors
/// As [`super::exec_sync`]. Source: CRI api.proto, Exec.
pub async fn exec(daemon: &Arc<Daemon>, request: ExecRequest, streams: &mut Streams) -> Result<i32> {
    let (container, shim) = process::running(daemon, &request.container_id)?;
    let terminal = if request.tty { Terminal::Yes } else { Terminal::No };
    let described = process::described(daemon, &container, &request.cmd, terminal)?;
    let exec = Exec::new(daemon, &container, shim)?;
    let gone = streams.gone.clone();
    let (stdio, pipes) = Pipes::make(&exec.folder, streams, request.tty)?;
    let Pipes { stdin, output, sizes } = pipes;
    let (tell_exited, exited) = watch::channel(false);
    let process = async {
        let exit = end(&exec, &gone).await;
        tell_exited.send_replace(true);
        exit
    };
    let output = async {
        tokio::select! {
            () = output.pump(Some(exited)) => {}
            () = gone.wait() => {}
        }
    };
    let work = async {
        let both = async { tokio::join!(process, output).0 };
        tokio::select! {
            exit = both => Ok(i32::try_from(exit?.code).unwrap_or(i32::MAX)),
            never = feed(&exec, stdin) => match never {},
            never = exec.resizes(sizes) => match never {},
        }
    };
    exec.run(described, stdio, work).await
}

/// The end of the process, or of its client and then of the process.
async fn end(exec: &Exec, client: &Gone) -> Result<Exit> {
    tokio::select! {
        exit = exec.wait() => return exit,
        () = client.wait() => {}
    }
    if let Ok(exit) = tokio::time::timeout(GRACE, exec.wait()).await {
        return exit;
    }
    let what = || "the end of a command after its client's and SIGKILL".to_string();
    exec.kill().await?.ok_or_else(|| Error::TimedOut { what: what(), after: DRAIN_DEADLINE })
}

/// Writes stdin to its end and closes it, for as long as it is polled.
async fn feed(exec: &Exec, stdin: Option<(Writer, Inlet)>) -> Infallible {
    if let Some((writer, inlet)) = stdin {
        writer.feed(inlet).await;
        exec.close_stdin().await;
    }
    std::future::pending().await
}
