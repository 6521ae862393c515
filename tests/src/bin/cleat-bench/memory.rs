//! What a pod costs while it does nothing: proportional set size of daemon, shims and pause processes, told apart.
//!
//! A shim is a process whose command line names this runtime's socket and whose program is a shim; a pause process is
//! a child of a shim by that name. PSS shares a page among those that map it (proc(5), smaps_rollup).

use std::fs;

use anyhow::{Context, Result};

use crate::load;
use crate::target::Target;

/// Kilobytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// The daemon while the pods are there.
    pub daemon_kb: u64,
    /// Shims, per pod.
    pub shim_kb: f64,
    /// Pause processes, per pod.
    pub pause_kb: f64,
}

/// Brings up `pods` pods with a sleeping container each, reads, and removes them.
pub async fn per_pod(target: &Target, pods: usize) -> Result<Memory> {
    target.pull().await?;
    let sandboxes = load::many(pods, 4, |n| load::up(target.clone(), format!("idle-{n}"))).await?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let memory = read(target, pods)?;
    load::down(target, sandboxes).await?;
    Ok(memory)
}

fn read(target: &Target, pods: usize) -> Result<Memory> {
    let processes: Vec<Process> = fs::read_dir("/proc")?.flatten().filter_map(|e| Process::read(&e)).collect();
    let shims: Vec<&Process> = processes.iter().filter(|p| p.is_shim_of(&target.socket)).collect();
    let pauses: Vec<&Process> =
        processes.iter().filter(|p| p.comm == "pause" && shims.iter().any(|shim| shim.pid == p.parent)).collect();
    let per_pod = |list: &[&Process]| list.iter().map(|p| pss_kb(p.pid)).sum::<u64>() as f64 / pods.max(1) as f64;
    Ok(Memory { daemon_kb: pss_kb(target.pid()?), shim_kb: per_pod(&shims), pause_kb: per_pod(&pauses) })
}

struct Process {
    pid: i32,
    parent: i32,
    comm: String,
    command: String,
}

impl Process {
    /// None for what is no process or has just ended.
    fn read(entry: &fs::DirEntry) -> Option<Self> {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (head, tail) = stat.rsplit_once(')')?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        Some(Self {
            pid,
            parent: tail.split_whitespace().nth(1)?.parse().ok()?,
            comm: head.split_once('(')?.1.into(),
            command: String::from_utf8_lossy(&command).replace('\0', " "),
        })
    }

    fn is_shim_of(&self, socket: &str) -> bool {
        self.command.split(' ').next().is_some_and(|p| p.contains("containerd-shim-")) && self.command.contains(socket)
    }
}

fn pss_kb(pid: i32) -> u64 {
    let read = || -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    };
    read().unwrap_or(0)
}
