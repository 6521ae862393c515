//! A mount namespace nobody else sees, as a place to put mounts together.
//!
//! A thread takes it, not a process: `unshare(CLONE_NEWNS | CLONE_FS)` is per thread, nothing forks, and the namespace
//! goes with the thread. What was put together leaves it as a detached mount.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Error, Result};

/// Where mounts go in such a namespace: a folder every host has and no snapshot is in.
pub(super) const SCRATCH: &str = "/sys";

/// Runs `make` in a namespace of its own; its mounts can be told from the host's by nobody but itself.
pub(super) fn run(make: impl FnOnce() -> Result<OwnedFd> + Send) -> Result<OwnedFd> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("private-mounts".into()).spawn_scoped(scope, || {
            let failed = |op: &'static str| move |e: nix::Error| Error::io(op, "/", e);
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).map_err(failed("unshare the mounts of"))?;
            // Nothing goes out; what the host unmounts goes here too, so that it is not kept busy.
            let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
            mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).map_err(failed("make slave"))?;
            make()
        });
        let worker = worker.map_err(|e| Error::io("start a thread to mount in", SCRATCH, e))?;
        worker.join().unwrap_or_else(|_| Err(Error::invalid("private mounts", "their thread panicked")))
    })
}

/// A detached copy of the mount at `path`, with what is mounted below it.
pub(super) fn take(path: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags).map_err(|e| Error::io("open_tree", path, e))
}
