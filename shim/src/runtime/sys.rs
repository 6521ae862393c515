//! What has to happen in a runtime's process between fork and exec.
#![expect(unsafe_code, reason = "Command::pre_exec")]

use std::{io, os::unix::process::CommandExt as _, process::Command};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

/// Where hybrid hosts mount the v2 hierarchy beside the v1 ones.
pub const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// Lets the command run in a mount namespace of its own, in which [`UNIFIED`] is not mounted.
pub fn hide_unified(command: &mut Command) {
    // SAFETY: the shim has one thread, so no lock of another can be held in the child; the closure allocates nothing that
    // is not freed, and makes plain system calls only.
    unsafe { command.pre_exec(without_unified) };
}

fn without_unified() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Only the tmpfs below which it is mounted leaves its peer group: volumes must go on propagating to the host.
    mount(None::<&str>, "/sys/fs/cgroup", None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)?;
    match umount2(UNIFIED, MntFlags::MNT_DETACH) {
        Err(Errno::EINVAL | Errno::ENOENT) | Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
