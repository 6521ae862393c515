//! The pause process of a shim that was killed: found again by `delete`, by its pid and start time.
//!
//! Nobody else would end it: it ignores the loss of its parent, and it keeps the pod's pid namespace and whatever is left
//! in there. The start time makes sure that a pid which was given away since is left alone.

use std::{fs, os::fd::AsFd as _};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{bundle::Bundle, error::Result};

/// The file in the bundle: pid and start time.
const FILE: &str = "pause.pid";

/// Notes a pause process in the bundle.
pub fn note(bundle: &Bundle, pid: i32) -> Result<()> {
    let started = start_time(pid).unwrap_or_default();
    bundle.save(FILE, format!("{pid} {started}").as_bytes())
}

/// Ends the pause process that was noted, if it is still that one.
pub fn end(bundle: &Bundle) {
    let Ok(note) = fs::read_to_string(bundle.join(FILE)) else { return };
    let Some((pid, started)) = note.split_once(' ') else { return };
    let Some(target) = pid.parse().ok().and_then(Pid::from_raw) else { return };
    let Ok(fd) = pidfd_open(target, PidfdFlags::empty()) else { return };
    // Read after it was opened: while the descriptor is open, it is this process or none.
    if start_time(target.as_raw_nonzero().get()).is_some_and(|now| now == started) {
        let _ = pidfd_send_signal(fd.as_fd(), Signal::KILL);
    }
}

/// Field 22 of `/proc/PID/stat` (proc(5)); the second may hold anything, up to the last parenthesis.
fn start_time(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(19).map(String::from)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_the_process_that_was_noted_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(dir.path()).unwrap();
        end(&bundle);
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().cast_signed();
        bundle.save(FILE, format!("{pid} 1").as_bytes()).unwrap();
        end(&bundle);
        assert!(child.try_wait().unwrap().is_none(), "a stranger was ended");
        note(&bundle, pid).unwrap();
        end(&bundle);
        assert!(!child.wait().unwrap().success());
        end(&bundle);
    }
}
