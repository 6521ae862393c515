//! The daemon's one error type: a variant says what the caller can do about it, its fields say about what.
//!
//! The chain of causes is joined once, here, where a variant takes a `source`. The only translation to gRPC stands at
//! the end of the file.

use std::path::PathBuf;
use std::time::Duration;

/// What every fallible function of the daemon returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error words of CRI that kubelet matches as a prefix of the message (api.proto and kubelet's
/// `pkg/kubelet/images`); they travel with the code UNKNOWN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The registry does not answer, or answers with a server's error.
    RegistryUnavailable,
    /// The image's signature was refused by policy.
    SignatureValidationFailed,
    /// A recursively read-only mount was asked for where the runtime or the kernel has none.
    RROUnsupported,
    /// An image volume could not be mounted.
    ImageVolumeMountFailed,
}

/// An error of the daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object is not there (never was, or was removed).
    #[error("{kind} {id:?} not found")]
    NotFound {
        /// "sandbox", "container", "image", "runtime handler", ...
        kind: &'static str,
        /// As the client wrote it.
        id: String,
    },
    /// The name is in use by another object.
    #[error("{kind} {id:?} already exists")]
    AlreadyExists {
        /// As in `NotFound`.
        kind: &'static str,
        /// The name, and who holds it.
        id: String,
    },
    /// The request cannot be honoured as written; sending it again will not help.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// The path of the field, `linux.security_context.run_as_user`, or the file.
        what: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// The object is in a state in which this call makes no sense.
    #[error("{kind} {id:?} is {state}, not {wanted}")]
    WrongState {
        /// As in `NotFound`.
        kind: &'static str,
        /// Its id.
        id: String,
        /// The state it is in.
        state: &'static str,
        /// The state the call needs.
        wanted: &'static str,
    },
    /// A peer (shim, registry, socket) cannot be reached now; a retry may help.
    #[error("{peer} cannot be reached: {why}")]
    Unreachable {
        /// Who: "shim of sandbox ...", "registry-1.docker.io".
        peer: String,
        /// The joined chain of causes.
        why: String,
    },
    /// A peer or a program did not answer in its time and was given up.
    #[error("{what} did not finish within {after:?}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// The handler, the kernel or this version cannot do it.
    #[error("{what} is not supported")]
    Unsupported {
        /// The RPC or the feature, by name.
        what: String,
    },
    /// Credentials are missing or were refused.
    #[error("{peer} refused the credentials: {why}")]
    Unauthorized {
        /// The registry.
        peer: String,
        /// Its words.
        why: String,
    },
    /// A program or a peer did what was asked and said no; `why` holds its own words.
    #[error("{what}: {why}")]
    Failed {
        /// What was tried: "runc create", "CNI bridge ADD".
        what: String,
        /// Its words, as it wrote them.
        why: String,
    },
    /// One of the error words that kubelet knows.
    #[error("{word:?}: {why}")]
    Cri {
        /// The word, first in the message.
        word: Word,
        /// The rest of the message.
        why: String,
    },
    /// The kernel refused an operation on a file.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// The operation: "open", "rename", "mount".
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Stored or received bytes are not what they must be.
    #[error("{what} is corrupt: {why}")]
    Corrupt {
        /// The record, blob or file.
        what: String,
        /// How it shows.
        why: String,
    },
}

impl Error {
    /// For `map_err`: an I/O error with its operation and path.
    pub fn io<E: Into<std::io::Error>>(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { op, path, source: source.into() }
    }

    /// A field or file that is wrong, and why.
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), why: why.into() }
    }

    /// An object that is not there.
    pub fn not_found(kind: &'static str, id: impl Into<String>) -> Self {
        Self::NotFound { kind, id: id.into() }
    }

    /// A program's or peer's own words about something it would not do.
    pub fn failed(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Failed { what: what.into(), why: why.to_string() }
    }

    /// Bytes that are not what they must be.
    pub fn corrupt(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Corrupt { what: what.into(), why: why.to_string() }
    }
}

impl From<&Error> for tonic::Status {
    fn from(e: &Error) -> Self {
        let message = e.to_string();
        match e {
            Error::NotFound { .. } => Self::not_found(message),
            Error::AlreadyExists { .. } => Self::already_exists(message),
            Error::Invalid { .. } => Self::invalid_argument(message),
            Error::WrongState { .. } => Self::failed_precondition(message),
            Error::Unreachable { .. } => Self::unavailable(message),
            Error::TimedOut { .. } => Self::deadline_exceeded(message),
            Error::Unsupported { .. } => Self::unimplemented(message),
            Error::Unauthorized { .. } => Self::unauthenticated(message),
            Error::Failed { .. } | Error::Cri { .. } => Self::unknown(message),
            Error::Io { .. } | Error::Corrupt { .. } => Self::internal(message),
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(e: Error) -> Self {
        Self::from(&e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cri_words_come_first_and_as_unknown() {
        let e = Error::Cri { word: Word::RegistryUnavailable, why: "503 from quay.io".into() };
        let status = tonic::Status::from(e);
        assert_eq!(status.code(), tonic::Code::Unknown);
        assert_eq!(status.message(), "RegistryUnavailable: 503 from quay.io");
    }
}
