//! The only place that waits for children.
//!
//! The shim is a subreaper, so its children are the OCI runtime's processes, containers' inits, execs, and whatever a
//! container's daemonised process leaves behind. One `waitid` loop collects them all: a second waiter (tokio's `Child`,
//! `Command::status`) would race with it. An exit nobody watches yet is kept while somebody [expects](Reaper::expect) a
//! process whose pid is still being learnt, and dropped otherwise: those are orphans.

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions, pidfd_open, wait, waitid};
use tokio::sync::oneshot;

use crate::{
    error::{Error, Result},
    sys,
};

/// The highest signal Linux has.
const SIGNAL_MAX: i32 = 64;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its pid while it lived.
    pub pid: i32,
    /// Its exit code, or 128 and the signal that ended it.
    pub status: u32,
    /// When it was collected.
    pub at: SystemTime,
}

/// A child that is watched: its end, and a handle that can signal nobody else.
#[derive(Debug)]
pub struct Child {
    /// The process.
    pub process: Process,
    /// Gets its exit, once.
    pub exit: oneshot::Receiver<Exit>,
}

/// A handle on a process that stays its own even when the pid is reused.
#[derive(Debug, Clone)]
pub struct Process {
    pid: i32,
    /// None if the process was over before it could be opened.
    fd: Option<Arc<OwnedFd>>,
}

impl Process {
    /// Its pid; of use to others, never to signal it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The pidfd, readable once the process is over; none if it was over before it could be opened.
    pub fn fd(&self) -> Option<&Arc<OwnedFd>> {
        self.fd.as_ref()
    }

    /// Sends a signal. False if the process is over.
    pub fn signal(&self, signal: i32) -> Result<bool> {
        if !(1..=SIGNAL_MAX).contains(&signal) {
            return Err(Error::Invalid(format!("{signal} is no signal")));
        }
        let Some(fd) = &self.fd else { return Ok(false) };
        match sys::pidfd_send_signal(fd.as_fd(), signal) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(e) => Err(Error::io(format!("signal process {}", self.pid), e)),
        }
    }
}

/// Collects children and tells whoever watches them. Clones share one table.
#[derive(Debug, Clone, Default)]
pub struct Reaper(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    watched: HashMap<i32, oneshot::Sender<Exit>>,
    unclaimed: HashMap<i32, Exit>,
    expecting: usize,
}

/// While this lives, no exit is dropped.
#[derive(Debug)]
pub struct Expecting(Reaper);

impl Drop for Expecting {
    fn drop(&mut self) {
        let mut table = self.0.table();
        table.expecting -= 1;
        if table.expecting == 0 {
            table.unclaimed = HashMap::new();
        }
    }
}

impl Reaper {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the exits of processes that are not watched yet, until the guard is dropped.
    pub fn expect(&self) -> Expecting {
        self.table().expecting += 1;
        Expecting(self.clone())
    }

    /// Watches a child by its pid. Of a child that is over already the exit is ready at once.
    ///
    /// Called right after a spawn without an await between, or under [`Reaper::expect`], no exit is missed. The pid of a
    /// kept exit may have been taken by a newer child: a child that still can be waited for makes a kept exit a
    /// stranger's.
    pub fn watch(&self, pid: i32) -> Result<Child> {
        let target = Pid::from_raw(pid).ok_or_else(|| Error::Invalid(format!("{pid} is no pid")))?;
        let (tell, exit) = oneshot::channel();
        let mut table = self.table();
        if !is_child(target) {
            let kept = table.unclaimed.remove(&pid);
            let kept = kept.ok_or_else(|| Error::NotFound { what: "child process", id: pid.to_string() })?;
            let _ = tell.send(kept);
            return Ok(Child { process: Process { pid, fd: None }, exit });
        }
        // An unreaped child keeps its pid, so this opens the child and nobody else.
        let fd = pidfd_open(target, PidfdFlags::NONBLOCK).map_err(|e| Error::io(format!("pidfd of {pid}"), e))?;
        table.unclaimed.remove(&pid);
        table.watched.insert(pid, tell);
        Ok(Child { process: Process { pid, fd: Some(Arc::new(fd)) }, exit })
    }

    /// Collects every child that is over. To be called after each SIGCHLD.
    pub fn reap(&self) {
        let mut table = self.table();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let code = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => code,
                (None, signal) => 128 + signal.unwrap_or_default(),
            };
            let pid = pid.as_raw_nonzero().get();
            let exit = Exit { pid, status: code.cast_unsigned(), at: SystemTime::now() };
            match table.watched.remove(&pid) {
                // Nobody listens any more: not our concern.
                Some(tell) => drop(tell.send(exit)),
                None if table.expecting > 0 => drop(table.unclaimed.insert(pid, exit)),
                None => {}
            }
        }
    }
}

/// Whether this is a child that was not collected yet, dead or alive.
fn is_child(pid: Pid) -> bool {
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT).is_ok()
}
