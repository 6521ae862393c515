//! StartContainer: the intent is stored, the shim makes and starts the task, and a task of ours waits for its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Container, Exit, State, UnixNanos, exited, log, rootfs};
use crate::daemon::Daemon;
use crate::sandbox::{Phase, Sandbox};
use crate::tasks::{self, NewTask, Shim, Stdio, TaskState};
use crate::{Error, Result};

/// Starts a created container.
///
/// # Errors
/// `NotFound`, `WrongState`; the runtime's own words where it would not start, after which the container has exited
/// with code 128 and reason StartError, as containerd tells it. Source: CRI api.proto, StartContainer.
pub async fn start(daemon: &Arc<Daemon>, id: &str) -> Result<()> {
    let container = daemon.pods.container(id)?;
    let sandbox = daemon.pods.sandbox(container.fixed.sandbox.as_str())?;
    let _pod = sandbox.op.read().await;
    let _op = container.op.lock().await;
    if sandbox.state().phase != Phase::Ready {
        return Err(sandbox.state().wrong(sandbox.id(), "ready"));
    }
    let shim = sandbox.shim()?;
    container.advance(&daemon.store, |s, id| s.starting(id)).await?;
    match run(daemon, &container, &sandbox, &shim).await {
        Ok((pid, started_at)) => {
            container.advance(&daemon.store, |s, id| s.running(id, pid, started_at)).await?;
            watch(daemon, &container, shim);
            Ok(())
        }
        Err(e) => {
            failed(daemon, &container, &shim, &e).await;
            Err(e)
        }
    }
}

/// Makes and starts the task; returns its pid and the moment before it was let go.
async fn run(daemon: &Daemon, container: &Container, sandbox: &Sandbox, shim: &Shim) -> Result<(u32, UnixNanos)> {
    let created = make(daemon, container, sandbox, shim).await?;
    // Read before: a container that ends at once must not have started after its end.
    let now = crate::clock::now();
    let started = shim.start(container.id().as_str(), "").await?;
    Ok((if started == 0 { created } else { started }, now))
}

/// Makes the task. One that is there already is what a daemon that was killed in the middle of this very call left,
/// perhaps still in the making: it was never started, and goes first.
async fn make(daemon: &Daemon, container: &Container, sandbox: &Sandbox, shim: &Shim) -> Result<u32> {
    let id = container.id().as_str();
    let runtime = daemon
        .config
        .runtimes
        .get(&sandbox.fixed.handler)
        .ok_or_else(|| Error::not_found("runtime handler", &sandbox.fixed.handler))?;
    let bundle = tasks::bundle(&daemon.config.state, id);
    let deadline = Instant::now() + daemon.config.timeouts.shim();
    loop {
        let mounts = rootfs::mounts(daemon, container.id()).await?;
        let stdio = stdio(daemon, container);
        let options = tasks::runc_options(runtime, String::new())?;
        match shim.create(NewTask { id, bundle: &bundle, rootfs: &mounts, stdio, options }).await {
            Err(Error::AlreadyExists { .. }) if Instant::now() < deadline => {
                let _ = shim.kill(id, "", libc::SIGKILL, tasks::Target::All).await;
                let _ = shim.delete(id, "").await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            created => return created,
        }
    }
}

fn stdio(daemon: &Daemon, container: &Container) -> Stdio {
    let config = &container.fixed.config;
    let sink = log::url(&container.fixed.log_path, daemon.config.containers.max_log_line_bytes);
    Stdio {
        stdin: if config.stdin { log::stdin_url(config.stdin_once) } else { String::new() },
        stdout: sink.clone(),
        stderr: if config.tty { String::new() } else { sink },
        terminal: config.tty,
    }
}

/// Nothing runs: the task, if there is one, is forgotten.
async fn failed(daemon: &Daemon, container: &Container, shim: &Shim, why: &Error) {
    let id = container.id().as_str();
    let _ = shim.kill(id, "", libc::SIGKILL, tasks::Target::All).await;
    if let Err(e) = shim.delete(id, "").await {
        tracing::warn!(container = %id, error = %e, "a task that failed to start is left for RemoveContainer");
    }
    let exit = Exit {
        code: 128,
        started_at: 0,
        finished_at: crate::clock::now(),
        reason: "StartError".into(),
        message: why.to_string(),
    };
    container.follow(&daemon.store, |s, id| s.exited(id, exit)).await;
}

fn watch(daemon: &Arc<Daemon>, container: &Arc<Container>, shim: Arc<Shim>) {
    let (owner, daemon, container) = (daemon.clone(), daemon.clone(), container.clone());
    owner.spawn(async move {
        // An error is the end of the shim, which is the business of the sandbox's own watcher.
        if let Ok(exit) = shim.wait(container.id().as_str(), "").await {
            exited(&daemon, &container, &shim, exit).await;
        }
    });
}

/// After a restart of the daemon: takes up a container where the shim says it is.
///
/// # Errors
/// `Unreachable`, `TimedOut`: the shim is lost or hangs.
pub async fn resume(daemon: &Arc<Daemon>, container: &Arc<Container>, shim: &Arc<Shim>) -> Result<()> {
    let id = container.id().as_str();
    let state = container.state();
    match (shim.state(id).await?, &state) {
        (_, State::Creating | State::Exited(_)) => {}
        (Some(TaskState::Running(_)), State::Running { .. }) => {
            super::stop::resume_grace(container);
            watch(daemon, container, shim.clone());
        }
        (Some(TaskState::Running(pid)), _) => {
            container.follow(&daemon.store, |s, id| s.running(id, pid, crate::clock::now())).await;
            watch(daemon, container, shim.clone());
        }
        (Some(TaskState::Stopped(exit)), _) => exited(daemon, container, shim, exit).await,
        (Some(TaskState::Created), State::Starting) => {
            let _ = shim.kill(id, "", libc::SIGKILL, tasks::Target::All).await;
            shim.delete(id, "").await?;
            container.follow(&daemon.store, |s, id| s.not_started(id)).await;
        }
        (None, State::Starting) => container.follow(&daemon.store, |s, id| s.not_started(id)).await,
        (None, State::Running { .. }) => super::shim_lost(daemon, container).await,
        (None | Some(TaskState::Created), _) => {}
    }
    Ok(())
}
