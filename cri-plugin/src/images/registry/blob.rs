//! A layer on its way from whichever host serves it.
//!
//! A connection that breaks is taken up where it broke, by Range. A host that answers with the whole blob (200) or knows
//! no such range (416) is read from the start again, and what was already passed on is dropped: nothing is passed on
//! twice. Whether the bytes are the digest's is for the reader to find out, who hashes them anyway.

use std::sync::Arc;

use bytes::Bytes;
use reqwest::{Response, StatusCode, header};

use super::attempts::{Attempts, Failure};
use super::exchange::{Ask, Body};
use super::{Endpoint, Session};
use crate::Result;
use crate::images::digest::Digest;
use crate::images::manifest::Descriptor;

/// The state of one download.
#[derive(Debug)]
pub struct Blob {
    session: Arc<Session>,
    digest: Digest,
    size_bytes: u64,
    attempts: Attempts,
    /// Passed on so far.
    offset: u64,
    /// Still to be dropped of what the host sends.
    repeated: u64,
    /// Ranges do not work here.
    whole: bool,
    body: Option<Body>,
}

impl Blob {
    pub(super) fn new(session: Arc<Session>, descriptor: &Descriptor, attempts: Attempts) -> Self {
        Self {
            session,
            digest: descriptor.digest.clone(),
            size_bytes: descriptor.size_bytes,
            attempts,
            offset: 0,
            repeated: 0,
            whole: false,
            body: None,
        }
    }

    /// The next bytes; none after exactly the descriptor's size.
    ///
    /// # Errors
    /// When all hosts have failed, what the last one said.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while self.offset < self.size_bytes {
            let session = Arc::clone(&self.session);
            let step = match self.body.take() {
                Some(body) => self.read(body).await,
                None => match session.next(&mut self.attempts).await {
                    Some(endpoint) => self.open(endpoint).await.map(|()| None),
                    None => {
                        let attempts = std::mem::replace(&mut self.attempts, Attempts::new(Vec::new()));
                        return Err(attempts.error(&self.session.reference.with_digest(&self.digest)));
                    }
                },
            };
            match step {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {}
                Err(failure) => {
                    let host = session.current(&self.attempts);
                    self.attempts.failed(host, failure);
                }
            }
        }
        Ok(None)
    }

    /// Reads from a body that stays open if all is well; none when there was nothing new.
    async fn read(&mut self, mut body: Body) -> Result<Option<Bytes>, Failure> {
        let Some(mut bytes) = body.chunk().await? else {
            return Err(Failure::unavailable(format!("it ended after {} of {} bytes", self.offset, self.size_bytes)));
        };
        let dropped = self.repeated.min(bytes.len() as u64);
        self.repeated -= dropped;
        bytes = bytes.slice(usize::try_from(dropped).unwrap_or(bytes.len())..);
        let left = self.size_bytes - self.offset;
        if bytes.len() as u64 > left {
            return Err(Failure::Corrupt(format!("it is longer than {} bytes", self.size_bytes)));
        }
        self.body = Some(body);
        if bytes.is_empty() {
            return Ok(None);
        }
        self.offset += bytes.len() as u64;
        self.attempts.progressed();
        Ok(Some(bytes))
    }

    async fn open(&mut self, endpoint: &Endpoint) -> Result<(), Failure> {
        let session = Arc::clone(&self.session);
        let from = if self.whole { 0 } else { self.offset };
        let ask = Ask { from, ..Ask::blob(&self.digest) };
        let answer = match session.exchange(endpoint, &ask).await {
            Err(Failure::Range(_)) if from > 0 => {
                self.whole = true;
                session.exchange(endpoint, &Ask::blob(&self.digest)).await?
            }
            other => other?,
        };
        self.repeated = self.offset - self.start(&answer)?;
        self.body = Some(Body::new(answer, session.registry.no_progress));
        Ok(())
    }

    /// At which byte an answer starts.
    fn start(&mut self, answer: &Response) -> Result<u64, Failure> {
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            let range = answer.headers().get(header::CONTENT_RANGE).and_then(|r| r.to_str().ok());
            let start = range.and_then(content_range_start);
            return start.filter(|start| *start == self.offset).ok_or_else(|| {
                self.whole = true;
                Failure::unavailable(format!("asked for bytes from {}, it serves {range:?}", self.offset))
            });
        }
        match answer.content_length() {
            Some(length) if length != self.size_bytes => {
                Err(Failure::Corrupt(format!("it is {length} bytes, not {}", self.size_bytes)))
            }
            _ => Ok(0),
        }
    }
}

/// Of `bytes 5-9/10` the 5.
fn content_range_start(text: &str) -> Option<u64> {
    text.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range_start("bytes 5-9/10"), Some(5));
        assert_eq!(content_range_start("bytes 5-9/*"), Some(5));
        assert_eq!(content_range_start("bytes */10"), None);
        assert_eq!(content_range_start("items 5-9/10"), None);
    }
}
