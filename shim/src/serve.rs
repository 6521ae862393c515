//! The serving process: one thread, one runtime, until there is nothing left to serve.

use std::{fs, path::Path, sync::Arc, time::Duration};

use rustix::process::{Pid, set_child_subreaper};

use crate::{
    bootstrap::Launch,
    cgroup::own::Own,
    error::{At as _, Error, Result},
    events::Events,
    service,
    shim::{Place, Shim},
    signals::Signals,
    sys,
};

/// Events taken at once; tokio's 1024 would be memory nobody needs.
const IO_EVENTS: usize = 64;

/// How long a shim without a purpose waits for one. A daemon's restart takes less.
const ABANDONED_AFTER: Duration = Duration::from_secs(20 * 60);

/// How long the last events and replies may take at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves until the shim is told to stop, then removes its socket.
pub fn run(launch: Launch) -> Result<()> {
    let own = Own::plan(&launch.options.shim_cgroup)?;
    let own = own.map(Arc::new);
    if let Some(own) = &own {
        own.join_behind(std::process::id(), &launch.report)?;
    }
    set_child_subreaper(Some(Pid::INIT)).map_err(|e| Error::io("become a subreaper", e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(IO_EVENTS)
        .build()
        .at("start", "the runtime")?;
    let socket = launch.socket.clone();
    let report = launch.report.clone();
    let result = runtime.block_on(serve(launch, own.clone())).inspect_err(|e| report.problem("serving ended", e));
    let _ = fs::remove_file(&socket);
    if let Some(own) = own {
        own.leave();
    }
    result
}

/// Ends once nothing was there and nobody was connected, twice in a row: a daemon that died between starting this shim and
/// using it would otherwise leave it behind for good.
async fn abandoned(idle: impl Fn() -> bool) {
    let mut before = false;
    loop {
        tokio::time::sleep(ABANDONED_AFTER / 2).await;
        let now = idle();
        if before && now {
            return;
        }
        before = now;
    }
}

async fn serve(launch: Launch, own: Option<Arc<Own>>) -> Result<()> {
    let signals = Signals::catch()?;
    let events = Events::new(&launch.events_address, &launch.namespace);
    let dir = launch.socket.parent().unwrap_or(Path::new("/")).to_path_buf();
    let shim =
        Shim::new(Place { namespace: launch.namespace, dir, own, report: launch.report }, launch.options, events);
    let server = service::server::Server::new(service::router(&shim));
    let replies = server.replies();
    let connections = server.connections();
    let abandoned = abandoned(|| shim.is_idle() && connections.none());
    tokio::pin!(abandoned);
    let mut accepting = tokio::spawn(server.serve(launch.listener));
    // What start needed, this does not.
    sys::trim_heap();
    loop {
        tokio::select! {
            // Children first: a request that follows an exit should see it.
            biased;
            caught = signals.next() => {
                let caught = caught?;
                shim.reaper.reap();
                if caught.terminate && shim.is_idle() {
                    break;
                }
            }
            () = shim.stop.notified() => break,
            () = &mut abandoned => break,
            ended = &mut accepting => {
                return ended.map_err(|e| Error::io("serve", std::io::Error::other(e)))?.at("serve", &launch.socket);
            }
        }
    }
    // Whoever starts this pod again must not be sent to a shim that ends.
    let _ = fs::remove_file(&launch.socket);
    accepting.abort();
    replies.flush(FAREWELL).await;
    shim.events.flush(FAREWELL).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_shim_that_stays_without_purpose_is_abandoned() {
        let begun = Instant::now();
        abandoned(|| true).await;
        assert!((ABANDONED_AFTER..ABANDONED_AFTER + FAREWELL).contains(&begun.elapsed()));
        // In use at every second look: never abandoned, however long that goes on.
        let looks = Cell::new(0);
        let used = abandoned(|| looks.replace(looks.get() + 1) % 2 == 0);
        assert!(tokio::time::timeout(100 * ABANDONED_AFTER, used).await.is_err());
        assert!(looks.get() > 100);
    }
}
