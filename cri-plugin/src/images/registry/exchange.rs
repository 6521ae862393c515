//! One request to one host with all that belongs to it: the URL, the host's headers, and credentials in the form the host
//! asks for. A token that is refused is renewed once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use reqwest::{Client, Method, Response, StatusCode, Url, header};
use serde::Deserialize;
use tokio::time::Instant;

use super::attempts::{self, Failure};
use super::challenge::{self, Challenge};
use super::clients::{Clients, Kind};
use super::credentials::{Credentials, secret};
use super::tokens::{Tokens, Wanted};
use super::travel::{Arrival, Trip};
use crate::Result;
use crate::images::hosts::Host;
use crate::images::reference::Reference;

const MAX_WORDS_BYTES: usize = 4 << 10;
/// A body that moves fewer bytes than this within the patience is a stalled one.
const LEAST_PROGRESS_BYTES: u64 = 1 << 10;

/// A host with a client that speaks to it.
#[derive(Debug)]
pub struct Endpoint {
    /// The host.
    pub host: Host,
    /// What is shown to it.
    pub credentials: Credentials,
    client: Arc<Client>,
    clients: Arc<Clients>,
    /// What it asked for last: answered before it asks again.
    challenge: Mutex<Option<Challenge>>,
    /// Clients for the hosts it redirects to.
    pub(super) kept: Mutex<Vec<Arc<Client>>>,
}

/// What is asked for.
#[derive(Debug)]
pub struct Ask {
    /// HEAD or GET.
    pub method: Method,
    /// Below the repository: `blobs/sha256:...`.
    pub path: String,
    /// What may come back.
    pub accept: &'static str,
    /// The first byte that is wanted.
    pub from: u64,
    /// Whether the answer is checked against a digest.
    pub checked: bool,
}

/// What is sent as `Authorization`.
enum Shown {
    Nothing,
    /// A token, which may be renewed.
    Token(String),
    Fixed(HeaderValue),
}

impl Endpoint {
    /// Blocks when the client has to be made.
    ///
    /// # Errors
    /// `Invalid` for TLS files that are none.
    pub fn new(host: Host, credentials: Credentials, clients: &Arc<Clients>) -> Result<Self> {
        let client = clients.get(&Kind::new(&host.base, &host.tls, host.dial_timeout))?;
        Ok(Self {
            host,
            credentials,
            client,
            clients: Arc::clone(clients),
            challenge: Mutex::new(None),
            kept: Mutex::default(),
        })
    }

    /// For messages.
    pub fn name(&self) -> String {
        self.host.authority()
    }

    /// Asks, and answers what the host wants to see first.
    ///
    /// # Errors
    /// Transport failures, and what the token server says. The answer may still be a refusal.
    pub async fn exchange(&self, ask: &Ask, reference: &Reference, tokens: &Tokens) -> Result<Arrival, Failure> {
        let url = self.url(ask, reference)?;
        let known = self.known();
        let shown = self.shown(known.as_ref(), reference, tokens, None).await?;
        let arrival = self.send(ask, url.clone(), &shown).await?;
        if arrival.answer.status() != StatusCode::UNAUTHORIZED || !arrival.home {
            return Ok(arrival);
        }
        let values = arrival.answer.headers().get_all(header::WWW_AUTHENTICATE);
        let Some(asked) = challenge::best(values.iter().filter_map(|v| v.to_str().ok())) else { return Ok(arrival) };
        let stale = match &shown {
            Shown::Token(token) => Some(token.as_str()),
            Shown::Nothing => None,
            // These very credentials were refused.
            Shown::Fixed(_) => return Ok(arrival),
        };
        let shown = self.shown(Some(&asked), reference, tokens, stale).await?;
        *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        match shown {
            Shown::Nothing => Ok(arrival),
            shown => self.send(ask, url, &shown).await,
        }
    }

    fn known(&self) -> Option<Challenge> {
        self.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What answers a challenge, `stale` being a token that was just refused.
    async fn shown(
        &self,
        asked: Option<&Challenge>,
        reference: &Reference,
        tokens: &Tokens,
        stale: Option<&str>,
    ) -> Result<Shown, Failure> {
        let fixed = |value: Option<HeaderValue>| value.map_or(Shown::Nothing, Shown::Fixed);
        if self.host.headers.contains_key(header::AUTHORIZATION) {
            return Ok(Shown::Nothing);
        }
        if let Credentials::Bearer { token } = &self.credentials {
            return Ok(fixed(secret(&format!("Bearer {token}"))));
        }
        match asked {
            None => Ok(Shown::Nothing),
            Some(Challenge::Basic) => Ok(fixed(self.credentials.basic_header())),
            Some(Challenge::Bearer { realm, service, scope }) => {
                let scope = match scope.as_str() {
                    "" => format!("repository:{}:pull", reference.repository()),
                    scope => scope.to_string(),
                };
                let wanted = Wanted { realm: realm.clone(), service: service.clone(), scope };
                tokens.get(&wanted, self, &self.clients, stale).await.map(Shown::Token)
            }
        }
    }

    async fn send(&self, ask: &Ask, url: Url, shown: &Shown) -> Result<Arrival, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(ask.accept));
        if ask.from > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", ask.from));
            headers.insert(header::RANGE, range.map_err(|e| Failure::Refused(e.to_string()))?);
        }
        let mut secret_headers = self.host.headers.clone();
        let authorization = match shown {
            Shown::Nothing => None,
            Shown::Fixed(value) => Some(value.clone()),
            Shown::Token(token) => secret(&format!("Bearer {token}")),
        };
        authorization.and_then(|value| secret_headers.insert(header::AUTHORIZATION, value));
        let away = self.host.tls.anonymous();
        let (method, checked) = (ask.method.clone(), ask.checked);
        let trip = Trip {
            method,
            url,
            headers,
            secret_headers,
            body: None,
            checked,
            home: &self.client,
            away: &away,
            kept: &self.kept,
        };
        trip.send(&self.clients).await
    }

    fn url(&self, ask: &Ask, reference: &Reference) -> Result<Url, Failure> {
        let mut url = self.host.base.clone();
        let root = url.path().trim_end_matches('/').to_string();
        url.set_path(&format!("{root}/{}/{}", reference.repository(), ask.path));
        if let Some(namespace) = &self.host.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }
}

/// A body read with patience. Time that passes between reads is ours (a slow disk) and does not count.
#[derive(Debug)]
pub struct Body {
    answer: Response,
    patience: Duration,
    waited: Duration,
    moved: u64,
}

impl Body {
    /// The body of an answer.
    pub fn new(answer: Response, patience: Duration) -> Self {
        Self { answer, patience, waited: Duration::ZERO, moved: 0 }
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// A failed connection, or one that has stalled.
    pub async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, Failure> {
        let left = self.patience.saturating_sub(self.waited);
        let started = Instant::now();
        let Ok(chunk) = tokio::time::timeout(left, self.answer.chunk()).await else {
            return Err(Failure::Stalled(format!("the transfer stalled for {:?}", self.patience)));
        };
        let chunk = chunk?;
        self.waited += started.elapsed();
        self.moved += chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if self.moved >= LEAST_PROGRESS_BYTES {
            (self.waited, self.moved) = (Duration::ZERO, 0);
        }
        Ok(chunk)
    }
}

/// A refusal with the host's own words; those of a host that a redirect led to stay with us, they may be anybody's.
pub async fn refusal(answer: Response, home: bool, who: &str) -> Failure {
    let status = answer.status();
    let retry_after = attempts::retry_after(answer.headers());
    let words = if home { words(answer).await } else { "after a redirect".to_string() };
    let why = if words.is_empty() { format!("{who}{status}") } else { format!("{who}{status}: {words}") };
    match status {
        StatusCode::NOT_FOUND => Failure::NotFound(why),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Unauthorized(why),
        StatusCode::RANGE_NOT_SATISFIABLE => Failure::Range(why),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Failure::Unavailable { why, retry_after },
        status if status.is_server_error() => Failure::Unavailable { why, retry_after },
        _ => Failure::Refused(why),
    }
}

/// The distribution-spec's error document.
#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a refusal says: the messages of an error document, or the first line of anything else.
async fn words(mut answer: Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(Duration::from_secs(5), answer.chunk()).await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_WORDS_BYTES {
            break;
        }
    }
    bytes.truncate(MAX_WORDS_BYTES);
    let said = match serde_json::from_slice::<Errors>(&bytes) {
        Ok(document) => {
            let each = document.errors.into_iter().map(|e| format!("{}: {}", e.code.to_lowercase(), e.message));
            each.collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_string(),
    };
    said.chars().filter(|c| !c.is_control()).take(300).collect()
}
