//! The seam: what the daemon asks of whatever keeps its root filesystems.
//!
//! A snapshot is a folder tree. It starts `Active` (writable), possibly on a parent, and `commit` turns it into a layer
//! that never changes again; a `View` shows a layer read-only. Keys and names share one namespace and are arbitrary
//! strings (container ids, chain ids): an implementation never uses one as a path.
//!
//! Deliberately absent: labels (the daemon keeps what it knows about a snapshot in its own store) and leases (it
//! alone decides what is in use).

use std::time::SystemTime;

use crate::error::Result;
use crate::mount::Mount;

/// The longest key or name accepted, in bytes.
pub const KEY_MAX_BYTES: usize = 1024;

/// A keeper of root filesystems. All calls block; all may come from several threads at once.
pub trait Snapshotter: Send + Sync {
    /// Makes a writable snapshot on `parent` (a committed one), or an empty one, and says how to mount it.
    ///
    /// # Errors
    /// `AlreadyExists` for the key, `NotFound` for the parent, `Invalid` for a key that cannot be one.
    fn prepare(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>>;

    /// Makes a read-only snapshot of `parent`, and says how to mount it. Errors as `prepare`.
    fn view(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>>;

    /// How to mount the active snapshot or view `key`.
    ///
    /// # Errors
    /// `NotFound`, or `FailedPrecondition` for a committed snapshot and for one a reboot left half-written.
    fn mounts(&self, key: &str) -> Result<Vec<Mount>>;

    /// Turns the active snapshot `key` into the layer `name`. Once it returns, the layer survives a power cut.
    ///
    /// `parent` names the layer below. A snapshotter of independent layers takes it here for a snapshot prepared
    /// without one; otherwise it has to be the one it was prepared on. None: what it was prepared on.
    ///
    /// # Errors
    /// `NotFound` (key or parent), `AlreadyExists` (name), `FailedPrecondition` (not active), `Invalid` (the parent).
    fn commit(&self, name: &str, key: &str, parent: Option<&str>) -> Result<()>;

    /// Removes a snapshot. Its files go soon after; the key is free at once. It must no longer be mounted.
    ///
    /// # Errors
    /// `NotFound`, or `HasChildren`.
    fn remove(&self, key: &str) -> Result<()>;

    /// What is known about a snapshot.
    fn stat(&self, key: &str) -> Result<Info>;

    /// What a snapshot alone takes on the disk, without its parents. Reads the whole tree unless it is committed and
    /// was asked before.
    fn usage(&self, key: &str) -> Result<Usage>;

    /// All snapshots, parents before their children.
    fn walk(&self) -> Result<Vec<Info>>;

    /// Whether layers can be unpacked side by side: prepared without a parent, which `commit` names.
    fn independent_layers(&self) -> bool;
}

/// What a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Read-only, to be mounted.
    View,
    /// Writable, to be mounted or committed.
    Active,
    /// A layer: never changes, can be a parent.
    Committed,
}

/// What is known about a snapshot without reading its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its key, or its name once committed.
    pub name: String,
    /// The layer it stands on.
    pub parent: Option<String>,
    /// What it is.
    pub kind: Kind,
    /// When it was prepared.
    pub created: SystemTime,
    /// When it was committed, for a committed one; else when it was prepared.
    pub updated: SystemTime,
}

/// What a tree takes on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes allocated; a file with several links counts once.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}
