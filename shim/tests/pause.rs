//! `pause` as the first process of a pid namespace: it reaps orphans, and goes when told to.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-cleat-v2");

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        sleep(Duration::from_millis(5));
    }
}

fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// An `unshare` whose only child is pause, as pid 1 of its namespace; dropping it ends both.
struct Unshare(Child);

impl Drop for Unshare {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start() -> (Unshare, i32) {
    let unshare = Command::new("unshare").args(["--pid", "--fork", "--kill-child", SHIM, "pause"]).spawn().unwrap();
    let (parent, unshare) = (i32::try_from(unshare.id()).unwrap(), Unshare(unshare));
    let mut pause = 0;
    eventually("pause starts", || {
        pause = children(parent).first().copied().unwrap_or_default();
        fs::read_to_string(format!("/proc/{pause}/comm")).is_ok_and(|name| name == "pause\n")
    });
    (unshare, pause)
}

#[test]
fn orphans_are_reaped_and_a_signal_ends_it() {
    if !Command::new("unshare").args(["--pid", "--fork", "true"]).status().is_ok_and(|status| status.success()) {
        return println!("SKIP orphans_are_reaped_and_a_signal_ends_it: no pid namespaces here");
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (mut unshare, pause) = start();
        let orphans = "sleep 0.2 & sleep 0.2 & sleep 100 & true";
        let entered =
            Command::new("nsenter").args(["--pid", "--target", &pause.to_string(), "sh", "-c", orphans]).status();
        assert!(entered.unwrap().success());
        eventually("it adopts three orphans", || children(pause).len() == 3);
        eventually("it reaps the two that end", || children(pause).len() == 1);
        kill(Pid::from_raw(pause), Signal::SIGHUP).unwrap();
        sleep(Duration::from_millis(50));
        let survivor = *children(pause).first().expect("a signal that is not for it changes nothing");
        kill(Pid::from_raw(pause), signal).unwrap();
        assert!(unshare.0.wait().unwrap().success(), "{signal}: exit code 0");
        eventually("the namespace ends with it", || !fs::exists(format!("/proc/{survivor}")).unwrap());
    }
}
