//! What the shim serves on its socket.

mod own;
mod sandbox;
pub mod server;
mod task;

use std::sync::Arc;

use cleat_proto::shim::{create_io, create_oom};
use containerd_shim_protos::{sandbox_async::create_sandbox, shim_async::create_task};
use own::OwnService;
use sandbox::SandboxService;
use server::Router;
use task::TaskService;

use crate::shim::Shim;

/// All services of a shim.
pub fn router(shim: &Arc<Shim>) -> Router {
    let own = Arc::new(OwnService(shim.clone()));
    // The two Task packages differ in nothing but their name.
    Router::new([
        create_task(Arc::new(TaskService(shim.clone()))),
        create_sandbox(Arc::new(SandboxService(shim.clone()))),
        create_io(own.clone()),
        create_oom(own),
    ])
    .alias("containerd.task.v2.Task", "containerd.task.v3.Task")
}
