//! Manifests, indexes and the few words of an image's config that pulling needs. Pure: foreign bytes in, checked types or
//! an error out.
//!
//! A document is what its media type says and nothing else: one that could be read two ways is refused (CVE-2021-41190).
//! JSON nests at most 128 deep (serde_json's own limit). Docker's schema 1 is absent: registries stopped serving it.

mod config;
mod platform;

use serde::Deserialize;

use super::digest::Digest;
use crate::{Error, Result};
pub use config::{Summary, chain_ids, summary};
pub use platform::Platform;

/// No manifest, index or config is larger.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Overlay takes at most 500 lower directories in one mount.
const MAX_LAYERS: usize = 500;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// What is asked for, the whole `Accept` header.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A pointer to content.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its exact size.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// In an index, for whom.
    pub platform: Option<Platform>,
    /// In an index: buildkit marks attestations here.
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// A parsed document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One manifest for each platform.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

/// One image: its config and its layers, the base first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The config; its digest is the image's id.
    pub config: Descriptor,
    /// The layers.
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Parses a manifest or an index. `served` is the Content-Type it came with; `expected` is the media type of the
/// descriptor that led to it, if one did.
///
/// # Errors
/// `Corrupt` or `Unsupported`, in words that name the media types.
pub fn parse(bytes: &[u8], served: Option<&str>, expected: Option<&str>) -> Result<Document> {
    let corrupt = |why: String| Error::corrupt("manifest", why);
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(corrupt(format!("larger than {MAX_DOCUMENT_BYTES} bytes")));
    }
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| schema_1(served).unwrap_or(corrupt(e.to_string())))?;
    if raw.schema_version == 1 || raw.fs_layers.is_some() {
        return Err(Error::Unsupported { what: "Docker's image manifest schema 1: push the image again".into() });
    }
    let kind = media_type(served, raw.media_type.as_deref(), expected)?;
    match (kind, raw) {
        (_, Raw { schema_version, .. }) if schema_version != 2 => {
            Err(corrupt(format!("schemaVersion is {schema_version}, not 2")))
        }
        (OCI_INDEX | DOCKER_LIST, Raw { manifests: Some(manifests), config: None, layers: None, .. }) => {
            Ok(Document::Index(manifests))
        }
        (OCI_MANIFEST | DOCKER_MANIFEST, Raw { manifests: None, config: Some(config), layers: Some(layers), .. }) => {
            check_manifest(Manifest { config, layers }).map(Document::Manifest)
        }
        _ => Err(corrupt(format!("its fields are not those of {kind}"))),
    }
}

fn schema_1(served: Option<&str>) -> Option<Error> {
    let old = served?.contains("manifest.v1+");
    old.then(|| Error::Unsupported { what: "Docker's image manifest schema 1: push the image again".into() })
}

/// The one media type that all who name one agree on.
fn media_type(served: Option<&str>, written: Option<&str>, expected: Option<&str>) -> Result<&'static str> {
    let served = served.map(|s| s.split(';').next().unwrap_or(s).trim()).filter(|s| !is_generic(s));
    let mut named = [("the registry", served), ("the document", written), ("its descriptor", expected)]
        .into_iter()
        .filter_map(|(who, what)| what.map(|what| (who, what)));
    let Some((first_who, first)) = named.next() else {
        return Err(Error::corrupt("manifest", "nobody says what its media type is"));
    };
    if let Some((who, other)) = named.find(|(_, other)| *other != first) {
        let why = format!("{first_who} calls it {first:?}, {who} calls it {other:?}");
        return Err(Error::corrupt("manifest", why));
    }
    [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST]
        .into_iter()
        .find(|known| *known == first)
        .ok_or_else(|| Error::Unsupported { what: format!("a manifest of type {first:?}") })
}

/// Content types that say nothing.
fn is_generic(served: &str) -> bool {
    matches!(served, "" | "application/json" | "application/octet-stream" | "text/plain")
}

fn check_manifest(manifest: Manifest) -> Result<Manifest> {
    let config = manifest.config.media_type.as_str();
    if !matches!(config, "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json")
    {
        return Err(Error::Unsupported { what: format!("an artifact with a config of type {config:?} as an image") });
    }
    if manifest.layers.len() > MAX_LAYERS {
        return Err(Error::corrupt("manifest", format!("it has more than {MAX_LAYERS} layers")));
    }
    match manifest.layers.iter().find(|layer| !is_layer(&layer.media_type)) {
        Some(layer) => Err(Error::Unsupported { what: format!("a layer of type {:?}", layer.media_type) }),
        None => Ok(manifest),
    }
}

/// Tar layers. Which compression it is the bytes themselves say: pushers get the suffix wrong. Non-distributable ones
/// are taken if the registry has them; their `urls` are never followed (CVE-2020-15157).
fn is_layer(media_type: &str) -> bool {
    let kinds = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    let suffix = kinds.iter().find_map(|kind| media_type.strip_prefix(kind));
    matches!(suffix, Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd"))
}

impl Document {
    /// Whether this is a media type that an index may lead to.
    fn is_known(media_type: &str) -> bool {
        [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].contains(&media_type)
    }
}

/// Of an index's entries the one for this machine.
///
/// # Errors
/// `NotFound` that lists the platforms there are.
pub fn choose<'a>(entries: &'a [Descriptor], host: &Platform) -> Result<&'a Descriptor> {
    let candidates = entries.iter().filter(|e| Document::is_known(&e.media_type) && !e.is_attestation());
    let ranked = candidates.filter_map(|e| host.rank(e.platform.as_ref()).map(|rank| (rank, e)));
    // min_by_key keeps the first of equals: the order of the index decides.
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, e)| e).ok_or_else(|| {
        let there: Vec<String> = entries.iter().filter_map(|e| e.platform.as_ref()).map(Platform::to_string).collect();
        Error::not_found("image for platform", format!("{host} (there are: {})", there.join(", ")))
    })
}

impl Descriptor {
    fn is_attestation(&self) -> bool {
        let kind = self.annotations.as_ref().and_then(|a| a.get("vnd.docker.reference.type"));
        kind.is_some_and(|kind| kind == "attestation-manifest")
    }
}

#[cfg(test)]
mod tests;
