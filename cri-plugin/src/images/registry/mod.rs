//! A client of the registries that serve one image (OCI distribution-spec, "Pull"): tags to digests, documents, blobs.
//!
//! A [`Session`] is one pull's view: the hosts in order, what they are asked for, and the credentials. Every answer that
//! is named by a digest is checked against it here or, for layers, where the bytes end up. Pushing, deleting and listing
//! tags are absent.

mod attempts;
mod blob;
mod challenge;
mod clients;
mod credentials;
mod exchange;
mod tokens;
mod travel;

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, header};

use super::Auth;
use super::digest::Digest;
use super::hosts::Host;
use super::manifest::{self, Descriptor, MAX_DOCUMENT_BYTES};
use super::reference::{Reference, Target};
use crate::{Error, Result};
use attempts::{Attempts, Failure};
pub use blob::Blob;
use credentials::Credentials;
use exchange::{Ask, Body, Endpoint};

/// What all pulls share: connections and tokens.
#[derive(Debug)]
pub struct Registry {
    clients: Arc<clients::Clients>,
    tokens: tokens::Tokens,
    /// A transfer that moves no byte for so long is given up.
    no_progress: Duration,
}

/// One pull's way to the hosts of a registry.
#[derive(Debug)]
pub struct Session {
    registry: Arc<Registry>,
    reference: Reference,
    endpoints: Vec<Endpoint>,
}

/// A manifest or an index as it was served.
#[derive(Debug, Clone)]
pub struct Served {
    /// Its digest.
    pub digest: Digest,
    /// The Content-Type it came with.
    pub media_type: Option<String>,
    /// The document.
    pub bytes: Vec<u8>,
}

/// What a tag means now.
#[derive(Debug)]
pub enum Resolved {
    /// The registry told the digest alone.
    Digest(Digest),
    /// It would not, so the document was fetched and hashed.
    Document(Served),
}

/// A host is asked either what a tag is, or for content by its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Capability {
    Resolve,
    Pull,
}

impl Registry {
    /// A client with no connections yet.
    pub fn new(no_progress: Duration) -> Arc<Self> {
        Arc::new(Self { clients: Arc::default(), tokens: tokens::Tokens::default(), no_progress })
    }

    /// A session for one reference with the hosts that serve it and the credentials of one call.
    ///
    /// # Errors
    /// `Invalid` for credentials or TLS files that cannot be used.
    pub fn session(self: &Arc<Self>, reference: &Reference, hosts: Vec<Host>, auth: Option<&Auth>) -> Result<Session> {
        let mut endpoints = Vec::with_capacity(hosts.len());
        for host in hosts {
            let credentials = Credentials::for_host(auth, &host, reference.registry())?;
            endpoints.push(Endpoint::new(host, credentials, &self.clients)?);
        }
        Ok(Session { registry: Arc::clone(self), reference: reference.clone(), endpoints })
    }
}

impl Session {
    /// What the reference is now. A digest is asked for too, though its answer is known: whether these credentials may
    /// have it is for the registry to say, also when the content is on the node already.
    ///
    /// # Errors
    /// `NotFound`, `Unauthorized`, `Cri(RegistryUnavailable)`; `Failed` with the registry's words.
    pub async fn resolve(&self) -> Result<Resolved> {
        let capability = match self.reference.target() {
            Target::Tag(_) => Capability::Resolve,
            Target::Digest(_) => Capability::Pull,
        };
        let mut attempts = self.attempts(capability);
        while let Some(endpoint) = self.next(&mut attempts).await {
            match self.resolve_at(endpoint).await {
                Ok(resolved) => return Ok(resolved),
                Err(failure) => attempts.failed(endpoint.name(), failure),
            }
        }
        Err(attempts.error(&self.reference.to_string()))
    }

    /// HEAD first: it is not counted against a registry's pull limit.
    async fn resolve_at(&self, endpoint: &Endpoint) -> Result<Resolved, Failure> {
        let (name, known) = match self.reference.target() {
            Target::Tag(tag) => (tag.as_str(), None),
            Target::Digest(digest) => (digest.as_str(), Some(digest)),
        };
        match self.exchange(endpoint, &Ask::manifest(Method::HEAD, name)).await {
            Ok(answer) => {
                let told = answer.headers().get("docker-content-digest").and_then(|d| d.to_str().ok());
                let told = told.and_then(|digest| digest.parse().ok());
                if let Some(digest) = known.cloned().or(told) {
                    return Ok(Resolved::Digest(digest));
                }
            }
            // Some know no HEAD; and the words of a refusal come only with a body.
            Err(Failure::Refused(_) | Failure::Unauthorized(_) | Failure::NotFound(_)) => {}
            Err(failure) => return Err(failure),
        }
        self.document_at(endpoint, &Ask::manifest(Method::GET, name), known).await.map(Resolved::Document)
    }

    /// A manifest or an index by its digest.
    ///
    /// # Errors
    /// As `resolve`; `Corrupt` when no host serves what the digest says.
    pub async fn manifest(&self, digest: &Digest) -> Result<Served> {
        self.document(&Ask::manifest(Method::GET, digest.as_str()), digest).await
    }

    /// A small blob, an image's config, whole.
    ///
    /// # Errors
    /// As `manifest`.
    pub async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.size_bytes > MAX_DOCUMENT_BYTES {
            let why = format!("its descriptor says {} bytes, more than any config has", descriptor.size_bytes);
            return Err(Error::corrupt(format!("blob {}", descriptor.digest), why));
        }
        self.document(&Ask::blob(&descriptor.digest), &descriptor.digest).await.map(|served| served.bytes)
    }

    /// A layer, to be read chunk by chunk. `skip_hosts` of those that serve content are passed over: each of them served
    /// bytes that were not the digest's.
    pub fn blob(self: &Arc<Self>, descriptor: &Descriptor, skip_hosts: usize) -> Blob {
        let mut attempts = self.attempts(Capability::Pull);
        attempts.skip(skip_hosts);
        Blob::new(Arc::clone(self), descriptor, attempts)
    }

    /// How many hosts serve content.
    pub fn pull_hosts(&self) -> usize {
        self.endpoints.iter().filter(|e| e.can(Capability::Pull)).count()
    }

    async fn document(&self, ask: &Ask, digest: &Digest) -> Result<Served> {
        let mut attempts = self.attempts(Capability::Pull);
        while let Some(endpoint) = self.next(&mut attempts).await {
            match self.document_at(endpoint, ask, Some(digest)).await {
                Ok(served) => return Ok(served),
                Err(failure) => attempts.failed(endpoint.name(), failure),
            }
        }
        Err(attempts.error(&self.reference.with_digest(digest)))
    }

    async fn document_at(&self, endpoint: &Endpoint, ask: &Ask, digest: Option<&Digest>) -> Result<Served, Failure> {
        let answer = self.exchange(endpoint, ask).await?;
        let media_type = answer.headers().get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok()).map(str::to_string);
        let bytes = self.read(answer).await?;
        let actual = Digest::of(&bytes);
        match digest {
            Some(expected) if *expected != actual => {
                Err(Failure::Corrupt(format!("it is {actual}, {} bytes", bytes.len())))
            }
            _ => Ok(Served { digest: actual, media_type, bytes }),
        }
    }

    /// A whole body, no larger than any document is.
    async fn read(&self, answer: reqwest::Response) -> Result<Vec<u8>, Failure> {
        let mut body = Body::new(answer, self.registry.no_progress);
        let mut bytes = Vec::new();
        while let Some(chunk) = body.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
                return Err(Failure::Corrupt(format!("it is larger than {MAX_DOCUMENT_BYTES} bytes")));
            }
        }
        Ok(bytes)
    }

    /// One request to one host: an answer of success, or why not.
    async fn exchange(&self, endpoint: &Endpoint, ask: &Ask) -> Result<reqwest::Response, Failure> {
        let patience = self.registry.no_progress;
        let exchange = endpoint.exchange(ask, &self.reference, &self.registry.tokens);
        let Ok(arrival) = tokio::time::timeout(patience, exchange).await else {
            return Err(Failure::Stalled(format!("no answer within {patience:?}")));
        };
        let arrival = arrival?;
        if arrival.answer.status().is_success() {
            return Ok(arrival.answer);
        }
        Err(exchange::refusal(arrival.answer, arrival.home, "").await)
    }

    /// The name of the host that was asked last, for messages.
    fn current(&self, attempts: &Attempts) -> String {
        attempts.current().and_then(|at| self.endpoints.get(at)).map(Endpoint::name).unwrap_or_default()
    }

    fn attempts(&self, capability: Capability) -> Attempts {
        let able = self.endpoints.iter().enumerate().filter(|(_, e)| e.can(capability)).map(|(at, _)| at);
        Attempts::new(able.collect())
    }

    /// The endpoint to ask next, after the pause that is due.
    async fn next(&self, attempts: &mut Attempts) -> Option<&Endpoint> {
        let (at, pause) = attempts.next()?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        self.endpoints.get(at)
    }
}

impl Endpoint {
    fn can(&self, capability: Capability) -> bool {
        match capability {
            Capability::Resolve => self.host.resolve,
            Capability::Pull => self.host.pull,
        }
    }
}

impl Ask {
    fn manifest(method: Method, name: &str) -> Self {
        let checked = name.starts_with("sha256:");
        Self { method, path: format!("manifests/{name}"), accept: manifest::ACCEPT, from: 0, checked }
    }

    fn blob(digest: &Digest) -> Self {
        Self { method: Method::GET, path: format!("blobs/{digest}"), accept: "*/*", from: 0, checked: true }
    }
}
