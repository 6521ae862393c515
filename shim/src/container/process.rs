//! One process of a container, its init or an exec: its life, its stdio, and who waits for its end.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, watch};

use super::life::{Life, Refused};
use crate::{
    error::{Error, Result},
    io::{Io, Stdio},
    reaper::Exit,
};

/// What those who wait can learn.
#[derive(Debug, Clone, Copy, Default)]
struct End {
    exit: Option<Exit>,
    drained: bool,
}

/// What was asked of an exec's streams before it had any.
#[derive(Debug, Default)]
struct Early {
    closed: bool,
    size: Option<(u32, u32)>,
}

/// A process the shim is the parent of, or is going to be.
#[derive(Debug)]
pub struct Process {
    id: String,
    stdio: Stdio,
    life: Mutex<Life>,
    io: Mutex<Option<Arc<Io>>>,
    early: Mutex<Early>,
    /// Held by each verb that changes the process, so that they follow one another; and by the one that tells its end, so
    /// that this comes after a start in flight.
    verbs: AsyncMutex<()>,
    end: watch::Sender<End>,
}

impl Process {
    /// A process in its first state. `id` is what errors call it.
    pub fn new(id: &str, stdio: Stdio, life: Life, io: Option<Io>) -> Self {
        Self {
            id: id.into(),
            stdio,
            life: Mutex::new(life),
            io: Mutex::new(io.map(Into::into)),
            early: Mutex::default(),
            verbs: AsyncMutex::default(),
            end: watch::Sender::default(),
        }
    }

    /// What errors call it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its streams go, as it was asked for.
    pub fn stdio(&self) -> &Stdio {
        &self.stdio
    }

    /// Its life now. Not to be held across an await.
    pub fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one step in its life, or says why `verb` is wrong now.
    pub fn step(
        &self,
        verb: &'static str,
        transition: impl FnOnce(Life) -> std::result::Result<Life, Refused>,
    ) -> Result<()> {
        let mut life = self.life();
        match transition(mem::replace(&mut *life, Life::Deleted)) {
            Ok(next) => {
                *life = next;
                Ok(())
            }
            Err(Refused(same)) => {
                *life = same;
                Err(life.wrong(verb, &self.id))
            }
        }
    }

    /// Waits for the verbs before this one.
    pub async fn claim(&self) -> AsyncMutexGuard<'_, ()> {
        self.verbs.lock().await
    }

    /// Its stdio, while it has one.
    pub fn io(&self) -> Option<Arc<Io>> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives an exec that starts its stdio; with none, lets go of it.
    pub fn set_io(&self, io: Option<Io>) {
        *self.io.lock().unwrap_or_else(PoisonError::into_inner) = io.map(Into::into);
    }

    fn early(&self) -> MutexGuard<'_, Early> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes its stdin; that of an exec that was not started yet, as soon as it is.
    pub fn close_stdin(&self) {
        match self.io() {
            Some(io) => io.close_stdin(),
            None => self.early().closed = true,
        }
    }

    /// Sizes its terminal; that of an exec that was not started yet, as soon as it is.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        match self.io() {
            Some(io) => io.resize(width, height)?,
            None => self.early().size = Some((width, height)),
        }
        Ok(())
    }

    /// Does what was asked of the streams before they were there. A size nobody can set is no reason to fail a start.
    pub fn catch_up(&self) {
        let Some(io) = self.io() else { return };
        let early = mem::take(&mut *self.early());
        if let Some((width, height)) = early.size {
            let _ = io.resize(width, height);
        }
        if early.closed {
            io.close_stdin();
        }
    }

    /// Sends a signal. A process that is over cannot be found.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let handle = match &*self.life() {
            Life::Added => return Err(Life::Added.wrong("signal", &self.id)),
            life => life.handle().cloned(),
        };
        match handle.map(|h| h.signal(signal)).transpose()? {
            Some(true) => Ok(()),
            Some(false) | None => Err(Error::NotFound { what: "process already finished:", id: self.id.clone() }),
        }
    }

    /// Records the end and tells all who wait.
    pub fn ended(&self, exit: Exit) -> Result<()> {
        self.step("end", |life| life.end(exit))?;
        self.end.send_modify(|end| end.exit = Some(exit));
        Ok(())
    }

    /// Lets the rest of the output through, at most for `limit`, and gives up the streams.
    pub async fn drain(&self, limit: Duration) {
        if let Some(io) = self.io() {
            io.drain(limit).await;
        }
        self.set_io(None);
        self.end.send_modify(|end| end.drained = true);
    }

    /// Waits for the end.
    pub async fn wait(&self) -> Exit {
        let mut end = self.end.subscribe();
        loop {
            if let Some(exit) = end.borrow_and_update().exit {
                return exit;
            }
            // The sender lives in self.
            let _ = end.changed().await;
        }
    }

    /// Waits until the output has gone through or was given up.
    pub async fn drained(&self) {
        let _ = self.end.subscribe().wait_for(|end| end.drained).await;
    }
}
