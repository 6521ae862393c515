//! An image's config: what pulling and listing need of it, and the chain ids its layers are committed under.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;

use super::{Manifest, Platform};
use crate::images::digest::Digest;
use crate::{Error, Result};

/// What of a config is kept beside the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The digests of the layers' uncompressed tars, the base first.
    pub diff_ids: Vec<Digest>,
    /// `Config.User` as written.
    pub user: String,
    /// `Config.Labels`.
    pub labels: BTreeMap<String, String>,
}

/// Reads a config and checks it against the manifest and the machine.
///
/// # Errors
/// `Corrupt` for what is no config or does not fit the manifest, `Unsupported` for another platform's image.
pub fn summary(bytes: &[u8], manifest: &Manifest, host: &Platform) -> Result<Summary> {
    let corrupt = |why: String| Error::corrupt(format!("image config {}", manifest.config.digest), why);
    let config: ImageConfiguration = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
    let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
    if !host.runs(&os, &architecture) {
        return Err(Error::Unsupported { what: format!("an image for {os}/{architecture} on {host}") });
    }
    let diff_ids: Vec<Digest> = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|id| id.parse())
        .collect::<Result<_>>()
        .map_err(|e| corrupt(e.to_string()))?;
    if diff_ids.len() != manifest.layers.len() {
        let why = format!("it lists {} layers, the manifest {}", diff_ids.len(), manifest.layers.len());
        return Err(corrupt(why));
    }
    let words = config.config().as_ref();
    Ok(Summary {
        diff_ids,
        user: words.and_then(|c| c.user().clone()).unwrap_or_default(),
        labels: words.and_then(|c| c.labels().clone()).unwrap_or_default().into_iter().collect(),
    })
}

/// The chain id of each layer upon those below it (OCI image-spec, config.md, "Layer ChainID").
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        });
    }
    chain
}
