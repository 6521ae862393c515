//! The shim's own words to whoever runs the daemon: lines into the fifo `log` of its bundle.
//!
//! containerd reads that fifo into its own log. A daemon that has none there, or that is away, misses the line: nothing is
//! kept and nothing waits. Errors of requests do not come here, they are answers.

use std::{
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::error::Error;

/// Where the lines go. Clones go to the same place.
#[derive(Debug, Clone)]
pub struct Report(Arc<PathBuf>);

impl Report {
    /// Reports into a bundle.
    pub fn to(bundle: &Path) -> Self {
        Self(Arc::new(bundle.join("log")))
    }

    /// Says what went wrong in the background.
    pub fn problem(&self, what: &str, error: &Error) {
        let opened = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(&*self.0);
        let Ok(mut fifo) = opened else { return };
        if fifo.metadata().is_ok_and(|m| m.file_type().is_fifo()) {
            let _ = writeln!(fifo, "containerd-shim-cleat-v2: {what}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read as _};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn a_line_reaches_a_reader_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let report = Report::to(dir.path());
        let error = Error::Invalid("why".into());
        report.problem("nobody", &error);
        mkfifo(&dir.path().join("log"), Mode::S_IRWXU).unwrap();
        report.problem("no reader", &error);
        let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(dir.path().join("log"));
        let mut reader = open.unwrap();
        report.problem("what", &error);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "containerd-shim-cleat-v2: what: why\n");
        let file = tempfile::tempdir().unwrap();
        fs::write(file.path().join("log"), "").unwrap();
        Report::to(file.path()).problem("what", &error);
        assert_eq!(fs::read_to_string(file.path().join("log")).unwrap(), "");
    }
}
