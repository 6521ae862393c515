//! Kill: one process through its pidfd, or all of a container through the runtime.

use super::{Container, life::Life};
use crate::error::{Error, Result};

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// One exec, or with an empty id the init.
    One(&'a str),
    /// Every process of the container.
    All,
}

/// Sends a signal.
pub async fn kill(container: &Container, target: Target<'_>, signal: u32) -> Result<()> {
    let signal = i32::try_from(signal).map_err(|_| Error::Invalid(format!("{signal} is no signal")))?;
    match target {
        Target::One(exec) => container.process(exec)?.signal(signal)?,
        Target::All => all(container, signal).await?,
    }
    // Frozen processes die only once they thaw (cgroup v1).
    if signal == libc::SIGKILL && matches!(*container.init.life(), Life::Paused(_)) {
        let _ = container.runtime.resume(&container.id, &container.bundle).await;
    }
    Ok(())
}

async fn all(container: &Container, signal: i32) -> Result<()> {
    if container.init.life().handle().is_none() {
        return Err(Error::NotFound { what: "process already finished:", id: container.id.clone() });
    }
    container.runtime.kill_all(&container.id, &container.bundle, signal).await
}
