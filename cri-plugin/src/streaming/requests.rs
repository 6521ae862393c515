//! What clients may ask of the streaming server: each request waits behind a token that works once, within a minute.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cleat_proto::cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use tokio::time::Instant;

use crate::{Error, Result};

/// Requests that wait at once.
const REQUESTS_MAX: usize = 1000;
/// How long a request waits for its client.
const LIFETIME: Duration = Duration::from_secs(60);
const TOKEN_BYTES: usize = 16;

/// What a URL stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// `/exec/TOKEN`.
    Exec(ExecRequest),
    /// `/attach/TOKEN`.
    Attach(AttachRequest),
    /// `/portforward/TOKEN`.
    PortForward(PortForwardRequest),
}

impl Asked {
    /// The first part of its URL's path.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

/// The requests that wait, by token.
#[derive(Debug, Default)]
pub struct Requests(Mutex<BTreeMap<String, (Instant, Asked)>>);

impl Requests {
    /// Lets a request wait; returns the path of its URL.
    ///
    /// # Errors
    /// `Failed` where a thousand wait already, or where the kernel gives no random bytes.
    pub fn insert(&self, asked: Asked) -> Result<String> {
        let mut bytes = [0; TOKEN_BYTES];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(Error::io("read random bytes for", "a streaming token"))?;
        let token = hex::encode(bytes);
        let path = format!("/{}/{token}", asked.verb());
        let mut waiting = self.waiting();
        if waiting.len() >= REQUESTS_MAX {
            return Err(Error::failed(asked.verb(), "1000 streaming requests wait for their clients already"));
        }
        waiting.insert(token, (Instant::now(), asked));
        Ok(path)
    }

    /// Takes the request behind a URL's path, if it is there: it is gone from then on.
    pub fn take(&self, path: &str) -> Option<Asked> {
        let (verb, token) = path.strip_prefix('/')?.split_once('/')?;
        let mut waiting = self.waiting();
        if waiting.get(token)?.1.verb() != verb {
            return None;
        }
        waiting.remove(token).map(|(_, asked)| asked)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, Asked)>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, (since, _)| since.elapsed() < LIFETIME);
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> Asked {
        Asked::Exec(ExecRequest { container_id: "c".into(), ..ExecRequest::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_works_once_for_its_verb_and_for_a_minute() {
        let requests = Requests::default();
        let path = requests.insert(exec()).expect("insert");
        assert_eq!(path.len(), "/exec/".len() + 32);
        assert_eq!(requests.take(&path.replace("exec", "attach")), None);
        assert_eq!(requests.take(&path[..20]), None);
        assert_eq!(requests.take(&path), Some(exec()));
        assert_eq!(requests.take(&path), None);
        let late = requests.insert(exec()).expect("insert");
        tokio::time::advance(LIFETIME).await;
        assert_eq!(requests.take(&late), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_capped_and_empties_itself() {
        let requests = Requests::default();
        for _ in 0..REQUESTS_MAX {
            requests.insert(exec()).expect("insert");
        }
        assert!(requests.insert(exec()).is_err());
        tokio::time::advance(LIFETIME).await;
        requests.insert(exec()).expect("all others are too old");
        assert_eq!(requests.0.lock().expect("lock").len(), 1);
    }
}
