//! What can go wrong in the shim, said once, with the id or the path it happened to.
//!
//! A variant tells the caller what to do next; [`From`] turns it into the ttrpc status the shim protocol expects. An OCI
//! runtime's own words travel unchanged: they are what a user of kubectl reads. There is deliberately no catch-all variant.

use std::{path::PathBuf, time::Duration};

use ttrpc::{Code, get_status};

/// The shim's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything a request or a command of the shim may answer instead of its result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such container, exec or sandbox here.
    #[error("{what} {id:?} not found")]
    NotFound {
        /// The kind of the missing object.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The id is taken.
    #[error("{what} {id:?} already exists")]
    AlreadyExists {
        /// The kind of the object.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The request itself is at fault.
    #[error("{0}")]
    Invalid(String),
    /// The object exists, but not in a state in which this can be done.
    #[error("cannot {verb} {id:?}: it is {state}")]
    WrongState {
        /// What was asked.
        verb: &'static str,
        /// Whom it was asked of.
        id: String,
        /// The state it is in.
        state: &'static str,
    },
    /// This shim will never do that.
    #[error("{0}")]
    Unsupported(String),
    /// The OCI runtime refused; its own words.
    #[error("{message}")]
    Runtime {
        /// The runtime's last error, unchanged.
        message: String,
    },
    /// Something did not answer in its time.
    #[error("{what}: no answer within {after:?}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with its path or id.
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A file or an answer does not hold what it should.
    #[error("{what}: {problem}")]
    Corrupt {
        /// The file or the peer.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    /// An I/O error together with what was tried.
    pub fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }

    fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NOT_FOUND,
            Self::AlreadyExists { .. } => Code::ALREADY_EXISTS,
            Self::Invalid(_) => Code::INVALID_ARGUMENT,
            Self::WrongState { .. } => Code::FAILED_PRECONDITION,
            Self::Unsupported(_) => Code::UNIMPLEMENTED,
            Self::Runtime { .. } => Code::UNKNOWN,
            Self::TimedOut { .. } => Code::DEADLINE_EXCEEDED,
            Self::Io { .. } | Self::Corrupt { .. } => Code::INTERNAL,
        }
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        Self::RpcStatus(get_status(error.code(), error))
    }
}

impl From<crate::io::Error> for Error {
    fn from(error: crate::io::Error) -> Self {
        match error {
            crate::io::Error::Invalid(text) => Self::Invalid(text),
            crate::io::Error::Io { what, source } => Self::Io { what, source },
            crate::io::Error::TimedOut { what, after } => Self::TimedOut { what, after },
        }
    }
}

impl From<cleat_snapshots::Error> for Error {
    fn from(error: cleat_snapshots::Error) -> Self {
        Self::io("root filesystem", std::io::Error::other(error))
    }
}

/// Names the path in an I/O error: `fs::read(p).at("read", &p)`.
pub trait At<T> {
    /// Turns the error into [`Error::Io`] with `verb path` as its text.
    fn at(self, verb: &str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, verb: &str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|e| Error::io(format!("{verb} {}", path.into().display()), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_the_status_the_protocol_expects() {
        let id = || "c1".to_string();
        let table = [
            (Error::NotFound { what: "container", id: id() }, Code::NOT_FOUND),
            (Error::AlreadyExists { what: "exec", id: id() }, Code::ALREADY_EXISTS),
            (Error::Invalid("id".into()), Code::INVALID_ARGUMENT),
            (Error::WrongState { verb: "start", id: id(), state: "stopped" }, Code::FAILED_PRECONDITION),
            (Error::Unsupported("checkpoint".into()), Code::UNIMPLEMENTED),
            (Error::Runtime { message: "exec: \"nosuch\"".into() }, Code::UNKNOWN),
            (Error::TimedOut { what: "runc".into(), after: Duration::from_secs(1) }, Code::DEADLINE_EXCEEDED),
            (Error::io("open /x", std::io::Error::from_raw_os_error(libc::ENOENT)), Code::INTERNAL),
        ];
        for (error, code) in table {
            let text = error.to_string();
            let ttrpc::Error::RpcStatus(status) = error.into() else { panic!("{text} is not a status") };
            assert_eq!(status.code(), code, "{text}");
            assert_eq!(status.message, text);
        }
    }

    #[test]
    fn a_runtime_error_is_verbatim() {
        let words = "exec: \"nosuch\": executable file not found in $PATH";
        assert_eq!(Error::Runtime { message: words.into() }.to_string(), words);
    }
}
