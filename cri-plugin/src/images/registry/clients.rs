//! HTTP clients, one for each way of speaking TLS, shared by the pulls that run and gone with the last of them: a daemon
//! that pulls nothing keeps no connection and no root certificates in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Identity, Url};

use super::attempts::chain;
use crate::images::hosts::Tls;
use crate::{Error, Result};

const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What makes two clients different.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kind {
    tls: Tls,
    /// The host itself speaks plain http: no certificates are needed.
    plain: bool,
    /// No proxy for this machine itself, whatever the environment says.
    direct: bool,
    dial_timeout: Option<Duration>,
}

/// The clients in use.
#[derive(Debug, Default)]
pub struct Clients {
    shared: Mutex<HashMap<Kind, Weak<Client>>>,
}

impl Kind {
    /// For a URL's host.
    pub fn new(url: &Url, tls: &Tls, dial_timeout: Option<Duration>) -> Self {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        Self { tls: tls.clone(), plain: url.scheme() == "http", direct: loopback || host == "localhost", dial_timeout }
    }
}

impl Clients {
    /// The client of a kind. Reads the system's certificates for the first of https: blocks for some milliseconds.
    ///
    /// # Errors
    /// `Invalid` for certificates that are none.
    pub fn get(&self, kind: &Kind) -> Result<Arc<Client>> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = shared.get(kind).and_then(Weak::upgrade) {
            return Ok(client);
        }
        let client = Arc::new(build(kind)?);
        shared.retain(|_, client| client.strong_count() > 0);
        shared.insert(kind.clone(), Arc::downgrade(&client));
        Ok(client)
    }
}

fn build(kind: &Kind) -> Result<Client> {
    // Fails only if another part of the process installed one before: as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("cleat/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .connect_timeout(kind.dial_timeout.unwrap_or(DIAL_TIMEOUT))
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tls_danger_accept_invalid_certs(kind.tls.skip_verify);
    if kind.direct {
        builder = builder.no_proxy();
    }
    let mut trusted = Vec::new();
    for pem in &kind.tls.ca {
        trusted.extend(Certificate::from_pem_bundle(pem).map_err(|e| Error::invalid("ca", chain(e)))?);
    }
    builder = if kind.plain { builder.tls_certs_only(trusted) } else { builder.tls_certs_merge(trusted) };
    if let Some(pem) = &kind.tls.client {
        builder = builder.identity(Identity::from_pem(pem).map_err(|e| Error::invalid("client", chain(e)))?);
    }
    builder.build().map_err(|e| Error::invalid("TLS settings", chain(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_shared_while_it_is_used() {
        let clients = Clients::default();
        let url = Url::parse("http://127.0.0.1:1/v2").expect("url");
        let kind = Kind::new(&url, &Tls::default(), None);
        assert!(kind.plain && kind.direct);
        let one = clients.get(&kind).expect("client");
        assert!(Arc::ptr_eq(&one, &clients.get(&kind).expect("client")));
        let weak = Arc::downgrade(&one);
        drop(one);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn a_certificate_that_is_none_is_refused() {
        let url = Url::parse("https://r.example/v2").expect("url");
        let tls = Tls { client: Some(b"no pem".to_vec()), ..Tls::default() };
        assert!(Clients::default().get(&Kind::new(&url, &tls, None)).is_err());
    }
}
