//! The life of a container, as an enum whose variants hold what is known only there.
//!
//! ```text
//! Creating --created--> Created --starting--> Starting --running--> Running --exited--> Exited
//!                          ^                      |  |                                    ^
//!                          +----not_started-------+  +------------------exited------------+
//! ```
//! `Starting` is the intent, stored before the runtime is asked: whoever finds it after a crash asks the shim which
//! side of it the container is on. A container that failed to start goes back to Created only if nothing ran.
//! A transition consumes the state and returns the next or `WrongState`.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Nanoseconds since 1970, as CRI counts them.
pub type UnixNanos = i64;

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its snapshot and bundle are being made; never shown to a client.
    Creating,
    /// Ready to be started.
    Created,
    /// The runtime has been asked to start it.
    Starting,
    /// Its first process runs.
    Running {
        /// That process, in the host's pid namespace.
        pid: u32,
        /// When the runtime said so.
        started_at: UnixNanos,
        /// When its grace period ends, once StopContainer was called: a restart of the daemon does not start it over.
        #[serde(default)]
        kill_at: Option<UnixNanos>,
    },
    /// It ran, or failed to.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + n after signal n.
    pub code: i32,
    /// Zero where it never ran.
    pub started_at: UnixNanos,
    /// When it ended.
    pub finished_at: UnixNanos,
    /// One word, as kubelet shows it: Completed, Error, OOMKilled, StartError, ContainerStatusUnknown.
    pub reason: String,
    /// The story behind, if there is one.
    pub message: String,
}

impl Exit {
    /// The reason that a plain exit code has.
    pub fn reason_of(code: i32) -> &'static str {
        if code == 0 { "Completed" } else { "Error" }
    }
}

impl State {
    /// The word for errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Creating => "being created",
            Self::Created => "created",
            Self::Starting => "being started",
            Self::Running { .. } => "running",
            Self::Exited(_) => "exited",
        }
    }

    /// The pid of a running container.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Running { pid, .. } => Some(*pid),
            _ => None,
        }
    }

    /// Creating -> Created.
    ///
    /// # Errors
    /// `WrongState` from anywhere else, here and in every transition below.
    pub fn created(self, id: &str) -> Result<Self> {
        match self {
            Self::Creating => Ok(Self::Created),
            other => Err(other.wrong(id, "being created")),
        }
    }

    /// Created -> Starting.
    ///
    /// # Errors
    /// `WrongState`.
    pub fn starting(self, id: &str) -> Result<Self> {
        match self {
            Self::Created => Ok(Self::Starting),
            other => Err(other.wrong(id, "created")),
        }
    }

    /// Starting -> Created: recovery found that nothing had run.
    ///
    /// # Errors
    /// `WrongState`.
    pub fn not_started(self, id: &str) -> Result<Self> {
        match self {
            Self::Starting => Ok(Self::Created),
            other => Err(other.wrong(id, "being started")),
        }
    }

    /// Starting -> Running.
    ///
    /// # Errors
    /// `WrongState`.
    pub fn running(self, id: &str, pid: u32, started_at: UnixNanos) -> Result<Self> {
        match self {
            Self::Starting => Ok(Self::Running { pid, started_at, kill_at: None }),
            other => Err(other.wrong(id, "being started")),
        }
    }

    /// Running -> Running, with an end of its grace period; the earlier of two counts.
    ///
    /// # Errors
    /// `WrongState`.
    pub fn stopping(self, id: &str, at: UnixNanos) -> Result<Self> {
        match self {
            Self::Running { pid, started_at, kill_at } => {
                Ok(Self::Running { pid, started_at, kill_at: Some(kill_at.map_or(at, |other| other.min(at))) })
            }
            other => Err(other.wrong(id, "running")),
        }
    }

    /// Anything that was not exited -> Exited. The time of the start is kept. A second exit is refused, so that the
    /// first one told is the one remembered.
    ///
    /// # Errors
    /// `WrongState`.
    pub fn exited(self, id: &str, exit: Exit) -> Result<Self> {
        match self {
            Self::Exited(_) => Err(self.wrong(id, "running")),
            Self::Running { started_at, .. } => Ok(Self::Exited(Exit { started_at, ..exit })),
            Self::Creating | Self::Created | Self::Starting => Ok(Self::Exited(exit)),
        }
    }

    fn wrong(&self, id: &str, wanted: &'static str) -> Error {
        Error::WrongState { kind: "container", id: id.to_string(), state: self.name(), wanted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [State; 5] {
        let exited = State::Exited(Exit { code: 1, ..Exit::default() });
        [
            State::Creating,
            State::Created,
            State::Starting,
            State::Running { pid: 7, started_at: 5, kill_at: None },
            exited,
        ]
    }

    /// Which of the five states each transition accepts, in the order of `all`.
    #[test]
    fn only_the_drawn_edges_exist() {
        type Edge = fn(State) -> Result<State>;
        let edges: [(&str, Edge, [bool; 5]); 6] = [
            ("created", |s| s.created("c"), [true, false, false, false, false]),
            ("starting", |s| s.starting("c"), [false, true, false, false, false]),
            ("not_started", |s| s.not_started("c"), [false, false, true, false, false]),
            ("running", |s| s.running("c", 1, 2), [false, false, true, false, false]),
            ("stopping", |s| s.stopping("c", 9), [false, false, false, true, false]),
            ("exited", |s| s.exited("c", Exit::default()), [true, true, true, true, false]),
        ];
        for (name, edge, legal) in edges {
            for (state, legal) in all().into_iter().zip(legal) {
                let from = state.name();
                assert_eq!(edge(state).is_ok(), legal, "{name} from {from}");
            }
        }
    }

    #[test]
    fn a_grace_period_can_only_be_shortened() {
        let stopping = |at, then| State::Running { pid: 7, started_at: 5, kill_at: Some(at) }.stopping("c", then);
        assert!(matches!(stopping(50, 90), Ok(State::Running { kill_at: Some(50), .. })));
        assert!(matches!(stopping(50, 20), Ok(State::Running { kill_at: Some(20), .. })));
    }

    #[test]
    fn an_exit_remembers_the_start() {
        let next =
            State::Running { pid: 7, started_at: 5, kill_at: None }.exited("c", Exit { code: 3, ..Exit::default() });
        assert!(matches!(next, Ok(State::Exited(Exit { code: 3, started_at: 5, .. }))));
    }
}
