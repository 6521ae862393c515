//! The crate's one error type: a variant says what the caller can do about it, its fields say about what.

use std::io;
use std::path::{Path, PathBuf};

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a mount, a snapshotter or a layer's application.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No snapshot has this key.
    #[error("snapshot {key:?} not found")]
    NotFound {
        /// The key or name asked for.
        key: String,
    },
    /// The key, or the name to commit under, is taken.
    #[error("snapshot {key:?} already exists")]
    AlreadyExists {
        /// The key or name.
        key: String,
    },
    /// Other snapshots stand on this one; remove them first.
    #[error("snapshot {key:?} has {children} children")]
    HasChildren {
        /// The key asked to be removed.
        key: String,
        /// How many snapshots name it as their parent.
        children: u64,
    },
    /// The snapshot is in a state in which this call makes no sense.
    #[error("snapshot {key:?}: {why}")]
    FailedPrecondition {
        /// The key asked for.
        key: String,
        /// What is in the way.
        why: String,
    },
    /// The input cannot be honoured as written; trying again will not help.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// What was wrong: "mount option ...", "layer entry ...".
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A layer is larger than its limits allow.
    #[error("{what} exceeds the limit of {limit}")]
    TooLarge {
        /// "layer: bytes", "layer: entries", "path of layer entry ...", or the file that was read.
        what: String,
        /// The limit, in the unit `what` names.
        limit: u64,
    },
    /// Another process has the store open; it can be opened when that process is gone.
    #[error("{} is in use by another process", .root.display())]
    InUse {
        /// The store's folder.
        root: PathBuf,
    },
    /// What is on the disk is not what was written there; the object is of no more use.
    #[error("{what} is corrupt: {why}")]
    Corrupt {
        /// The path, or the snapshot's key.
        what: String,
        /// What was found.
        why: String,
    },
    /// The kernel refused.
    #[error("{op} {}: {source}", .path.display())]
    Io {
        /// The system call or the step, "mount", "open", "read layer".
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The metadata store refused.
    #[cfg(feature = "store")]
    #[error("{op} in {}: {source}", .path.display())]
    Metadata {
        /// What was being recorded or read.
        op: &'static str,
        /// The database.
        path: PathBuf,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
}

impl Error {
    /// An `Io` from either kind of error number.
    pub(crate) fn io(op: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Error::Io { op, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// An `Invalid`.
    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Invalid { what: what.into(), why: why.into() }
    }

    /// Whether the disk is full (or a quota is): space has to be made before a retry.
    pub fn is_no_space(&self) -> bool {
        match self {
            Error::Io { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
            }
            #[cfg(feature = "store")]
            Error::Metadata { source, .. } => source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            _ => false,
        }
    }
}
