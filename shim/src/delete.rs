//! `delete`: clean up after a shim that is gone.
//!
//! The daemon runs it when a shim's connection closes, after every orderly end too, and gives it five seconds. So it takes
//! whatever is missing for done: the bundle, the container, the mounts, the runtime. What it knows of the container is what
//! the shim left in the bundle. Pids are deliberately not read from there: they may be somebody else's by now, and the
//! runtime keeps the start time beside them.

use std::{
    fs,
    os::unix::net::UnixStream,
    time::{Duration, SystemTime},
};

use cleat_snapshots::mount::unmount_all;
use containerd_shim_protos::api::DeleteResponse;
use protobuf::{Message as _, MessageField};
use tokio::time::timeout;

use crate::{
    args::Args,
    bootstrap,
    bundle::Bundle,
    cgroup::own::Own,
    error::{At as _, Error, Result},
    reaper::Reaper,
    runtime::Oci,
    sandbox::orphan,
    signals::Signals,
};

/// A second less than the daemon grants.
const DEADLINE: Duration = Duration::from_secs(4);
/// What a container counts as that nobody saw end: killed.
const STATUS: u32 = 128 + libc::SIGKILL.cast_unsigned();

/// Runs `delete` and returns the bytes to print.
pub fn run(args: &Args) -> Result<Vec<u8>> {
    let bundle = bootstrap::bundle(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().at("start", "the runtime")?;
    let removed = runtime.block_on(remove(args, &bundle));
    let unmounted = unmount_all(&bundle.rootfs()).map_err(Error::from);
    if shim_is_gone(&bundle) {
        orphan::end(&bundle);
        remove_cgroup(&bundle);
    }
    removed.and(unmounted)?;
    response()
}

/// Kills and deletes what is left of the container.
async fn remove(args: &Args, bundle: &Bundle) -> Result<()> {
    let options = bundle.saved_options();
    if options.binary_name.is_empty() {
        // No Create ever got as far as a runtime.
        return Ok(());
    }
    let signals = Signals::catch()?;
    let reaper = Reaper::default();
    let runtime = Oci::new(options, &args.namespace, reaper.clone());
    let reaping = async {
        loop {
            let caught = signals.next().await;
            reaper.reap();
            if let Err(e) = caught {
                break Err(e);
            }
        }
    };
    let deleted = async {
        tokio::select! {
            result = runtime.delete_force(&args.id, bundle) => result,
            failed = reaping => failed,
        }
    };
    let late = |_| Error::TimedOut { what: format!("deleting {:?}", args.id), after: DEADLINE };
    timeout(DEADLINE, deleted).await.map_err(late)?
}

/// Whether nobody serves any more; a socket without a shim is removed. Other containers of the pod may have the shim live.
fn shim_is_gone(bundle: &Bundle) -> bool {
    let Ok(address) = fs::read_to_string(bundle.join("address")) else { return true };
    let Some(path) = address.strip_prefix("unix://") else { return true };
    let gone = UnixStream::connect(path).is_err();
    if gone {
        let _ = fs::remove_file(path);
    }
    gone
}

/// Removes the shim's own cgroup, if it had one and nobody is in there.
fn remove_cgroup(bundle: &Bundle) {
    if let Ok(Some(own)) = Own::plan(&bundle.saved_options().shim_cgroup) {
        own.remove();
    }
}

fn response() -> Result<Vec<u8>> {
    let mut response = DeleteResponse::new();
    response.exit_status = STATUS;
    response.exited_at = MessageField::some(SystemTime::now().into());
    response.write_to_bytes().map_err(|e| Error::Corrupt { what: "delete response".into(), problem: e.to_string() })
}
