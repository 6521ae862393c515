//! Start: let a created init go, or run an exec that was added.

use std::sync::Arc;

use containerd_shim_protos::events::task::{TaskExecStarted, TaskStart};

use super::{Container, create, exit, life::Life, process::Process};
use crate::{error::Result, runtime::Launch, shim::Shim};

/// Starts the init, or with an id the exec, and returns its pid.
pub async fn start(shim: &Arc<Shim>, container: &Arc<Container>, exec: &str) -> Result<u32> {
    if exec.is_empty() { init(shim, container).await } else { added(shim, container, exec).await }
}

async fn init(shim: &Shim, container: &Container) -> Result<u32> {
    let init = &container.init;
    let _verb = init.claim().await;
    let handle = match &*init.life() {
        Life::Created(handle) => handle.clone(),
        other => return Err(other.wrong("start", &container.id)),
    };
    container.runtime.start(&container.id, &container.bundle, &handle).await?;
    let pid = handle.pid().cast_unsigned();
    init.step("start", |life| life.run(handle))?;
    let mut event = TaskStart::new();
    event.container_id = container.id.clone();
    event.pid = pid;
    shim.events.publish(event);
    Ok(pid)
}

async fn added(shim: &Arc<Shim>, container: &Arc<Container>, id: &str) -> Result<u32> {
    let process = container.process(id)?;
    let verb = process.claim().await;
    if !matches!(*process.life(), Life::Added) {
        return Err(process.life().wrong("start", id));
    }
    let expecting = shim.reaper.expect();
    let child = run(shim, container, &process, id).await.inspect_err(|_| process.set_io(None))?;
    drop(expecting);
    let pid = child.process.pid().cast_unsigned();
    process.step("start", |life| life.run(child.process))?;
    let mut event = TaskExecStarted::new();
    event.container_id = container.id.clone();
    event.exec_id = id.into();
    event.pid = pid;
    shim.events.publish(event);
    drop(verb);
    tokio::spawn(exit::of_exec(shim.clone(), container.clone(), process, child.exit));
    Ok(pid)
}

async fn run(shim: &Shim, container: &Container, process: &Process, id: &str) -> Result<crate::reaper::Child> {
    let bundle = &container.bundle;
    let (io, ends) = create::open(shim, &container.id, process.stdio(), &container.options).await?;
    process.set_io(Some(io));
    let console = create::console(shim, process.stdio().terminal)?;
    let launch = Launch {
        id: &container.id,
        bundle,
        streams: create::handed(ends),
        console: console.as_ref().map(|s| s.path().to_path_buf()),
    };
    container.runtime.exec(launch, id).await?;
    if let (Some(socket), Some(io)) = (console, process.io()) {
        io.attach_console(socket.receive(create::CONSOLE_DEADLINE).await?)?;
    }
    process.catch_up();
    let pid = bundle.read_pid(Some(id));
    let _ = std::fs::remove_file(bundle.pid_file(Some(id)));
    shim.reaper.watch(pid?)
}
