//! The pod's sandbox, as the Sandbox API drives it: namespaces without a pause container.
//!
//! ```text
//! None --create--> Created --start--> Ready --stop, or pause ends--> Stopped
//!                  Created --stop--> Stopped
//! ```
//! A shim serves one sandbox in its life. Stopping is final and may be repeated; the namespaces are let go with it.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::watch;

mod config;
pub mod create;
mod fresh;
pub mod orphan;
mod pins;
pub mod stop;
mod sys;
mod user;

use pins::Pins;

use crate::{
    error::{Error, Result},
    reaper::{Exit, Process},
};

/// How a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The status of its process; 0 if it had none.
    pub status: u32,
    /// When.
    pub at: SystemTime,
}

/// A sandbox that holds its namespaces.
#[derive(Debug)]
pub struct Held {
    _pins: Pins,
    pause: Option<Process>,
    created_at: SystemTime,
}

/// Where a sandbox is in its life.
#[derive(Debug)]
enum State {
    None,
    Created(Held),
    Ready(Held),
    Stopped { pid: u32, created_at: SystemTime, ended: Ended },
}

/// What is known of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Its pause process, or 0.
    pub pid: u32,
    /// Whether containers can be created in it.
    pub ready: bool,
    /// When it was created.
    pub created_at: SystemTime,
    /// How it ended.
    pub ended: Option<Ended>,
}

/// The place of the one sandbox a shim may have.
#[derive(Debug)]
pub struct Sandbox {
    id: Mutex<Arc<str>>,
    state: Mutex<State>,
    ended: watch::Sender<Option<Ended>>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self { id: Mutex::new("".into()), state: Mutex::new(State::None), ended: watch::Sender::default() }
    }
}

fn not_found(id: &str) -> Error {
    Error::NotFound { what: "sandbox", id: id.into() }
}

impl Held {
    fn pid(&self) -> u32 {
        self.pause.as_ref().map_or(0, |pause| pause.pid().cast_unsigned())
    }

    fn stopped(self, ended: Ended) -> State {
        State::Stopped { pid: self.pid(), created_at: self.created_at, ended }
    }
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::None => "absent",
            Self::Created(_) => "created",
            Self::Ready(_) => "ready",
            Self::Stopped { .. } => "stopped",
        }
    }

    fn create(self, held: Held) -> std::result::Result<Self, Self> {
        match self {
            Self::None => Ok(Self::Created(held)),
            other => Err(other),
        }
    }

    fn start(self) -> std::result::Result<Self, Self> {
        match self {
            Self::Created(held) => Ok(Self::Ready(held)),
            other => Err(other),
        }
    }

    fn stop(self, ended: Ended) -> std::result::Result<Self, Self> {
        match self {
            Self::Created(held) | Self::Ready(held) => Ok(held.stopped(ended)),
            other => Err(other),
        }
    }
}

impl Sandbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(
        &self,
        verb: &'static str,
        transition: impl FnOnce(State) -> std::result::Result<State, State>,
    ) -> Result<()> {
        let mut state = self.state();
        let (next, result) = match transition(mem::replace(&mut *state, State::None)) {
            Ok(next) => (next, Ok(())),
            Err(same) => {
                let error = Error::WrongState { verb, id: self.id().to_string(), state: same.name() };
                (same, Err(error))
            }
        };
        *state = next;
        result
    }

    fn id(&self) -> Arc<str> {
        self.id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses an id that is not this sandbox's.
    pub fn check(&self, id: &str) -> Result<()> {
        if *self.id() == *id && !matches!(*self.state(), State::None) { Ok(()) } else { Err(not_found(id)) }
    }

    /// Makes a created sandbox ready and returns the pid of its process, or 0.
    pub fn start(&self) -> Result<Status> {
        self.step("start", State::start)?;
        self.status()
    }

    /// What is known of it.
    pub fn status(&self) -> Result<Status> {
        match &*self.state() {
            State::None => Err(not_found(&self.id())),
            State::Created(held) => {
                Ok(Status { pid: held.pid(), ready: false, created_at: held.created_at, ended: None })
            }
            State::Ready(held) => Ok(Status { pid: held.pid(), ready: true, created_at: held.created_at, ended: None }),
            State::Stopped { pid, created_at, ended } => {
                Ok(Status { pid: *pid, ready: false, created_at: *created_at, ended: Some(*ended) })
            }
        }
    }

    /// Whether there never was one. Where there was, only ShutdownSandbox ends the shim: the daemon asks for it last.
    pub fn is_none(&self) -> bool {
        matches!(*self.state(), State::None)
    }

    /// Whether it holds namespaces.
    pub fn is_held(&self) -> bool {
        matches!(*self.state(), State::Created(_) | State::Ready(_))
    }

    /// Waits for the end.
    pub async fn wait(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        loop {
            if let Some(ended) = *ended.borrow_and_update() {
                return ended;
            }
            // The sender lives in self.
            let _ = ended.changed().await;
        }
    }

    /// Its pause process, if it has one and holds.
    fn pause(&self) -> Option<Process> {
        match &*self.state() {
            State::Created(held) | State::Ready(held) => held.pause.clone(),
            State::None | State::Stopped { .. } => None,
        }
    }

    /// Ends it, once: lets the namespaces go and tells all who wait.
    fn end(&self, ended: Ended) {
        if self.step("stop", |state| state.stop(ended)).is_ok() {
            self.ended.send_replace(Some(ended));
        }
    }

    fn end_by(&self, exit: Exit) {
        self.end(Ended { status: exit.status, at: exit.at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bundle::Bundle, reaper::Reaper, sandbox::config::Config};

    fn held(dir: &std::path::Path) -> Held {
        // A pod with nothing of its own needs no privileges.
        let wanted = pins::Wanted {
            config: &Config::default(),
            netns: std::path::Path::new(""),
            process: false,
            bundle: &Bundle::new(dir).unwrap(),
        };
        let pins = Pins::make(&wanted, &Reaper::default()).unwrap().pins;
        Held { _pins: pins, pause: None, created_at: SystemTime::now() }
    }

    #[test]
    fn every_edge_is_either_drawn_or_refused() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP every_edge_is_either_drawn_or_refused: not root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let ended = Ended { status: 0, at: SystemTime::UNIX_EPOCH };
        let all = || {
            [
                State::None,
                State::Created(held(dir.path())),
                State::Ready(held(dir.path())),
                held(dir.path()).stopped(ended),
            ]
        };
        type Edge<'a> = (
            &'static str,
            Box<dyn Fn(State) -> std::result::Result<State, State> + 'a>,
            &'static [&'static str],
            &'static str,
        );
        let edges: [Edge<'_>; 3] = [
            ("create", Box::new(|s: State| s.create(held(dir.path()))), &["absent"], "created"),
            ("start", Box::new(State::start), &["created"], "ready"),
            ("stop", Box::new(move |s: State| s.stop(ended)), &["created", "ready"], "stopped"),
        ];
        for (verb, edge, from, to) in edges {
            for state in all() {
                let before = state.name();
                match edge(state) {
                    Ok(next) => {
                        assert!(from.contains(&before), "{verb} was allowed on {before}");
                        assert_eq!(next.name(), to);
                    }
                    Err(same) => {
                        assert!(!from.contains(&before), "{verb} was refused on {before}");
                        assert_eq!(same.name(), before);
                    }
                }
            }
        }
    }
}
