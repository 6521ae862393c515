//! Which host is asked next, when, and what it means when all have failed.
//!
//! A mirror gets two tries, the last host five, each after a longer pause with some chance in it, so that a thousand nodes
//! do not come back at the same moment. What cannot change by waiting (not found, refused) goes to the next host at once,
//! and so does a host that has stalled: it has had its time.
//! The last host is the registry itself: its answer is the error; what the mirrors said is logged.

use std::time::Duration;

use http::HeaderMap;

use crate::Error;
use crate::error::Word;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A registry that wants more patience than this is given up; kubelet comes back by itself.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
const TRIES_OF_A_MIRROR: u32 = 2;
const TRIES_OF_THE_LAST: u32 = 5;

/// Why one host did not serve.
#[derive(Debug)]
pub enum Failure {
    /// It does not have it.
    NotFound(String),
    /// 401 or 403 after all credentials were tried.
    Unauthorized(String),
    /// It may serve later: no connection, a reset, 429, 5xx.
    Unavailable {
        /// Its words or the error's.
        why: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It has stopped sending.
    Stalled(String),
    /// Another 4xx.
    Refused(String),
    /// 416: it does not have the range that was asked for.
    Range(String),
    /// What it served is not what the digest says.
    Corrupt(String),
    /// Our own fault: a wrong file, no memory.
    Local(Error),
}

impl Failure {
    /// A failure that may pass.
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self::Unavailable { why: why.into(), retry_after: None }
    }
}

/// The state of asking hosts in turn.
#[derive(Debug)]
pub struct Attempts {
    /// Indices of the hosts that are left; the first is asked.
    hosts: std::collections::VecDeque<usize>,
    tries: u32,
    pause: Duration,
    last: Option<(String, Failure)>,
}

impl Attempts {
    /// Hosts by index, in order.
    pub fn new(hosts: Vec<usize>) -> Self {
        Self { hosts: hosts.into(), tries: 0, pause: Duration::ZERO, last: None }
    }

    /// Passes over the first `count` hosts, but never over the last one.
    pub fn skip(&mut self, count: usize) {
        let count = count.min(self.hosts.len().saturating_sub(1));
        self.hosts.drain(..count);
    }

    /// The host to ask and the pause before; none when all are used up.
    pub fn next(&mut self) -> Option<(usize, Duration)> {
        self.hosts.front().map(|host| (*host, std::mem::take(&mut self.pause)))
    }

    /// The host that is being asked.
    pub fn current(&self) -> Option<usize> {
        self.hosts.front().copied()
    }

    /// The current host moved something: it has all its tries again.
    pub fn progressed(&mut self) {
        self.tries = 0;
    }

    /// Notes a failure of the current host and decides who is next.
    pub fn failed(&mut self, host: String, failure: Failure) {
        self.tries += 1;
        let tries = if self.hosts.len() > 1 { TRIES_OF_A_MIRROR } else { TRIES_OF_THE_LAST };
        let pause = match &failure {
            Failure::Unavailable { retry_after, .. } if self.tries < tries => pause(self.tries, *retry_after, chance()),
            // Others may be quicker; the last one may come round.
            Failure::Stalled(_) if self.hosts.len() == 1 && self.tries < tries => pause(self.tries, None, chance()),
            _ => None,
        };
        match pause {
            Some(pause) => self.pause = pause,
            None => {
                self.hosts.pop_front();
                self.tries = 0;
            }
        }
        tracing::debug!(host, ?failure, retry_in = ?pause, "registry host failed");
        self.last = Some((host, failure));
    }

    /// What the caller is told about `wanted` after the last host failed.
    pub fn error(self, wanted: &str) -> Error {
        match self.last {
            None => Error::invalid("hosts.toml", format!("no host has the capability that {wanted} needs")),
            Some((_, Failure::NotFound(why))) => Error::not_found("image", format!("{wanted} ({why})")),
            Some((host, Failure::Unauthorized(why))) => {
                Error::Unauthorized { peer: host, why: format!("{wanted}: {why}") }
            }
            Some((host, Failure::Unavailable { why, .. } | Failure::Stalled(why))) => {
                Error::Cri { word: Word::RegistryUnavailable, why: format!("{host}, asked for {wanted}: {why}") }
            }
            Some((host, Failure::Refused(why) | Failure::Range(why))) => {
                Error::failed(format!("{host}, asked for {wanted}"), why)
            }
            Some((host, Failure::Corrupt(why))) => Error::corrupt(format!("{wanted} from {host}"), why),
            Some((_, Failure::Local(e))) => e,
        }
    }
}

/// The pause before the try after `tries` failed ones; none if the host wants more patience than there is. `chance` is 0
/// to 255.
fn pause(tries: u32, retry_after: Option<Duration>, chance: u8) -> Option<Duration> {
    let doubled = FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
    let jittered = doubled / 2 + (doubled / 2).mul_f64(f64::from(chance) / 255.0);
    match retry_after {
        Some(wish) if wish > LONGEST_RETRY_AFTER => None,
        Some(wish) => Some(wish + jittered / 4),
        None => Some(jittered),
    }
}

/// One random byte; without one the pause is merely the shortest.
fn chance() -> u8 {
    let mut byte = [0u8; 1];
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::NONBLOCK);
    byte[0]
}

/// `Retry-After` in seconds. Its other form, a date, is rare and not worth a parser of dates.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// A failure in our own doing ends the attempts at once, through `?`.
impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Local(e)
    }
}

/// The chain of causes of a transport error, without the URL: it may hold a signature.
pub fn chain(e: reqwest::Error) -> String {
    let e = e.without_url();
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(&e);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Transport errors may pass.
impl From<reqwest::Error> for Failure {
    fn from(e: reqwest::Error) -> Self {
        Self::unavailable(chain(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(attempts: &mut Attempts) -> Option<usize> {
        attempts.next().map(|(host, _)| host)
    }

    #[test]
    fn mirrors_get_two_tries_and_the_last_host_five() {
        let mut attempts = Attempts::new(vec![3, 7]);
        let mut order = Vec::new();
        while let Some(host) = asked(&mut attempts) {
            order.push(host);
            attempts.failed(host.to_string(), Failure::unavailable("503"));
        }
        assert_eq!(order, [3, 3, 7, 7, 7, 7, 7]);
        let e = attempts.error("x").to_string();
        assert!(e.starts_with("RegistryUnavailable: 7") && e.contains("503"), "{e}");
    }

    #[test]
    fn what_waiting_cannot_change_goes_to_the_next_host() {
        let mut attempts = Attempts::new(vec![0, 1, 2]);
        attempts.failed("a".into(), Failure::NotFound("404".into()));
        assert_eq!(asked(&mut attempts), Some(1));
        attempts.failed("b".into(), Failure::Corrupt("bytes".into()));
        assert_eq!(asked(&mut attempts), Some(2));
        attempts.failed("c".into(), Failure::Unauthorized("denied: no pull".into()));
        assert_eq!(asked(&mut attempts), None);
        let e = attempts.error("r/x:1");
        assert!(matches!(&e, Error::Unauthorized { peer, why } if peer == "c" && why.contains("no pull")), "{e}");
    }

    #[test]
    fn a_stalled_host_is_left_if_there_is_another() {
        let mut attempts = Attempts::new(vec![0, 1]);
        attempts.failed("a".into(), Failure::Stalled("30s".into()));
        assert_eq!(asked(&mut attempts), Some(1));
        attempts.failed("b".into(), Failure::Stalled("30s".into()));
        assert_eq!(asked(&mut attempts), Some(1));
    }

    #[test]
    fn progress_gives_a_host_its_tries_back() {
        let mut attempts = Attempts::new(vec![0]);
        for _ in 0..50 {
            assert!(attempts.next().is_some());
            attempts.failed("a".into(), Failure::unavailable("reset"));
            attempts.progressed();
        }
    }

    #[test]
    fn pauses_grow_with_chance_and_heed_retry_after() {
        assert_eq!(pause(1, None, 255), Some(Duration::from_millis(200)));
        assert_eq!(pause(1, None, 0), Some(Duration::from_millis(100)));
        assert_eq!(pause(3, None, 255), Some(Duration::from_millis(800)));
        assert_eq!(pause(30, None, 255), Some(LONGEST_PAUSE));
        assert!(pause(1, Some(Duration::from_secs(2)), 0).is_some_and(|p| p >= Duration::from_secs(2)));
        assert_eq!(pause(1, Some(Duration::from_secs(3600)), 0), None);
    }
}
