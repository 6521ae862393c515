//! StopContainer, and what happens when a container ends by itself.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::{Container, Exit, State};
use crate::daemon::Daemon;
use crate::tasks::{self, Shim, Target};
use crate::{Error, Result};

/// How long a container may take to end after SIGKILL: a process in uninterruptible sleep does not.
const KILL_DEADLINE: Duration = Duration::from_secs(15);

/// Stops a container: its stop signal, then SIGKILL after the grace period. One that does not run is stopped already.
/// A second call while the first waits shares the first one's grace period, or shortens it.
///
/// # Errors
/// `TimedOut` for a process that SIGKILL does not end; the shim's words. Source: CRI api.proto, StopContainer.
pub async fn stop(daemon: &Arc<Daemon>, id: &str, grace: Duration) -> Result<()> {
    let container = match daemon.pods.container(id) {
        Ok(container) => container,
        Err(Error::NotFound { .. }) => return Ok(()),
        Err(e) => return Err(e),
    };
    if !matches!(container.state(), State::Running { .. }) {
        return Ok(());
    }
    if !grace.is_zero() {
        let nanos = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
        let kill_at = crate::clock::now().saturating_add(nanos);
        container.follow(&daemon.store, |s, id| s.stopping(id, kill_at)).await;
        if share_grace(&container, grace) {
            signal(daemon, &container, stop_signal(&container)?, Target::Process).await?;
        }
        wait_out_grace(&container).await;
    }
    kill(daemon, &container).await
}

/// A grace period in progress.
#[derive(Clone, Copy)]
pub(super) struct Grace {
    ends: Instant,
    /// Whether this daemon has sent the stop signal; the one before it may have, and a second one does no harm.
    signalled: bool,
}

/// Takes up the grace period that an earlier daemon began.
pub(super) fn resume_grace(container: &Container) {
    if let State::Running { kill_at: Some(at), .. } = container.state() {
        let left = u64::try_from(at.saturating_sub(crate::clock::now())).unwrap_or(0);
        let grace = Grace { ends: Instant::now() + Duration::from_nanos(left), signalled: false };
        *container.grace.lock().unwrap_or_else(PoisonError::into_inner) = Some(grace);
    }
}

/// Kills a container and waits for its end.
pub(crate) async fn kill(daemon: &Arc<Daemon>, container: &Arc<Container>) -> Result<()> {
    if !matches!(container.state(), State::Running { .. }) {
        return Ok(());
    }
    signal(daemon, container, libc::SIGKILL, Target::All).await?;
    tokio::time::timeout(KILL_DEADLINE, container.until_exited()).await.map_err(|_| Error::TimedOut {
        what: format!("the end of container {} after SIGKILL", container.id()),
        after: KILL_DEADLINE,
    })
}

/// Sets the moment of the SIGKILL, or brings it forward; true for the call that has to send the stop signal.
fn share_grace(container: &Container, grace: Duration) -> bool {
    let mut shared = container.grace.lock().unwrap_or_else(PoisonError::into_inner);
    let own = Instant::now() + grace;
    let first = !shared.is_some_and(|g| g.signalled);
    *shared = Some(Grace { ends: shared.map_or(own, |others| others.ends.min(own)), signalled: true });
    first
}

async fn wait_out_grace(container: &Container) {
    loop {
        let grace = *container.grace.lock().unwrap_or_else(PoisonError::into_inner);
        let left = grace.map_or(Duration::ZERO, |g| g.ends.saturating_duration_since(Instant::now()));
        // A later call may bring the end forward: look again every second.
        let slice = left.min(Duration::from_secs(1));
        if left.is_zero() || tokio::time::timeout(slice, container.until_exited()).await.is_ok() {
            return;
        }
    }
}

/// A process that has just ended takes no signal, and that is fine.
async fn signal(daemon: &Daemon, container: &Container, signal: i32, target: Target) -> Result<()> {
    let sandbox = daemon.pods.sandbox(container.fixed.sandbox.as_str())?;
    match sandbox.shim()?.kill(container.id().as_str(), "", signal, target).await {
        Err(Error::NotFound { .. }) => Ok(()),
        other => other,
    }
}

/// The signal of the container's own configuration, else of its image, else SIGTERM.
fn stop_signal(container: &Container) -> Result<i32> {
    use cleat_proto::cri::v1::Signal;
    let asked = container.fixed.config.stop_signal();
    let name = match asked {
        Signal::RuntimeDefault => container.fixed.image.stop_signal.clone(),
        other => other.as_str_name().trim_start_matches("SIGNAL_").to_string(),
    };
    parse_signal(&name)
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`; empty is SIGTERM.
fn parse_signal(name: &str) -> Result<i32> {
    let upper = name.trim().to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if bare.is_empty() {
        return Ok(libc::SIGTERM);
    }
    let wrong = || Error::invalid("stop signal", format!("{name:?} is no signal"));
    if let Ok(number) = bare.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(wrong()) };
    }
    for (base, number, sign) in [("RTMIN", 34, 1), ("RTMAX", 64, -1)] {
        if let Some(rest) = bare.strip_prefix(base) {
            let offset = rest.trim_start_matches(['+', '-', 'P', 'L', 'U', 'S', 'M', 'I', 'N']);
            let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().map_err(|_| wrong())? };
            return if (0..=30).contains(&offset) { Ok(number + sign * offset) } else { Err(wrong()) };
        }
    }
    use std::str::FromStr;
    nix::sys::signal::Signal::from_str(&format!("SIG{bare}")).map(|s| s as i32).map_err(|_| wrong())
}

/// A container has ended: that is stored and told, then the shim frees what it held.
///
/// The container's turn is taken before the exit is told: who sees it and takes the turn finds all of it freed.
pub(crate) async fn exited(daemon: &Daemon, container: &Container, shim: &Shim, exit: tasks::Exit) {
    let id = container.id().as_str();
    let code = i32::try_from(exit.code).unwrap_or(i32::MAX);
    let oom = code != 0 && shim.oom_killed(id).await.unwrap_or(false);
    let exit = Exit {
        code,
        started_at: 0,
        finished_at: if exit.at > 0 { exit.at } else { crate::clock::now() },
        reason: if oom { "OOMKilled" } else { Exit::reason_of(code) }.into(),
        message: String::new(),
    };
    let _op = container.op.lock().await;
    container.follow(&daemon.store, |s, id| s.exited(id, exit)).await;
    if let Err(e) = shim.delete(id, "").await {
        tracing::warn!(container = %id, error = %e, "an ended task is left for RemoveContainer");
    }
}

/// The shim has gone and with it the only witness of the exit.
pub(crate) async fn shim_lost(daemon: &Daemon, container: &Container) {
    if !matches!(container.state(), State::Running { .. } | State::Starting) {
        return;
    }
    let exit = Exit {
        code: 137,
        started_at: 0,
        finished_at: crate::clock::now(),
        reason: "ContainerStatusUnknown".into(),
        message: "the shim that watched this container has ended; its processes were killed".into(),
    };
    container.follow(&daemon.store, |s, id| s.exited(id, exit)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_of_signals_are_read() {
        for (name, number) in [
            ("", 15),
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGUSR1", 10),
            ("SIGRTMIN+3", 37),
            ("SIGRTMINPLUS3", 37),
            ("RTMAX-1", 63),
            ("SIGRTMAXMINUS1", 63),
            ("SIGRTMIN", 34),
        ] {
            assert_eq!(parse_signal(name).expect(name), number, "{name}");
        }
        for bad in ["0", "65", "SIGNOPE", "SIGRTMIN+99", "-1"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }
}
