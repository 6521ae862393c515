//! What can go wrong with a container's stdio: the request, the kernel, or a peer that does not answer.

use std::{io, time::Duration};

/// The result of everything in this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a container's stdio could not be opened, attached, resized or reopened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request itself is at fault: an unknown URL, a relative path, a size that does not fit.
    #[error("{0}")]
    Invalid(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with its path.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A peer did not answer in its time.
    #[error("{what}: no answer within {after:?}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
}

impl Error {
    /// An I/O error together with what was tried.
    pub fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }
}
