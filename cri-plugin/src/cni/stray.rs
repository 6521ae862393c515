//! Plugins that outlived the daemon that started them.
//!
//! A daemon that is killed in the middle of an ADD leaves the plugin running. Were it still at work while DEL runs, it
//! could take an address that nobody frees any more. Plugins and what they execute carry the sandbox's id in their
//! environment; 256 random bits name no stranger. Looked for only where an ADD has no result, so it costs no other pod.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::id::SandboxId;

/// A killed process that is stuck in the kernel is not waited for any longer.
const REAP: Duration = Duration::from_secs(1);
/// A process may fork between being seen and being killed: its child is found in the next round.
const ROUNDS: usize = 3;

/// Kills every process that still works on the network of this sandbox, and waits for its end.
pub(super) async fn end(id: &SandboxId) {
    let mark = format!("CNI_CONTAINERID={id}");
    let id = id.clone();
    let work = move || {
        for _ in 0..ROUNDS {
            let found = marked(mark.as_bytes());
            if found.is_empty() {
                return;
            }
            tracing::warn!(sandbox = %id, processes = found.len(), "killing CNI plugins of an ADD that was cut off");
            found.iter().for_each(kill);
        }
    };
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::error!(%error, "looking for stray CNI plugins");
    }
}

/// The processes with this entry in their environment.
fn marked(mark: &[u8]) -> Vec<OwnedFd> {
    let Ok(proc) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = proc.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| carries(*pid, mark))
        .filter_map(|pid| {
            let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            // Asked again: the number may have gone to another process before it was opened.
            carries(pid, mark).then_some(process)
        })
        .collect()
}

/// A zombie has no environment, and what may not be read is none of ours.
fn carries(pid: i32, mark: &[u8]) -> bool {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|byte| *byte == 0).any(|entry| entry == mark)
}

fn kill(process: &OwnedFd) {
    // It may have ended by itself, which is as good.
    let _ = pidfd_send_signal(process, Signal::KILL);
    let ended = &mut [PollFd::new(process, PollFlags::IN)];
    let _ = poll(ended, Timespec::try_from(REAP).ok().as_ref());
}
