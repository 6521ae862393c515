//! What has to happen in a runtime's process between fork and exec.
#![expect(unsafe_code, reason = "Command::pre_exec")]

use std::{io, os::unix::process::CommandExt as _, process::Command};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Where hybrid hosts mount the v2 hierarchy beside the v1 ones.
pub const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// Lets the command run in a mount namespace of its own, in which there is no v2 hierarchy at [`UNIFIED`].
pub fn hide_unified(command: &mut Command) {
    // SAFETY: the shim has one thread, so no lock of another can be held in the child; the closure allocates nothing that
    // is not freed, and makes plain system calls only.
    unsafe { command.pre_exec(without_unified) };
}

fn without_unified() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Only the tmpfs below which it is mounted leaves its peer group: volumes must go on propagating to the host.
    mount(None::<&str>, "/sys/fs/cgroup", None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)?;
    // Covered, not unmounted: an unmount waits for an RCU grace period, seven milliseconds on a busy host. And writable:
    // crun makes its directories in whatever lies there, so let that be something that goes with the namespace.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("tmpfs"), UNIFIED, Some("tmpfs"), flags, Some("size=64k"))?)
}
