//! One request along its redirects.
//!
//! What is secret (credentials, the headers of hosts.toml, the client's certificate) goes to the host it is meant for
//! and never again once a redirect has led elsewhere (CVE-2020-15157), to http above all. What is not checked against a
//! digest is not taken from a host that https sent to http.

use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use reqwest::{Client, Method, Response, Url, header};

use super::attempts::Failure;
use super::clients::{Clients, Kind};
use crate::images::hosts::{Tls, authority};

const MAX_REDIRECTS: usize = 10;

/// A request.
#[derive(Debug)]
pub struct Trip<'a> {
    /// The method, kept along the way.
    pub method: Method,
    /// Where it starts.
    pub url: Url,
    /// Sent everywhere.
    pub headers: HeaderMap,
    /// Sent to where it starts.
    pub secret_headers: HeaderMap,
    /// A form, for POST; secret.
    pub body: Option<String>,
    /// Whether the answer is checked against a digest.
    pub checked: bool,
    /// The client for where it starts.
    pub home: &'a Client,
    /// How TLS is spoken elsewhere.
    pub away: &'a Tls,
    /// Clients for elsewhere that were needed before: as long as they are kept, `Clients` need not make them anew.
    pub kept: &'a Mutex<Vec<Arc<Client>>>,
}

/// What came back.
#[derive(Debug)]
pub struct Arrival {
    /// The answer, no redirect.
    pub answer: Response,
    /// Whether it is the first host's: only its challenges are answered, only its words are passed on.
    pub home: bool,
}

impl Trip<'_> {
    /// Sends the request.
    ///
    /// # Errors
    /// Transport failures; `Refused` for a redirect that must not be followed.
    pub async fn send(&self, clients: &Arc<Clients>) -> Result<Arrival, Failure> {
        let mut url = self.url.clone();
        let mut home = true;
        for _ in 0..=MAX_REDIRECTS {
            let answer = if home { self.at_home(&url).await? } else { self.elsewhere(clients, &url).await? };
            let Some(next) = redirect(&answer, &url)? else { return Ok(Arrival { answer, home }) };
            if url.scheme() == "https" && next.scheme() == "http" && !self.checked {
                return Err(Failure::Refused(format!("it redirects from https to http://{}", authority(&next))));
            }
            home &= next.origin() == self.url.origin();
            if !home && self.body.is_some() {
                return Err(Failure::Refused(format!("it redirects credentials to {}", authority(&next))));
            }
            url = next;
        }
        Err(Failure::Refused(format!("more than {MAX_REDIRECTS} redirects")))
    }

    async fn at_home(&self, url: &Url) -> Result<Response, Failure> {
        let mut request = self.home.request(self.method.clone(), url.clone()).headers(self.headers.clone());
        request = request.headers(self.secret_headers.clone());
        if let Some(body) = &self.body {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body.clone());
        }
        Ok(request.send().await?)
    }

    async fn elsewhere(&self, clients: &Arc<Clients>, url: &Url) -> Result<Response, Failure> {
        let kind = Kind::new(url, self.away, None);
        let clients = Arc::clone(clients);
        let client = tokio::task::spawn_blocking(move || clients.get(&kind));
        let client = client.await.map_err(|e| Failure::unavailable(e.to_string()))??;
        self.keep(&client);
        Ok(client.request(self.method.clone(), url.clone()).headers(self.headers.clone()).send().await?)
    }

    fn keep(&self, client: &Arc<Client>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.iter().any(|known| Arc::ptr_eq(known, client)) {
            kept.push(Arc::clone(client));
        }
    }
}

fn redirect(answer: &Response, from: &Url) -> Result<Option<Url>, Failure> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let to = answer.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
    let to = to.ok_or_else(|| Failure::Refused("a redirect to nowhere".into()))?;
    match from.join(to) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Some(url)),
        _ => Err(Failure::Refused("a redirect to what is no http URL".into())),
    }
}
