//! The life of a process.
//!
//! ```text
//! Added --run--> Running                    an exec
//! Created --run--> Running                  a container's init
//!                  Running --pause--> Paused --resume--> Running
//! Created, Running, Paused --end--> Stopped
//! Added, Stopped --delete--> Deleted
//! ```
//! Every other edge is refused and leaves the state as it was. A process that dies is Stopped only once its exit was told
//! in order; until then it counts as what it was, and signals to it answer that it is over.

use crate::{
    error::{Error, Result},
    reaper::{Exit, Process as Handle},
};

/// Where a process is in its life.
#[derive(Debug)]
pub enum Life {
    /// An exec that was described but not run.
    Added,
    /// An init that waits to be started.
    Created(Handle),
    /// It runs.
    Running(Handle),
    /// It is frozen, with its whole container.
    Paused(Handle),
    /// It is over.
    Stopped(Exit),
    /// It is over and forgotten.
    Deleted,
}

/// A refused transition: the unchanged state.
#[derive(Debug)]
pub struct Refused(pub Life);

type Next = std::result::Result<Life, Refused>;

impl Life {
    /// Lets a created init go, or puts an added exec's process in.
    pub fn run(self, handle: Handle) -> Next {
        match self {
            Self::Added | Self::Created(_) => Ok(Self::Running(handle)),
            other => Err(Refused(other)),
        }
    }

    /// Freezes.
    pub fn pause(self) -> Next {
        match self {
            Self::Running(handle) => Ok(Self::Paused(handle)),
            other => Err(Refused(other)),
        }
    }

    /// Thaws.
    pub fn resume(self) -> Next {
        match self {
            Self::Paused(handle) => Ok(Self::Running(handle)),
            other => Err(Refused(other)),
        }
    }

    /// Ends.
    pub fn end(self, exit: Exit) -> Next {
        match self {
            Self::Created(_) | Self::Running(_) | Self::Paused(_) => Ok(Self::Stopped(exit)),
            other => Err(Refused(other)),
        }
    }

    /// Forgets.
    pub fn delete(self) -> Next {
        match self {
            Self::Added | Self::Stopped(_) => Ok(Self::Deleted),
            other => Err(Refused(other)),
        }
    }

    /// The process, while there is one.
    pub fn handle(&self) -> Option<&Handle> {
        match self {
            Self::Created(handle) | Self::Running(handle) | Self::Paused(handle) => Some(handle),
            Self::Added | Self::Stopped(_) | Self::Deleted => None,
        }
    }

    /// The pid it has or had; 0 if it never had one.
    pub fn pid(&self) -> i32 {
        match self {
            Self::Stopped(exit) => exit.pid,
            other => other.handle().map_or(0, Handle::pid),
        }
    }

    /// How it ended, if it did.
    pub fn exit(&self) -> Option<Exit> {
        match self {
            Self::Stopped(exit) => Some(*exit),
            _ => None,
        }
    }

    /// The state's name, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Added => "not started yet",
            Self::Created(_) => "created",
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Stopped(_) => "stopped",
            Self::Deleted => "deleted",
        }
    }

    /// The process, or why `verb` cannot be done to `id` now.
    pub fn running(&self, verb: &'static str, id: &str) -> Result<Handle> {
        match self {
            Self::Running(handle) => Ok(handle.clone()),
            other => Err(other.wrong(verb, id)),
        }
    }

    /// The error of a verb that this state refuses.
    pub fn wrong(&self, verb: &'static str, id: &str) -> Error {
        match self {
            Self::Deleted => Error::NotFound { what: "process", id: id.into() },
            other => Error::WrongState { verb, id: id.into(), state: other.name() },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::reaper::Reaper;

    fn handle() -> Handle {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let watched = Reaper::default().watch(child.id().cast_signed()).unwrap();
        child.wait().unwrap();
        watched.process
    }

    fn exit() -> Exit {
        Exit { pid: 7, status: 3, at: SystemTime::UNIX_EPOCH }
    }

    fn all() -> [Life; 6] {
        let h = handle();
        [
            Life::Added,
            Life::Created(h.clone()),
            Life::Running(h.clone()),
            Life::Paused(h),
            Life::Stopped(exit()),
            Life::Deleted,
        ]
    }

    #[test]
    fn every_edge_is_either_drawn_or_refused() {
        type Edge = (&'static str, fn(Life) -> Next, &'static [&'static str], &'static str);
        let edges: [Edge; 5] = [
            ("run", |l| l.run(handle()), &["not started yet", "created"], "running"),
            ("pause", Life::pause, &["running"], "paused"),
            ("resume", Life::resume, &["paused"], "running"),
            ("end", |l| l.end(exit()), &["created", "running", "paused"], "stopped"),
            ("delete", Life::delete, &["not started yet", "stopped"], "deleted"),
        ];
        for (verb, edge, from, to) in edges {
            for life in all() {
                let before = life.name();
                match edge(life) {
                    Ok(next) => {
                        assert!(from.contains(&before), "{verb} was allowed on {before}");
                        assert_eq!(next.name(), to);
                    }
                    Err(Refused(same)) => {
                        assert!(!from.contains(&before), "{verb} was refused on {before}");
                        assert_eq!(same.name(), before);
                    }
                }
            }
        }
    }

    #[test]
    fn a_stopped_process_keeps_its_pid_and_exit() {
        let stopped = Life::Stopped(exit());
        assert_eq!((stopped.pid(), stopped.exit()), (7, Some(exit())));
        assert!(stopped.handle().is_none());
        assert_eq!(Life::Added.pid(), 0);
    }
}
