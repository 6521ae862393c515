//! The images in memory: by id, by name, and what they are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Record;
use crate::images::digest::Digest;
use crate::images::reference::Reference;
use crate::images::{Image, ImageId, User};
use crate::{Error, Result};

/// All images.
#[derive(Debug, Default)]
pub struct Index {
    images: BTreeMap<ImageId, Arc<Record>>,
    names: BTreeMap<String, ImageId>,
}

impl Index {
    /// The image of an id.
    pub fn by_id(&self, id: &ImageId) -> Option<&Arc<Record>> {
        self.images.get(id)
    }

    /// The image that has a normalised name.
    pub fn name(&self, name: &str) -> Option<&ImageId> {
        self.names.get(name)
    }

    /// The image that a reference or, if there is none of that name, an id or a prefix of one means.
    ///
    /// # Errors
    /// `Invalid` for a prefix of several.
    pub fn find(&self, text: &str) -> Result<Option<&Arc<Record>>> {
        let named = text.parse::<Reference>().ok().and_then(|reference| self.names.get(&reference.to_string()));
        if let Some(id) = named {
            return Ok(self.images.get(id));
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.is_empty() || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(None);
        }
        let mut matching = self.images.iter().filter(|(id, _)| id.digest().hex().starts_with(hex));
        match (matching.next(), matching.next()) {
            (Some((one, _)), Some((other, _))) => {
                Err(Error::invalid(format!("image id {text:?}"), format!("{one} and {other} both start so")))
            }
            (found, _) => Ok(found.map(|(_, record)| record)),
        }
    }

    /// All images, by id.
    pub fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.images.values()
    }

    /// All blobs that some image is made of.
    pub fn blobs(&self) -> BTreeMap<&Digest, u64> {
        self.records().flat_map(|record| &record.blobs).map(|(digest, size)| (digest, *size)).collect()
    }

    /// All chain ids that some image is made of.
    pub fn chains(&self) -> BTreeSet<&Digest> {
        self.records().flat_map(|record| &record.chain).collect()
    }

    /// An image as the seam shows it.
    pub fn image(&self, record: &Record) -> Image {
        let of_image = self.names.iter().filter(|(_, id)| **id == record.id).map(|(name, _)| name.as_str());
        shown(record, of_image)
    }

    /// All images as the seam shows them, in one pass over the names.
    pub fn all(&self) -> Vec<Image> {
        let mut names: BTreeMap<&ImageId, Vec<&str>> = BTreeMap::new();
        for (name, id) in &self.names {
            names.entry(id).or_default().push(name);
        }
        let of_image = |record: &Record| names.get(&record.id).into_iter().flatten().copied();
        self.records().map(|record| shown(record, of_image(record))).collect()
    }

    pub(super) fn insert(&mut self, record: Record, names: impl Iterator<Item = String>) {
        self.names.extend(names.map(|name| (name, record.id.clone())));
        self.images.insert(record.id.clone(), Arc::new(record));
    }

    pub(super) fn name_image(&mut self, name: String, id: ImageId) {
        self.names.insert(name, id);
    }

    pub(super) fn remove(&mut self, id: &ImageId) -> Option<Arc<Record>> {
        self.names.retain(|_, holder| holder != id);
        self.images.remove(id)
    }
}

fn shown<'a>(record: &Record, names: impl Iterator<Item = &'a str>) -> Image {
    let (repo_digests, repo_tags) = names.map(str::to_string).partition(|name| name.contains('@'));
    Image {
        id: record.id.clone(),
        repo_tags,
        repo_digests,
        size_bytes: record.blobs.values().sum(),
        user: User::of_config(&record.user),
        pinned: false,
        labels: record.labels.clone(),
    }
}
