//! Pause and resume: the whole container, by the runtime's freezer.

use containerd_shim_protos::events::task::{TaskPaused, TaskResumed};

use super::{Container, life::Life};
use crate::{error::Result, shim::Shim};

/// Freezes a running container.
pub async fn pause(shim: &Shim, container: &Container) -> Result<()> {
    let init = &container.init;
    let _verb = init.claim().await;
    init.life().running("pause", &container.id)?;
    container.runtime.pause(&container.id, &container.bundle).await?;
    init.step("pause", Life::pause)?;
    let mut event = TaskPaused::new();
    event.container_id = container.id.clone();
    shim.events.publish(event);
    Ok(())
}

/// Thaws a paused container.
pub async fn resume(shim: &Shim, container: &Container) -> Result<()> {
    let init = &container.init;
    let _verb = init.claim().await;
    if !matches!(*init.life(), Life::Paused(_)) {
        return Err(init.life().wrong("resume", &container.id));
    }
    container.runtime.resume(&container.id, &container.bundle).await?;
    init.step("resume", Life::resume)?;
    let mut event = TaskResumed::new();
    event.container_id = container.id.clone();
    shim.events.publish(event);
    Ok(())
}
