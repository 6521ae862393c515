//! One pull, from the reference to the record.
//!
//! ```text
//! run
//!  hosts, session              read hosts.toml
//!  session.resolve             what is it now? known already: name it, done
//!  documents                   index -> manifest -> config, each checked
//!  leases.hold                 nothing of it is collected from here on
//!  content.put                 the documents are durable
//!  layer::ensure, all at once  the largest first
//!  accounts::read
//!  store.insert                the image is listed
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::try_join_all;

use super::accounts;
use super::collect::collect;
use super::layer::{Layer, Origin, ensure};
use super::leases::Lease;
use super::node::Node;
use super::store::{Record, is_no_space};
use crate::blocking;
use crate::images::digest::Digest;
use crate::images::hosts::hosts_of;
use crate::images::manifest::{self, Descriptor, Document, Manifest, Platform, Summary};
use crate::images::reference::{Reference, Target};
use crate::images::registry::{Resolved, Served, Session};
use crate::images::{Auth, ImageId};
use crate::{Error, Result};

/// An index may lead to an index, but not for long.
const MAX_INDEXES: usize = 3;

/// What makes two pulls the same. Credentials do: what one may have says nothing about the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The image.
    pub reference: Reference,
    /// Whose credentials.
    pub auth: Option<Auth>,
}

/// An image's documents, all checked.
struct Documents {
    /// Index, manifest and config, by digest.
    bytes: BTreeMap<Digest, Vec<u8>>,
    manifest: Manifest,
    summary: Summary,
}

/// Pulls an image.
///
/// # Errors
/// As `Images::pull`. What a full disk left behind is removed.
pub async fn run(node: Arc<Node>, wanted: Wanted) -> Result<ImageId> {
    let started = Instant::now();
    let pulled = pull(&node, &wanted).await;
    match &pulled {
        Ok(id) => tracing::info!(image = %wanted.reference, %id, took = ?started.elapsed(), "pulled"),
        Err(e) => tracing::warn!(image = %wanted.reference, error = %e, took = ?started.elapsed(), "pull failed"),
    }
    if matches!(&pulled, Err(e) if is_no_space(e)) {
        let node = Arc::clone(&node);
        if let Err(e) = blocking(move || collect(&node, None)).await {
            tracing::warn!(error = %e, "what the failed pull left could not be removed");
        }
    }
    pulled
}

async fn pull(node: &Arc<Node>, wanted: &Wanted) -> Result<ImageId> {
    let session = Arc::new(session(node, wanted).await?);
    let resolved = session.resolve().await?;
    let top = match resolved {
        Resolved::Digest(digest) => match name_known(node, wanted, &digest).await? {
            Some(id) => return Ok(id),
            None => session.manifest(&digest).await?,
        },
        Resolved::Document(served) => served,
    };
    let names = names(&wanted.reference, &top.digest);
    let documents = documents(node, &session, top).await?;
    let layers = layers(&documents);
    let lease = Arc::new(node.leases.hold(digests(&documents, &layers)).await);
    let documents = put(node, documents, &lease).await?;
    let running = node.meters.start(wanted.reference.to_string(), &layers);
    let origin = Origin { session, lease: Arc::clone(&lease) };
    tokio::select! {
        brought = bring(node, &layers, &origin) => brought?,
        never = running.tell() => match never {},
    }
    finish(node, documents, layers, names, lease).await
}

async fn session(node: &Arc<Node>, wanted: &Wanted) -> Result<Session> {
    let (node, wanted) = (Arc::clone(node), wanted.clone());
    blocking(move || {
        let hosts = hosts_of(&node.hosts_dirs, wanted.reference.registry())?;
        node.registry.session(&wanted.reference, hosts, wanted.auth.as_ref())
    })
    .await
}

/// An image that is there by this digest only gets its name.
async fn name_known(node: &Arc<Node>, wanted: &Wanted, digest: &Digest) -> Result<Option<ImageId>> {
    let (node, reference) = (Arc::clone(node), wanted.reference.clone());
    let known = node.store.index().name(&reference.with_digest(digest)).cloned();
    let Some(id) = known else { return Ok(None) };
    blocking(move || Ok(node.store.add_name(&id, &reference.to_string())?.then_some(id))).await
}

/// The tag, if there is one, and the digest of what it led to.
fn names(reference: &Reference, digest: &Digest) -> BTreeSet<String> {
    let tag = matches!(reference.target(), Target::Tag(_)).then(|| reference.to_string());
    tag.into_iter().chain([reference.with_digest(digest)]).collect()
}

async fn documents(node: &Arc<Node>, session: &Session, top: Served) -> Result<Documents> {
    let host = Platform::host();
    let mut bytes = BTreeMap::new();
    let mut document = manifest::parse(&top.bytes, top.media_type.as_deref(), None)?;
    bytes.insert(top.digest, top.bytes);
    for _ in 0..MAX_INDEXES {
        let entries = match document {
            Document::Manifest(manifest) => {
                let config = fetch(node, &manifest.config, Kind::Config, session).await?;
                let summary = manifest::summary(&config.bytes, &manifest, &host)?;
                bytes.insert(config.digest, config.bytes);
                return Ok(Documents { bytes, manifest, summary });
            }
            Document::Index(entries) => entries,
        };
        let entry = manifest::choose(&entries, &host)?;
        let served = fetch(node, entry, Kind::Manifest, session).await?;
        document = manifest::parse(&served.bytes, served.media_type.as_deref(), Some(&entry.media_type))?;
        bytes.insert(served.digest, served.bytes);
    }
    Err(Error::corrupt("index", format!("more than {MAX_INDEXES} indexes lead to one another")))
}

/// Which endpoint serves a document.
#[derive(Clone, Copy)]
enum Kind {
    Manifest,
    Config,
}

/// A document from the store or else from the registry.
async fn fetch(node: &Arc<Node>, descriptor: &Descriptor, kind: Kind, session: &Session) -> Result<Served> {
    let digest = descriptor.digest.clone();
    let stored = {
        let (node, digest) = (Arc::clone(node), digest.clone());
        // A blob that has rotted is fetched and written anew.
        blocking(move || Ok(node.content.read(&digest).ok().flatten())).await?
    };
    let served = match (stored, kind) {
        (Some(bytes), _) => Served { digest, media_type: None, bytes },
        (None, Kind::Manifest) => session.manifest(&digest).await?,
        (None, Kind::Config) => Served { bytes: session.small_blob(descriptor).await?, media_type: None, digest },
    };
    if served.bytes.len() as u64 != descriptor.size_bytes {
        let why = format!("{} bytes, its descriptor says {}", served.bytes.len(), descriptor.size_bytes);
        return Err(Error::corrupt(format!("blob {}", served.digest), why));
    }
    Ok(served)
}

/// The image's layers, the base first, each with the one below.
fn layers(documents: &Documents) -> Vec<Arc<Layer>> {
    let diff_ids = &documents.summary.diff_ids;
    let mut layers: Vec<Arc<Layer>> = Vec::with_capacity(diff_ids.len());
    for ((blob, diff_id), chain_id) in documents.manifest.layers.iter().zip(diff_ids).zip(manifest::chain_ids(diff_ids))
    {
        let below = layers.last().cloned();
        layers.push(Arc::new(Layer { blob: blob.clone(), diff_id: diff_id.clone(), chain_id, below }));
    }
    layers
}

fn digests(documents: &Documents, layers: &[Arc<Layer>]) -> Vec<Digest> {
    let of_layers = layers.iter().flat_map(|layer| [layer.blob.digest.clone(), layer.chain_id.clone()]);
    documents.bytes.keys().cloned().chain(of_layers).collect()
}

async fn put(node: &Arc<Node>, documents: Documents, lease: &Arc<Lease>) -> Result<Documents> {
    let (node, lease) = (Arc::clone(node), Arc::clone(lease));
    blocking(move || {
        let _lease = lease;
        documents.bytes.iter().try_for_each(|(digest, bytes)| node.content.put(digest, bytes))?;
        Ok(documents)
    })
    .await
}

/// All layers at once, the largest first: they wait for their turn in this order.
async fn bring(node: &Arc<Node>, layers: &[Arc<Layer>], origin: &Origin) -> Result<()> {
    let mut by_size: Vec<&Arc<Layer>> = layers.iter().collect();
    by_size.sort_by_key(|layer| std::cmp::Reverse(layer.blob.size_bytes));
    let all = by_size.into_iter().map(async |layer| {
        ensure(Arc::clone(node), Arc::clone(layer), origin.clone()).await?;
        node.meters.of(layer).fill();
        Ok(())
    });
    try_join_all(all).await.map(drop)
}

/// Everything is durable: the image may be listed.
async fn finish(
    node: &Arc<Node>,
    documents: Documents,
    layers: Vec<Arc<Layer>>,
    names: BTreeSet<String>,
    lease: Arc<Lease>,
) -> Result<ImageId> {
    let node = Arc::clone(node);
    blocking(move || {
        let _lease = lease;
        let chain: Vec<Digest> = layers.iter().map(|layer| layer.chain_id.clone()).collect();
        let accounts = accounts::read(&node, chain.last())?;
        let of_layers = layers.iter().map(|layer| (layer.blob.digest.clone(), layer.blob.size_bytes));
        let mut blobs: BTreeMap<Digest, u64> = of_layers.collect();
        blobs.extend(documents.bytes.iter().map(|(digest, bytes)| (digest.clone(), bytes.len() as u64)));
        let id = ImageId::new(documents.manifest.config.digest);
        let Summary { user, labels, .. } = documents.summary;
        node.store.insert(Record { id: id.clone(), chain, blobs, user, labels }, &accounts, &names)?;
        // While the files are still in the cache.
        if let Err(e) = node.usage() {
            tracing::warn!(error = %e, "the image's size on disk is unknown");
        }
        Ok(id)
    })
    .await
}
