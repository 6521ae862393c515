//! Names in use: who asks for a name that is being made right now joins that call and gets its result.
//!
//! kubelet gives a call up at its own deadline and asks again. A runtime that answers "name is reserved" leaves the pod
//! stuck, so here the second call waits for the first. The work runs in a task of its own: a client that hangs up
//! does not cut it in half. Names of finished objects are not kept here; whoever makes them looks there first.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::{Error, Result};

type Outcome = Option<Result<String, Arc<Error>>>;

/// The calls in flight, by name.
#[derive(Default)]
pub struct Claims(Mutex<HashMap<String, InFlight>>);

struct InFlight {
    /// What was asked for, to tell a retry from a different request under the same name.
    request: Vec<u8>,
    outcome: watch::Receiver<Outcome>,
}

impl Claims {
    /// Runs `make` under `name`, or joins the call that already does, if it was asked the same.
    ///
    /// # Errors
    /// `AlreadyExists` where the call in flight was asked for something else; else the error of `make`, shared by all
    /// who wait.
    pub async fn join<F>(self: &Arc<Self>, name: &str, request: Vec<u8>, make: F) -> Result<String, Arc<Error>>
    where
        F: Future<Output = Result<String>> + Send + 'static,
    {
        let mut outcome = self.claim(name, request, make)?;
        let done = outcome.wait_for(Option::is_some).await;
        match done.map(|value| value.clone()) {
            Ok(Some(result)) => result,
            _ => Err(Arc::new(Error::failed(name, "the call that made it ended without a result"))),
        }
    }

    fn claim<F>(self: &Arc<Self>, name: &str, request: Vec<u8>, make: F) -> Result<watch::Receiver<Outcome>, Arc<Error>>
    where
        F: Future<Output = Result<String>> + Send + 'static,
    {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = claims.get(name) {
            if first.request == request {
                return Ok(first.outcome.clone());
            }
            let id = format!("{name} (another request under this name is in progress)");
            return Err(Arc::new(Error::AlreadyExists { kind: "name", id }));
        }
        let (tell, outcome) = watch::channel(None);
        claims.insert(name.to_string(), InFlight { request, outcome: outcome.clone() });
        let release = Release { claims: self.clone(), name: name.to_string() };
        // The task owns the name: it is free again however the work ends, a panic included.
        tokio::spawn(async move {
            let result = make.await.map_err(Arc::new);
            drop(release);
            tell.send_replace(Some(result));
        });
        Ok(outcome)
    }
}

struct Release {
    claims: Arc<Claims>,
    name: String,
}

impl Drop for Release {
    fn drop(&mut self) {
        self.claims.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_retry_joins_and_the_work_runs_once() {
        let (claims, runs) = (Arc::new(Claims::default()), Arc::new(AtomicU32::new(0)));
        let make = |runs: Arc<AtomicU32>| async move {
            runs.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok("id".to_string())
        };
        let given_up = claims.join("pod", vec![1], make(runs.clone()));
        assert!(tokio::time::timeout(Duration::from_millis(5), given_up).await.is_err());
        let (a, b) = tokio::join!(
            claims.join("pod", vec![1], make(runs.clone())),
            claims.join("pod", vec![1], make(runs.clone()))
        );
        assert_eq!((a.expect("a"), b.expect("b")), ("id".into(), "id".into()));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn another_request_under_the_name_is_refused_until_it_is_free() {
        let claims = Arc::new(Claims::default());
        let slow = claims.claim("pod", vec![1], async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            Err(Error::failed("x", "y"))
        });
        let mut slow = slow.expect("claimed");
        let other = claims.join("pod", vec![2], async { Ok("other".into()) }).await;
        assert!(matches!(other.expect_err("in use").as_ref(), Error::AlreadyExists { .. }));
        slow.wait_for(Option::is_some).await.expect("done");
        assert_eq!(claims.join("pod", vec![2], async { Ok("other".into()) }).await.expect("free"), "other");
    }

    #[tokio::test]
    async fn a_panic_frees_the_name() {
        let claims = Arc::new(Claims::default());
        assert!(claims.join("pod", vec![], async { panic!("on purpose") }).await.is_err());
        assert_eq!(claims.join("pod", vec![], async { Ok("id".into()) }).await.expect("free"), "id");
    }
}
