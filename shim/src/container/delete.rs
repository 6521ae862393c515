//! Delete: forget an exec, or remove a container that is over.

use std::{fs, time::Duration};

use cleat_snapshots::mount::unmount_all;
use containerd_shim_protos::events::task::TaskDelete;
use protobuf::MessageField;
use tokio::time::timeout;

use super::{Container, life::Life, process::Process};
use crate::{
    error::{Error, Result},
    reaper::Exit,
    shim::Shim,
};

/// A killed init is gone in no time, unless the kernel is in trouble.
const KILLED_DEADLINE: Duration = Duration::from_secs(10);

/// How a deleted process ended; without an exit it never ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// The pid it had, or 0.
    pub pid: u32,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// Deletes the exec, or with an empty id the container.
pub async fn delete(shim: &Shim, container: &Container, exec: &str) -> Result<Deleted> {
    if exec.is_empty() { whole(shim, container).await } else { one(container, exec).await }
}

async fn one(container: &Container, id: &str) -> Result<Deleted> {
    let process = container.process(id)?;
    if process.life().exit().is_some() {
        process.drained().await;
    }
    let _verb = process.claim().await;
    let deleted = deleted(&process);
    process.step("delete", Life::delete)?;
    container.table().remove(id);
    let _ = fs::remove_file(container.bundle.exec_file(id));
    Ok(deleted)
}

/// Whatever fails here leaves the container stopped, so that a second Delete does the rest (a busy unmount above all).
async fn whole(shim: &Shim, container: &Container) -> Result<Deleted> {
    let init = &container.init;
    end_created(container).await?;
    let _verb = init.claim().await;
    if init.life().exit().is_none() {
        return Err(init.life().wrong("delete", &container.id));
    }
    container.runtime.delete(&container.id, &container.bundle).await?;
    unmount_all(&container.bundle.rootfs())?;
    let deleted = deleted(init);
    init.step("delete", Life::delete)?;
    shim.forget(&container.id);
    publish(shim, container, deleted);
    Ok(deleted)
}

/// An init that was never started ends with its container.
async fn end_created(container: &Container) -> Result<()> {
    let init = &container.init;
    if !matches!(*init.life(), Life::Created(_)) {
        return Ok(());
    }
    match init.signal(libc::SIGKILL) {
        Ok(()) | Err(Error::NotFound { .. }) => {}
        Err(e) => return Err(e),
    }
    let ended = timeout(KILLED_DEADLINE, init.wait()).await;
    ended.map(drop).map_err(|_| Error::TimedOut { what: format!("end of {:?}", container.id), after: KILLED_DEADLINE })
}

fn deleted(process: &Process) -> Deleted {
    let life = process.life();
    Deleted { pid: life.pid().cast_unsigned(), exit: life.exit() }
}

/// The deletion of an exec has no event.
fn publish(shim: &Shim, container: &Container, deleted: Deleted) {
    let Some(exit) = deleted.exit else { return };
    let mut event = TaskDelete::new();
    event.container_id = container.id.clone();
    event.pid = deleted.pid;
    event.exit_status = exit.status;
    event.exited_at = MessageField::some(exit.at.into());
    shim.events.publish(event);
}
