//! The end of a process, told in the order the protocol demands: an exec's exit before its init's, an out-of-memory kill
//! before the exit it caused, and none of them before the start.

use std::{sync::Arc, time::Duration};

use containerd_shim_protos::events::task::{TaskExit, TaskOOM};
use protobuf::MessageField;
use tokio::{sync::oneshot, time::timeout};

use super::{Container, process::Process};
use crate::{cgroup::oom::Bell, reaper::Exit, shim::Shim};

/// How long an init's end may be held back for its output: longer only if its reader stands still.
const INIT_DRAIN: Duration = Duration::from_secs(1);
/// How long an exec's output is awaited after its end, when a process it left behind holds the streams.
const EXEC_DRAIN: Duration = Duration::from_secs(2);
/// How long an init's end may be held back for execs that the kernel is ending.
const EXECS_END: Duration = Duration::from_secs(10);

/// Accompanies a container's init to its end.
pub async fn of_init(shim: Arc<Shim>, container: Arc<Container>, bell: Bell, mut exit: oneshot::Receiver<Exit>) {
    let exit = loop {
        tokio::select! {
            exit = &mut exit => break exit,
            () = bell.rung() => tell_kills(&shim, &container),
        }
    };
    drop(bell);
    let Ok(exit) = exit else { return };
    tell_kills(&shim, &container);
    if !container.owns_pid_namespace {
        // Nobody else ends what shares the pod's or the host's pid namespace.
        let _ = container.runtime.kill_all(&container.id, &container.bundle, libc::SIGKILL).await;
    }
    let execs = container.execs();
    let _ = timeout(EXECS_END, async {
        for exec in &execs {
            // A start in flight may be about to give it a process.
            drop(exec.claim().await);
            if exec.life().handle().is_some() {
                exec.wait().await;
            }
        }
    })
    .await;
    let _verb = container.init.claim().await;
    container.init.drain(INIT_DRAIN).await;
    tell(&shim, &container.id, &container.init, exit);
}

/// Accompanies an exec to its end.
pub async fn of_exec(shim: Arc<Shim>, container: Arc<Container>, exec: Arc<Process>, exit: oneshot::Receiver<Exit>) {
    let Ok(exit) = exit.await else { return };
    let verb = exec.claim().await;
    tell(&shim, &container.id, &exec, exit);
    drop(verb);
    exec.drain(EXEC_DRAIN).await;
}

fn tell_kills(shim: &Shim, container: &Container) {
    if container.kills.look() {
        let mut event = TaskOOM::new();
        event.container_id = container.id.clone();
        shim.events.publish(event);
    }
}

fn tell(shim: &Shim, container: &str, process: &Process, exit: Exit) {
    if process.ended(exit).is_err() {
        return;
    }
    let mut event = TaskExit::new();
    event.container_id = container.into();
    event.id = process.id().into();
    event.pid = exit.pid.cast_unsigned();
    event.exit_status = exit.status;
    event.exited_at = MessageField::some(exit.at.into());
    shim.events.publish(event);
}
