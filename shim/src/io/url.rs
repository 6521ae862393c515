//! Where a stream goes: the strings of Task.Create and Exec, parsed, and our own ones, written.
//!
//! | string | meaning |
//! |---|---|
//! | empty | nothing: the process gets no stream |
//! | `/PATH`, `fifo://PATH` | a fifo; if PATH is a file, it is appended to |
//! | `file:///PATH` | appended to, created with its directory if missing |
//! | `binary:///PATH?key=value` | a logger process: `PATH key value`, output on its fds 3 and 4, ready when fd 5 closes |
//! | `cri:///PATH?max_line=N` | the CRI log file PATH, written by the shim; stdout and stderr name the same URL |
//! | `cri-discard:` | output is read and thrown away, so that clients can attach to it |
//! | `cri-stdin:`, `cri-stdin:?once=true` | stdin comes from clients that attach; `once`: the first one's end is the end |
//!
//! The last three are ours; a daemon writes them with [`cri_log`], [`CRI_DISCARD`], [`CRI_STDIN`] and [`CRI_STDIN_ONCE`]. In
//! a URL's path every byte but `A-Z a-z 0-9 - . _ ~ /` is written `%XX`, so any file name fits; a bare path is taken as it
//! stands. Unknown schemes and keys are refused: a log that silently goes nowhere is worse than a container that does not start.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use super::error::{Error, Result};

/// Output that is read and thrown away unless a client attaches.
pub const CRI_DISCARD: &str = "cri-discard:";
/// Stdin fed by clients that attach, open until it is closed by request.
pub const CRI_STDIN: &str = "cri-stdin:";
/// Stdin fed by clients that attach, closed when the first of them ends (CRI api.proto, `stdin_once`).
pub const CRI_STDIN_ONCE: &str = "cri-stdin:?once=true";
/// The longest content of one log line when the URL does not say, in bytes (containerd's default).
pub const DEFAULT_MAX_LINE: usize = 16 * 1024;
/// The most a URL may ask for as the longest line, in bytes: an unfinished line is held in memory.
pub const LARGEST_MAX_LINE: usize = 1024 * 1024;

/// The three streams of a process, as Task.Create and Exec name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Where stdin comes from.
    pub stdin: String,
    /// Where stdout goes.
    pub stdout: String,
    /// Where stderr goes; of no meaning with a terminal.
    pub stderr: String,
    /// Whether the process gets a terminal instead of pipes.
    pub terminal: bool,
}

/// One parsed stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// No stream.
    Null,
    /// A fifo that somebody else reads or writes, or a file under a bare path.
    Fifo(PathBuf),
    /// A file to append to.
    File(PathBuf),
    /// A logger process.
    Logger {
        /// The program.
        program: PathBuf,
        /// Its arguments: each key of the query, followed by its value.
        args: Vec<String>,
    },
    /// A CRI log file.
    CriLog {
        /// The file.
        path: PathBuf,
        /// The longest content of a line, in bytes.
        max_line: usize,
    },
    /// Output nobody keeps.
    Discard,
    /// Stdin that comes from clients that attach.
    AttachedStdin {
        /// Whether the end of the first client's stdin is the end of the process's.
        once: bool,
    },
}

impl Endpoint {
    /// Parses what a process's stdin may be: empty, a fifo, or ours.
    pub fn of_stdin(text: &str) -> Result<Self> {
        match Self::parse(text)? {
            found @ (Self::Null | Self::Fifo(_) | Self::AttachedStdin { .. }) => Ok(found),
            _ => Err(Error::Invalid(format!("stdin {text:?}: only a fifo can be read from"))),
        }
    }

    /// Parses what an output stream may be: anything but stdin's own.
    pub fn of_output(text: &str) -> Result<Self> {
        match Self::parse(text)? {
            Self::AttachedStdin { .. } => Err(Error::Invalid(format!("output {text:?}: this is a stdin"))),
            found => Ok(found),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        match text {
            "" => return Ok(Self::Null),
            CRI_DISCARD => return Ok(Self::Discard),
            CRI_STDIN => return Ok(Self::AttachedStdin { once: false }),
            CRI_STDIN_ONCE => return Ok(Self::AttachedStdin { once: true }),
            bare if bare.starts_with('/') => return Ok(Self::Fifo(bare.into())),
            _ => {}
        }
        let refuse = |why: &str| Error::Invalid(format!("stdio {text:?}: {why}"));
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("neither a path nor a URL"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decode_path(path).ok_or_else(|| refuse("a bad escape in the path"))?;
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            return Err(refuse("the path is not absolute, or has .. in it"));
        }
        match scheme {
            "fifo" => Ok(Self::Fifo(path)),
            "file" => Ok(Self::File(path)),
            "binary" => {
                let args = logger_args(query).ok_or_else(|| refuse("a bad escape in the query"))?;
                Ok(Self::Logger { program: path, args })
            }
            "cri" => Ok(Self::CriLog { path, max_line: max_line(query).ok_or_else(|| refuse("a bad max_line"))? }),
            _ => Err(refuse("unknown scheme")),
        }
    }
}

/// The URL of the CRI log file `path` (absolute) with lines of at most `max_line` bytes of content.
pub fn cri_log(path: &Path, max_line: usize) -> String {
    format!("cri://{}?max_line={max_line}", encode_path(path))
}

/// Writes a path as a URL's path: unreserved bytes and `/` stand, every other one becomes `%XX`.
pub fn encode_path(path: &Path) -> String {
    let mut url = String::with_capacity(path.as_os_str().len());
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

/// Reads back what [`encode_path`] wrote; `None` for a broken escape or a NUL, which no path can hold.
pub fn decode_path(url: &str) -> Option<PathBuf> {
    let bytes = unescape(url)?;
    (!bytes.contains(&0)).then(|| PathBuf::from(OsStr::from_bytes(&bytes)))
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex(rest.next()?)? * 16 + hex(rest.next()?)?,
            other => other,
        });
    }
    Some(bytes)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn max_line(query: &str) -> Option<usize> {
    if query.is_empty() {
        return Some(DEFAULT_MAX_LINE);
    }
    let wanted = query.strip_prefix("max_line=")?.parse().ok()?;
    (1..=LARGEST_MAX_LINE).contains(&wanted).then_some(wanted)
}

/// `a=1&b` becomes `a 1 b`; in a query `+` is a space, as every writer of these URLs has it.
fn logger_args(query: &str) -> Option<Vec<String>> {
    let mut args = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        for part in pair.splitn(2, '=').filter(|part| !part.is_empty()) {
            let arg = String::from_utf8(unescape(&part.replace('+', " "))?).ok()?;
            if arg.contains('\0') {
                return None;
            }
            args.push(arg);
        }
    }
    Some(args)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_is_understood() {
        let args = ["id", "a b", "flag"].map(String::from).to_vec();
        let table = [
            ("", Endpoint::Null),
            ("/run/f", Endpoint::Fifo("/run/f".into())),
            ("/run/100%", Endpoint::Fifo("/run/100%".into())),
            ("fifo:///run/f", Endpoint::Fifo("/run/f".into())),
            ("file:///var/log/x%20y", Endpoint::File("/var/log/x y".into())),
            ("binary:///bin/l?id=a+b&flag", Endpoint::Logger { program: "/bin/l".into(), args }),
            ("cri:///l/0.log", Endpoint::CriLog { path: "/l/0.log".into(), max_line: DEFAULT_MAX_LINE }),
            ("cri:///l/0.log?max_line=7", Endpoint::CriLog { path: "/l/0.log".into(), max_line: 7 }),
            ("cri-discard:", Endpoint::Discard),
        ];
        for (text, expected) in table {
            assert_eq!(Endpoint::of_output(text).unwrap(), expected, "{text}");
        }
        assert_eq!(Endpoint::of_stdin(CRI_STDIN_ONCE).unwrap(), Endpoint::AttachedStdin { once: true });
        assert_eq!(Endpoint::of_stdin(CRI_STDIN).unwrap(), Endpoint::AttachedStdin { once: false });
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_text() {
        for text in [
            "relative/path",
            "http:///x",
            "cri:///l/../etc/passwd",
            "cri://l/0.log",
            "cri:///l?max_line=0",
            "cri:///l?max_line=99999999",
            "cri:///l?other=1",
            "cri:///l%0",
            "cri:///l%00",
            "cri-stdin:?once=yes",
            "binary:///b?x=%zz",
        ] {
            let error = Endpoint::of_output(text).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert!(Endpoint::of_stdin("file:///x").is_err());
        assert!(Endpoint::of_output(CRI_STDIN).is_err());
    }

    proptest! {
        #[test]
        fn any_path_survives_the_url(name in prop::collection::vec(1u8..=255, 1..40), max_line in 1..=LARGEST_MAX_LINE) {
            let path = Path::new("/l").join(OsStr::from_bytes(&name).to_string_lossy().replace("..", "_").trim_start_matches('/'));
            let url = cri_log(&path, max_line);
            prop_assert_eq!(Endpoint::of_output(&url).unwrap(), Endpoint::CriLog { path, max_line });
        }

        #[test]
        fn any_bytes_survive_the_encoding(name in prop::collection::vec(1u8..=255, 0..40)) {
            let path = Path::new(OsStr::from_bytes(&name));
            prop_assert_eq!(decode_path(&encode_path(path)).unwrap(), path);
        }

        #[test]
        fn no_string_panics(text in ".{0,60}", scheme in "(cri|file|fifo|binary)://[/%a-f0-9?=&+.]{0,40}") {
            let _ = (Endpoint::of_output(&text), Endpoint::of_stdin(&scheme), Endpoint::of_output(&scheme));
        }
    }
}
