//! What running pulls need, so that collecting garbage does not take it away, and what is being taken away, so that a
//! pull does not count on it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::images::digest::Digest;

/// Leases on digests: of blobs, and of chains for snapshots.
#[derive(Debug, Default)]
pub struct Leases {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<Digest, usize>,
    condemned: HashSet<Digest>,
}

/// A pull's leases; dropped, they end.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    digests: Vec<Digest>,
}

/// The right to remove what nobody holds.
#[derive(Debug)]
pub struct Condemned<'a> {
    leases: &'a Leases,
    digest: Digest,
}

impl Leases {
    /// Leases on all of `digests`. Waits while one of them is being removed.
    pub async fn hold(self: &Arc<Self>, digests: Vec<Digest>) -> Lease {
        loop {
            // Registered before looking, so that no notification is missed.
            let freed = self.freed.notified();
            if self.try_hold(&digests) {
                return Lease { leases: Arc::clone(self), digests };
            }
            freed.await;
        }
    }

    fn try_hold(&self, digests: &[Digest]) -> bool {
        let mut state = self.lock();
        if digests.iter().any(|digest| state.condemned.contains(digest)) {
            return false;
        }
        for digest in digests {
            *state.held.entry(digest.clone()).or_default() += 1;
        }
        true
    }

    /// Condemns a digest that nobody holds and nobody else is removing.
    pub fn condemn(&self, digest: &Digest) -> Option<Condemned<'_>> {
        let mut state = self.lock();
        if state.held.contains_key(digest) || !state.condemned.insert(digest.clone()) {
            return None;
        }
        Some(Condemned { leases: self, digest: digest.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.leases.lock();
        for digest in &self.digests {
            if let Some(count) = state.held.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(digest);
                }
            }
        }
    }
}

impl Drop for Condemned<'_> {
    fn drop(&mut self) {
        self.leases.lock().condemned.remove(&self.digest);
        self.leases.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_held_is_not_removed_and_a_removal_is_waited_for() {
        let leases = Arc::new(Leases::default());
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let one = leases.hold(vec![a.clone(), a.clone()]).await;
        let two = leases.hold(vec![a.clone()]).await;
        drop(one);
        assert!(leases.condemn(&a).is_none());
        drop(two);
        let condemned = leases.condemn(&a).expect("free");
        assert!(leases.condemn(&a).is_none(), "twice at once");
        let _other = leases.hold(vec![b]).await;
        let waiting = tokio::spawn({
            let leases = Arc::clone(&leases);
            async move { leases.hold(vec![a]).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(condemned);
        waiting.await.expect("held");
    }
}
