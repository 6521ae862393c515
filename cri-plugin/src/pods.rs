//! The sandboxes and containers of this node, in memory, found by id or by a prefix that is unique.
//!
//! Locks are held for a look only, never across an await. What is being created is kept here (recovery and names want
//! it) but told to nobody: the lists of the service leave it out.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::container::Container;
use crate::id::{ContainerId, SandboxId};
use crate::sandbox::Sandbox;
use crate::{Error, Result};

/// All that lives here.
#[derive(Default)]
pub struct Pods {
    sandboxes: RwLock<BTreeMap<String, Arc<Sandbox>>>,
    containers: RwLock<BTreeMap<String, Arc<Container>>>,
}

type Map<T> = RwLock<BTreeMap<String, Arc<T>>>;

impl Pods {
    /// The sandbox of that id, or of that unique prefix.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a prefix of several.
    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        find(&self.sandboxes, "sandbox", id)
    }

    /// The container of that id, or of that unique prefix.
    ///
    /// # Errors
    /// As `sandbox`.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        find(&self.containers, "container", id)
    }

    /// All sandboxes, by id.
    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        all(&self.sandboxes)
    }

    /// All containers, by id.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        all(&self.containers)
    }

    /// The containers of one sandbox.
    pub fn containers_of(&self, id: &SandboxId) -> Vec<Arc<Container>> {
        self.containers().into_iter().filter(|c| c.fixed.sandbox == *id).collect()
    }

    /// Adds a sandbox.
    pub fn insert_sandbox(&self, sandbox: Arc<Sandbox>) {
        insert(&self.sandboxes, sandbox.id().to_string(), sandbox);
    }

    /// Adds a container.
    pub fn insert_container(&self, container: Arc<Container>) {
        insert(&self.containers, container.id().to_string(), container);
    }

    /// Forgets a sandbox.
    pub fn remove_sandbox(&self, id: &SandboxId) {
        self.sandboxes.write().unwrap_or_else(PoisonError::into_inner).remove(id.as_str());
    }

    /// Forgets a container.
    pub fn remove_container(&self, id: &ContainerId) {
        self.containers.write().unwrap_or_else(PoisonError::into_inner).remove(id.as_str());
    }
}

fn insert<T>(map: &Map<T>, id: String, value: Arc<T>) {
    map.write().unwrap_or_else(PoisonError::into_inner).insert(id, value);
}

fn all<T>(map: &Map<T>) -> Vec<Arc<T>> {
    map.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
}

fn find<T>(map: &Map<T>, kind: &'static str, id: &str) -> Result<Arc<T>> {
    if id.is_empty() {
        return Err(Error::invalid(format!("{kind} id"), "it is empty"));
    }
    let map = map.read().unwrap_or_else(PoisonError::into_inner);
    let mut matches = map.range(id.to_string()..).take_while(|(key, _)| key.starts_with(id));
    match (matches.next(), matches.next()) {
        (Some((key, value)), _) if key == id => Ok(value.clone()),
        (Some((_, value)), None) => Ok(value.clone()),
        (Some(_), Some(_)) => Err(Error::invalid(format!("{kind} id {id:?}"), "it is the beginning of several")),
        (None, _) => Err(Error::not_found(kind, id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unique_prefix_is_enough() {
        let map = Map::<u8>::default();
        for (id, value) in [("aab", 1), ("aac", 2), ("b", 3), ("ba", 4)] {
            insert(&map, id.into(), Arc::new(value));
        }
        assert_eq!(*find(&map, "x", "aab").expect("whole"), 1);
        assert_eq!(*find(&map, "x", "b").expect("whole, though others begin so"), 3);
        assert!(matches!(find(&map, "x", "aa"), Err(Error::Invalid { .. })));
        assert!(matches!(find(&map, "x", "c"), Err(Error::NotFound { .. })));
        assert!(matches!(find(&map, "x", ""), Err(Error::Invalid { .. })));
    }
}
