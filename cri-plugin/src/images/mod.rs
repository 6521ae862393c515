//! Images: pulling, listing, removing, and the root file system a container starts from.
//!
//! The seam is [`Images`]. `embedded` is our own content store and registry client. Content (blobs, manifests) stays
//! private behind the seam, and so do CRI's types: nothing here knows them.

pub mod digest;
pub mod embedded;
pub mod hosts;
pub mod manifest;
pub mod reference;
pub mod registry;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use oci_spec::image::ImageConfiguration;

use crate::{Error, Result};
use digest::Digest;

/// Where images come from and where they lie.
#[async_trait]
pub trait Images: Send + Sync {
    /// Brings an image onto the node, unpacked and durable, and answers its id. Identical calls at the same time are one
    /// pull; a call that is dropped ends the pull when nobody else waits for it.
    ///
    /// # Errors
    /// `Invalid` for what is no reference, `NotFound`, `Unauthorized`, `Cri(RegistryUnavailable)` when no registry
    /// answers, `Corrupt` for content that is not what its digest says, `Io` (a full disk, say).
    async fn pull(&self, request: Pull) -> Result<ImageId>;

    /// The image of a short name, a tag, a digest reference, a full id or an id's prefix.
    ///
    /// # Errors
    /// `Invalid` for a prefix that more than one image has.
    async fn get(&self, name: &str) -> Result<Option<Image>>;

    /// All images, by id.
    ///
    /// # Errors
    /// None that a caller could answer; the store's own.
    async fn list(&self) -> Result<Vec<Image>>;

    /// Removes the image that `name` (as for `get`) means, with all its tags. A missing one is removed already.
    ///
    /// # Errors
    /// As `get`, and the store's own.
    async fn remove(&self, name: &str) -> Result<()>;

    /// What a container of the image starts from. Called for every container: answered from memory.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when the stored config is not what its digest says.
    async fn rootfs(&self, id: &ImageId) -> Result<Rootfs>;

    /// What images and their snapshots occupy, for CRI's ImageFsInfo. Cheap: no walk over files.
    ///
    /// # Errors
    /// The store's and the snapshotter's own.
    async fn usage(&self) -> Result<Usage>;

    /// Removes what no image is made of any more and what failed pulls left; to be called from time to time.
    ///
    /// # Errors
    /// Those of listing what there is.
    async fn collect(&self) -> Result<()>;
}

/// A request to pull.
#[derive(Debug, Clone, Default)]
pub struct Pull {
    /// As the user wrote it: `nginx`, `quay.io/a/b:1`, `host:5000/a@sha256:...`.
    pub reference: String,
    /// Credentials that came with the call.
    pub auth: Option<Auth>,
    /// The handler whose snapshotter the image is unpacked into; empty is the default one.
    pub runtime_handler: String,
}

/// Credentials as CRI carries them (api.proto, AuthConfig); which of them count is decided where they are used.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Auth {
    /// With `password`: basic credentials.
    pub username: String,
    /// See `username`.
    pub password: String,
    /// base64 of `username:password`.
    pub auth: String,
    /// If set, the one registry these credentials are for.
    pub server_address: String,
    /// A refresh token for the registry's token server.
    pub identity_token: String,
    /// A bearer token, sent to the registry as it is.
    pub registry_token: String,
}

impl fmt::Debug for Auth {
    /// Nothing secret may reach a log (api.proto, debug_redact).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth(redacted)")
    }
}

/// An image's id: the digest of its config, `sha256:...`. CRI's Image.id, PullImageResponse.image_ref and image_id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ImageId(Digest);

impl ImageId {
    /// The id of the image with this config.
    pub fn new(config: Digest) -> Self {
        Self(config)
    }

    /// `sha256:` and 64 hex digits.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The config's digest.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ImageId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.parse().map(Self)
    }
}

/// One image, as List and Status show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// `docker.io/library/nginx:latest`, sorted.
    pub repo_tags: Vec<String>,
    /// `docker.io/library/nginx@sha256:...`, sorted.
    pub repo_digests: Vec<String>,
    /// Manifest, config and compressed layers together, as containerd counts it; never 0.
    pub size_bytes: u64,
    /// Who the image's config says to run as; none is root.
    pub user: Option<User>,
    /// Kubelet's garbage collection leaves it alone.
    pub pinned: bool,
    /// The config's labels.
    pub labels: BTreeMap<String, String>,
}

/// The user part of an image config's `User`, without its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// A number in the range of uids.
    Uid(u32),
    /// A name, or a number out of range: never to be taken for a uid.
    Name(String),
}

impl User {
    /// Of `user`, `uid`, `user:group` and so on; none for an empty one.
    pub fn of_config(text: &str) -> Option<Self> {
        let user = text.split(':').next().unwrap_or_default();
        match user.parse::<u32>() {
            _ if user.is_empty() => None,
            Ok(uid) if uid <= i32::MAX as u32 && !user.starts_with('+') => Some(Self::Uid(uid)),
            _ => Some(Self::Name(user.to_string())),
        }
    }
}

/// What a container of an image starts from.
#[derive(Debug, Clone)]
pub struct Rootfs {
    /// The committed snapshot with all layers; none for an image of no layers.
    pub chain_id: Option<String>,
    /// The image's config.
    pub config: Arc<ImageConfiguration>,
    /// Its users and groups.
    pub accounts: Arc<Accounts>,
}

/// The account files of an image as it was unpacked, bytes as they are; empty where the image has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// etc/passwd.
    pub passwd: Vec<u8>,
    /// etc/group.
    pub group: Vec<u8>,
}

/// What images occupy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Blobs and unpacked layers.
    pub bytes: u64,
    /// Their files and directories.
    pub inodes: u64,
    /// A directory on the file system they lie on; it exists.
    pub path: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_out_of_range_is_never_a_uid() {
        let name = |n: &str| Some(User::Name(n.to_string()));
        for (text, user) in [
            ("", None),
            (":1", None),
            ("0", Some(User::Uid(0))),
            ("65534:65534", Some(User::Uid(65534))),
            ("nobody:nogroup", name("nobody")),
            ("2147483648", name("2147483648")),
            ("4294967296", name("4294967296")),
            ("-1", name("-1")),
            ("+5", name("+5")),
        ] {
            assert_eq!(User::of_config(text), user, "{text:?}");
        }
    }

    #[test]
    fn credentials_are_not_printed() {
        let auth = Auth { password: "hunter2".into(), ..Auth::default() };
        let pull = Pull { auth: Some(auth), ..Pull::default() };
        assert!(!format!("{pull:?}").contains("hunter2"));
    }
}
