//! Work that many wait for and that is done once.
//!
//! A flight is an owned task. Whoever wants the same joins it; when the last one who waits is gone, it is aborted. What
//! must not be cut in half inside of it runs on a blocking thread, which an abort does not touch.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::{Error, Result};

type Outcome<T> = Option<Result<T, Arc<Error>>>;

/// Flights under way, by what they do.
#[derive(Debug)]
pub struct Flights<K, T> {
    running: Mutex<HashMap<K, Weak<Flight<T>>>>,
}

/// One piece of work; held by those who wait for it.
#[derive(Debug)]
struct Flight<T> {
    outcome: watch::Receiver<Outcome<T>>,
    task: AbortHandle,
}

/// What came of a flight.
#[derive(Debug)]
pub struct Landed<T> {
    /// Its result.
    pub result: Result<T>,
    /// Whether this caller started it: the error of another's flight may not be one's own.
    pub own: bool,
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

impl<K: Eq + Hash + Clone, T: Clone + Send + Sync + 'static> Flights<K, T> {
    /// Waits for the flight of this key, starting it with `work` if there is none.
    pub async fn join<F>(&self, key: &K, work: impl FnOnce() -> F) -> Landed<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (flight, own) = self.board(key, work);
        let mut outcome = flight.outcome.clone();
        let landed = outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        let result = match landed {
            Ok(Some(Ok(value))) => Ok(value),
            Ok(Some(Err(e))) => Err(Arc::try_unwrap(e).unwrap_or_else(|e| copy(&e))),
            Ok(None) | Err(_) => Err(Error::failed("image task", "it ended without a result: it must have panicked")),
        };
        Landed { result, own }
    }

    fn board<F>(&self, key: &K, work: impl FnOnce() -> F) -> (Arc<Flight<T>>, bool)
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = running.get(key).and_then(Weak::upgrade)
            && flight.outcome.borrow().is_none()
            && flight.outcome.has_changed().is_ok()
        {
            return (flight, false);
        }
        let (sender, outcome) = watch::channel(None);
        let work = work();
        let task = tokio::spawn(async move {
            let result = work.await.map_err(Arc::new);
            sender.send_replace(Some(result));
        });
        let flight = Arc::new(Flight { outcome, task: task.abort_handle() });
        running.retain(|_, flight| flight.strong_count() > 0);
        running.insert(key.clone(), Arc::downgrade(&flight));
        (flight, true)
    }
}

/// The same error for one more caller.
fn copy(e: &Error) -> Error {
    match e {
        Error::NotFound { kind, id } => Error::NotFound { kind, id: id.clone() },
        Error::AlreadyExists { kind, id } => Error::AlreadyExists { kind, id: id.clone() },
        Error::Invalid { what, why } => Error::invalid(what, why),
        Error::WrongState { kind, id, state, wanted } => Error::WrongState { kind, id: id.clone(), state, wanted },
        Error::Unreachable { peer, why } => Error::Unreachable { peer: peer.clone(), why: why.clone() },
        Error::TimedOut { what, after } => Error::TimedOut { what: what.clone(), after: *after },
        Error::Unsupported { what } => Error::Unsupported { what: what.clone() },
        Error::Unauthorized { peer, why } => Error::Unauthorized { peer: peer.clone(), why: why.clone() },
        Error::Failed { what, why } => Error::failed(what, why),
        Error::Cri { word, why } => Error::Cri { word: *word, why: why.clone() },
        Error::Io { op, path, source } => {
            let source = match source.raw_os_error() {
                Some(number) => std::io::Error::from_raw_os_error(number),
                None => std::io::Error::new(source.kind(), source.to_string()),
            };
            Error::Io { op, path: path.clone(), source }
        }
        Error::Corrupt { what, why } => Error::corrupt(what, why),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    async fn pause() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    #[tokio::test]
    async fn fifty_callers_one_flight_and_one_leaves() {
        let flights = Arc::new(Flights::<u32, u32>::default());
        let runs = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..50)
            .map(|_| {
                let (flights, runs) = (Arc::clone(&flights), Arc::clone(&runs));
                let work = move || async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    pause().await;
                    Ok(7)
                };
                tokio::spawn(async move { flights.join(&1, work).await })
            })
            .collect();
        tokio::task::yield_now().await;
        callers[0].abort();
        let mut landed = 0;
        for caller in callers {
            landed += caller.await.map_or(0, |l| l.result.expect("value"));
        }
        assert_eq!((landed, runs.load(Ordering::SeqCst)), (49 * 7, 1));
    }

    #[tokio::test]
    async fn the_last_to_leave_ends_it_and_an_error_is_not_kept() {
        let flights = Flights::<u32, u32>::default();
        let (alive, watched) = (Arc::new(()), Arc::new(AtomicUsize::new(0)));
        let weak = Arc::downgrade(&alive);
        let endless = move || async move {
            let _alive = alive;
            std::future::pending::<()>().await;
            Ok(0)
        };
        assert!(tokio::time::timeout(Duration::from_millis(20), flights.join(&1, endless)).await.is_err());
        pause().await;
        assert!(weak.upgrade().is_none(), "aborted");
        let fail = || async { Err::<u32, _>(Error::not_found("image", "x")) };
        assert!(flights.join(&1, fail).await.result.is_err());
        let count = Arc::clone(&watched);
        let work = move || async move {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(1)
        };
        assert!(flights.join(&1, work).await.own);
        assert_eq!(watched.load(Ordering::SeqCst), 1);
    }
}
