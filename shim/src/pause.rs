//! `pause`: the first process of a pid namespace that the containers of a pod share.
//!
//! It reaps the orphans of all of them and ends on SIGTERM or SIGINT; when it ends, the kernel ends the namespace. It lives as
//! long as the pod, so it has no async runtime, allocates nothing in its loop, and sleeps in one system call. Signals are waited
//! for, not handled: for a namespace's first process the kernel throws away a signal without a handler, but not a blocked one.

use nix::{
    sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// Runs as the sandbox's pause process until it is told to end; exits with 0, or with 1 if signals cannot be waited for.
pub fn run() -> ! {
    // Only for whoever reads ps: a failure changes nothing.
    let _ = rustix::thread::set_name(c"pause");
    let awaited = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]);
    if awaited.thread_block().is_err() {
        std::process::exit(1);
    }
    // Orphans that died before the signal was blocked have sent theirs already.
    reap();
    loop {
        match awaited.wait() {
            Ok(Signal::SIGCHLD) => reap(),
            Ok(_) => std::process::exit(0),
            Err(_) => std::process::exit(1),
        }
    }
}

/// Reaps every child that has exited; one signal may stand for several of them.
fn reap() {
    while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
