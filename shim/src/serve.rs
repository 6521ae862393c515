//! The serving process: one thread, one runtime, until there is nothing left to serve.

use std::{fs, path::Path, time::Duration};

use rustix::process::{Pid, set_child_subreaper};

use crate::{
    bootstrap::Launch,
    cgroup::own::Own,
    error::{At as _, Error, Result},
    events::Events,
    service,
    shim::Shim,
    signals::Signals,
    sys::{self, Side},
};

/// Events taken at once; tokio's 1024 would be memory nobody needs.
const IO_EVENTS: usize = 64;

/// How long the last events and replies may take at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves until the shim is told to stop, then removes its socket.
pub fn run(launch: Launch) -> Result<()> {
    let own = Own::plan(&launch.options.shim_cgroup)?;
    if let Some(own) = &own {
        let pid = std::process::id();
        if sys::split()? == Side::Child {
            // Nobody is left to be told; the shim serves where it is.
            let _ = own.join(pid);
            std::process::exit(0);
        }
    }
    set_child_subreaper(Some(Pid::INIT)).map_err(|e| Error::io("become a subreaper", e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(IO_EVENTS)
        .build()
        .at("start", "the runtime")?;
    let socket = launch.socket.clone();
    let result = runtime.block_on(serve(launch));
    let _ = fs::remove_file(&socket);
    if let Some(own) = own {
        own.leave();
    }
    result
}

async fn serve(launch: Launch) -> Result<()> {
    let signals = Signals::catch()?;
    let events = Events::new(&launch.events_address, &launch.namespace);
    let dir = launch.socket.parent().unwrap_or(Path::new("/")).to_path_buf();
    let shim = Shim::new(launch.namespace, dir, launch.options, events);
    let server = service::server::Server::new(service::router(&shim));
    let replies = server.replies();
    let mut accepting = tokio::spawn(server.serve(launch.listener));
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
            ended = &mut accepting => {
                return ended.map_err(|e| Error::io("serve", std::io::Error::other(e)))?.at("serve", &launch.socket);
            }
        }
    }
    accepting.abort();
    replies.flush(FAREWELL).await;
    shim.events.flush(FAREWELL).await;
    Ok(())
}
