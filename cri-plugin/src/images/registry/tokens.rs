//! Bearer tokens of registries' token servers (distribution-spec's auth, "token" and "oauth"), kept until they expire.
//!
//! Requests that need the same token wait for one fetch. A key holds a fingerprint of the credentials, not the credentials.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use reqwest::{Method, Url, header};
use serde::Deserialize;

use super::attempts::Failure;
use super::clients::{Clients, Kind};
use super::credentials::Credentials;
use super::exchange::{Endpoint, refusal};
use super::travel::{Arrival, Trip};
use crate::images::digest::Digest;

/// A token server that does not say otherwise means this ("expires_in").
const USUAL_LIFE: Duration = Duration::from_secs(60);
const LONGEST_LIFE: Duration = Duration::from_secs(3600);
/// A token is given up so long before it expires.
const MARGIN: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// What a token is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The token server's URL.
    pub realm: String,
    /// Whom the token is for.
    pub service: String,
    /// What it allows.
    pub scope: String,
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// Tokens by what they are for and whose they are.
#[derive(Debug, Default)]
pub struct Tokens {
    slots: Mutex<HashMap<(Wanted, Digest), Slot>>,
}

struct Token {
    value: String,
    until: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token(redacted, until {:?})", self.until)
    }
}

/// Both spellings that token servers use.
#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Tokens {
    /// A token that is not `stale`: the one a host has just refused.
    ///
    /// # Errors
    /// Why the token server gave none.
    pub async fn get(
        &self,
        wanted: &Wanted,
        endpoint: &Endpoint,
        clients: &Arc<Clients>,
        stale: Option<&str>,
    ) -> Result<String, Failure> {
        let slot = self.slot((wanted.clone(), endpoint.credentials.fingerprint()));
        let mut token = slot.lock().await;
        match &*token {
            Some(held) if held.until > Instant::now() && stale != Some(held.value.as_str()) => Ok(held.value.clone()),
            _ => {
                let fresh = fetch(wanted, endpoint, clients).await?;
                Ok(token.insert(fresh).value.clone())
            }
        }
    }

    fn slot(&self, key: (Wanted, Digest)) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // A slot that is locked is being filled.
        slots.retain(|_, slot| slot.try_lock().map_or(true, |t| t.as_ref().is_some_and(|t| t.until > now)));
        Arc::clone(slots.entry(key).or_default())
    }
}

async fn fetch(wanted: &Wanted, endpoint: &Endpoint, clients: &Arc<Clients>) -> Result<Token, Failure> {
    let realm = Url::parse(&wanted.realm)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| Failure::Refused(format!("its token server {:?} is no http URL", wanted.realm)))?;
    let secret = endpoint.credentials != Credentials::Anonymous;
    if secret && endpoint.host.base.scheme() == "https" && realm.scheme() == "http" {
        return Err(Failure::Refused(format!("its token server {} wants credentials over http", wanted.realm)));
    }
    // The client's certificate is for the registry's own host.
    let own = realm.origin() == endpoint.host.base.origin();
    let tls = if own { endpoint.host.tls.clone() } else { endpoint.host.tls.anonymous() };
    let (clients, kind) = (Arc::clone(clients), Kind::new(&realm, &tls, endpoint.host.dial_timeout));
    let home = {
        let clients = Arc::clone(&clients);
        let client = tokio::task::spawn_blocking(move || clients.get(&kind));
        client.await.map_err(|e| Failure::unavailable(e.to_string()))??
    };
    let trip = request(realm, wanted, endpoint, &home, &tls);
    let Arrival { answer, home } = trip.send(&clients).await?;
    if !answer.status().is_success() {
        return Err(refusal(answer, home, "the token server says ").await);
    }
    granted(answer).await
}

/// An identity token is traded by POST, everything else by GET, with the password if there is one.
fn request<'a>(
    realm: Url,
    wanted: &Wanted,
    endpoint: &'a Endpoint,
    home: &'a reqwest::Client,
    away: &'a crate::images::hosts::Tls,
) -> Trip<'a> {
    let mut trip = Trip {
        method: Method::GET,
        url: realm,
        headers: HeaderMap::new(),
        secret_headers: HeaderMap::new(),
        body: None,
        checked: false,
        home,
        away,
        kept: &endpoint.kept,
    };
    let asked = [("service", wanted.service.as_str()), ("scope", wanted.scope.as_str())];
    let asked = asked.into_iter().filter(|(_, value)| !value.is_empty());
    if let Credentials::Identity { token } = &endpoint.credentials {
        // A URL's query and a form are written alike.
        let mut form = Url::clone(&trip.url);
        let grant = [("grant_type", "refresh_token"), ("client_id", "cleat"), ("refresh_token", token.as_str())];
        form.query_pairs_mut().clear().extend_pairs(grant.into_iter().chain(asked));
        trip.method = Method::POST;
        trip.body = form.query().map(str::to_string);
        return trip;
    }
    trip.url.query_pairs_mut().extend_pairs(asked);
    if let Credentials::Basic { user, .. } = &endpoint.credentials {
        trip.url.query_pairs_mut().append_pair("account", user);
    }
    if let Some(basic) = endpoint.credentials.basic_header() {
        trip.secret_headers.insert(header::AUTHORIZATION, basic);
    }
    trip
}

async fn granted(mut answer: reqwest::Response) -> Result<Token, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_ANSWER_BYTES {
            return Err(Failure::Refused("its token server's answer is too large".into()));
        }
    }
    let granted: Granted = serde_json::from_slice(&bytes)
        .map_err(|e| Failure::Refused(format!("its token server's answer is no token: {e}")))?;
    let value = granted.token.filter(|t| !t.is_empty()).or(granted.access_token).filter(|t| !t.is_empty());
    let value = value.ok_or_else(|| Failure::Refused("its token server's answer holds no token".into()))?;
    let life = granted.expires_in.map_or(USUAL_LIFE, Duration::from_secs).clamp(USUAL_LIFE, LONGEST_LIFE);
    Ok(Token { value, until: Instant::now() + life - MARGIN })
}
