//! The one object of a serving shim: what every request needs.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{
    cgroup::{oom::Watcher, own::Own},
    container::Container,
    error::{Error, Result},
    events::Events,
    options::Options,
    reaper::Reaper,
    report::Report,
    sandbox::Sandbox,
};

/// A container's place in the table.
#[derive(Debug)]
enum Slot {
    /// Its Create is under way; the id is taken.
    Creating,
    /// It exists.
    Ready(Arc<Container>),
}

/// Where a shim is.
#[derive(Debug)]
pub struct Place {
    /// The containerd namespace of everything in here.
    pub namespace: String,
    /// A short directory of the shim's, root's own: console sockets live there.
    pub dir: PathBuf,
    /// Its own cgroup, if it has one.
    pub own: Option<Arc<Own>>,
    /// Where it reports what is no request's error.
    pub report: Report,
}

/// A serving shim.
#[derive(Debug)]
pub struct Shim {
    /// Where it is.
    pub place: Place,
    /// The options the shim was started with, for containers that come without any.
    pub options: Options,
    /// The waiter for all children.
    pub reaper: Reaper,
    /// The publisher.
    pub events: Events,
    /// The watcher of memory kills.
    pub oom: Watcher,
    /// The pod's sandbox, if the daemon makes one.
    pub sandbox: Sandbox,
    /// Notified once the shim is to end.
    pub stop: Notify,
    containers: Mutex<HashMap<String, Slot>>,
}

/// A taken id: given back unless the container gets ready.
#[derive(Debug)]
pub struct Reservation {
    shim: Arc<Shim>,
    id: String,
}

impl Reservation {
    /// Puts the container in the place that was kept for it.
    pub fn fill(self, container: Arc<Container>) {
        self.shim.slots().insert(self.id.clone(), Slot::Ready(container));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut slots = self.shim.slots();
        if matches!(slots.get(&self.id), Some(Slot::Creating)) {
            slots.remove(&self.id);
        }
    }
}

impl Shim {
    /// A shim without containers.
    pub fn new(place: Place, options: Options, events: Events) -> Arc<Self> {
        Arc::new(Self {
            place,
            options,
            reaper: Reaper::default(),
            events,
            oom: Watcher::default(),
            sandbox: Sandbox::default(),
            stop: Notify::new(),
            containers: Mutex::default(),
        })
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an id for a container to be.
    pub fn reserve(self: &Arc<Self>, id: &str) -> Result<Reservation> {
        let mut slots = self.slots();
        if slots.contains_key(id) {
            return Err(Error::AlreadyExists { what: "container", id: id.into() });
        }
        slots.insert(id.into(), Slot::Creating);
        Ok(Reservation { shim: self.clone(), id: id.into() })
    }

    /// A container by its id.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        match self.slots().get(id) {
            Some(Slot::Ready(container)) => Ok(container.clone()),
            _ => Err(Error::NotFound { what: "container", id: id.into() }),
        }
    }

    /// All containers that got ready.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        let ready = |slot: &Slot| if let Slot::Ready(container) = slot { Some(container.clone()) } else { None };
        self.slots().values().filter_map(ready).collect()
    }

    /// Forgets a container.
    pub fn forget(&self, id: &str) {
        self.slots().remove(id);
    }

    /// Whether no container and no sandbox is here and none is on its way.
    pub fn is_idle(&self) -> bool {
        self.slots().is_empty() && !self.sandbox.is_held()
    }
}
