//! Where the output of a process goes first: a log, a fifo, a file, a logger, or nowhere.
//!
//! A fifo and a logger push back: when they are full the process waits, as it would without us. A log and a file do not: what
//! cannot be written is dropped (a log says so). Clients that attach come on top, see [`super::tap`].

use std::{fs, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{FileType, Mode, OFlags, fstat, open},
    io::{Errno, write},
};
use tokio::io::Interest;

use super::{
    error::{Error, Result},
    log_file::LogStream,
    scratch,
    transfer::{Watched, watch},
};

/// The destination of one output stream.
#[derive(Debug)]
pub enum Sink {
    /// Nowhere.
    Discard,
    /// A CRI log file.
    Log(LogStream),
    /// A file that is appended to.
    File(OwnedFd),
    /// A fifo of somebody else's, or a logger's pipe.
    Pipe(Arc<Watched>),
}

impl Sink {
    /// Opens the fifo at `path` for writing, without waiting for its reader; a regular file or a device is appended to.
    ///
    /// A fifo's read end is held too: a reader that goes and comes again, such as a restarted daemon, costs no byte and no
    /// SIGPIPE, and the process just waits while the fifo is full.
    pub fn fifo(path: &Path) -> Result<Self> {
        let what = || format!("open {}", path.display());
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let found = rustix::fs::stat(path).map_err(|error| Error::io(what(), error))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Fifo {
            let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOCTTY;
            return Ok(Self::File(open(path, flags, Mode::empty()).map_err(|error| Error::io(what(), error))?));
        }
        let fifo = open(path, flags, Mode::empty()).map_err(|error| Error::io(what(), error))?;
        Self::pipe(fifo, &path.display().to_string())
    }

    /// The write end of a pipe; `what` names it in an error.
    pub fn pipe(fd: OwnedFd, what: &str) -> Result<Self> {
        Ok(Self::Pipe(Arc::new(watch(fd, Interest::WRITABLE, what)?)))
    }

    /// Opens the file at `path` for appending; it (0644) and its directory are created if missing.
    pub fn file(path: &Path) -> Result<Self> {
        let what = || format!("open {}", path.display());
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|error| Error::io(what(), error))?;
        }
        let file = fs::OpenOptions::new().append(true).create(true).mode(0o644).open(path);
        Ok(Self::File(file.map_err(|error| Error::io(what(), error))?.into()))
    }

    /// Writes a batch to a sink that needs no waiting; a pipe's bytes are moved by the pump instead.
    pub fn write(&mut self, bytes: &[u8], memory: &mut [u8]) {
        match self {
            Self::Discard | Self::Pipe(_) => {}
            Self::Log(log) => log.write(bytes, memory),
            Self::File(file) => append(file, bytes),
        }
    }

    /// The stream has ended: writes what was held back, and closes the sink.
    pub fn finish(&mut self) {
        if let Self::Log(log) = self {
            // An error here means no memory for the buffer: the unfinished line is lost, and there is nobody to tell.
            let _ = scratch::batch(|_, memory| {
                log.finish(memory);
                Ok(0)
            });
        }
        *self = Self::Discard;
    }
}

/// Appends to a plain file; a full disk must not stop the process, and a plain file has no place for a note.
fn append(file: impl AsFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match write(&file, bytes) {
            Ok(0) => return,
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Whether an open file is a fifo.
pub fn is_fifo(fd: impl AsFd) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}
