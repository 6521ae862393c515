//! What an entry's name asks for: a file, or the absence of one in the layers below (OCI image-spec, layer.md,
//! "Whiteouts").

use crate::error::{Error, Result};

/// A path below the layer's root: no empty component, no `.`, no `..`, no leading slash; empty for the root itself.
pub(super) type Clean = Vec<u8>;

/// What an entry is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    /// The layer's root folder itself.
    Root,
    /// `name` in the folder `parent`.
    Plain { parent: &'a [u8], name: &'a [u8] },
    /// `name` in the folder `parent` of lower layers is gone.
    Whiteout { parent: &'a [u8], name: &'a [u8] },
    /// Everything lower layers have in the folder `parent` is gone.
    Opaque { parent: &'a [u8] },
    /// Bookkeeping of a storage driver of old (AUFS).
    Nothing,
}

const WHITEOUT: &[u8] = b".wh.";
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Makes a name a path below the root, as Go's `filepath.Clean("/" + name)` does: `..` never leads above it.
pub(super) fn clean(name: &[u8]) -> Clean {
    let mut out: Clean = Vec::with_capacity(name.len());
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => out.truncate(out.iter().rposition(|b| *b == b'/').unwrap_or(0)),
            part => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(part);
            }
        }
    }
    out
}

/// The folder a clean path lies in, and its last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Tells what a clean path is about.
///
/// # Errors
/// `Invalid` for a whiteout of nothing, of `.` or of `..`, and for a path through a whiteout.
pub(super) fn read(path: &[u8]) -> Result<Asked<'_>> {
    let (parent, name) = split(path);
    let bad = |why: &str| Error::invalid(format!("layer entry {:?}", String::from_utf8_lossy(path)), why);
    let mut above = parent.split(|b| *b == b'/');
    if above.clone().any(|part| part.starts_with(META)) || (name.starts_with(META) && name != OPAQUE) {
        return Ok(Asked::Nothing);
    }
    if above.any(|part| part.starts_with(WHITEOUT)) {
        return Err(bad("a whiteout is no folder"));
    }
    match name.strip_prefix(WHITEOUT) {
        _ if path.is_empty() => Ok(Asked::Root),
        _ if name == OPAQUE => Ok(Asked::Opaque { parent }),
        None => Ok(Asked::Plain { parent, name }),
        Some(b"" | b"." | b"..") => Err(bad("a whiteout of nothing")),
        Some(name) => Ok(Asked::Whiteout { parent, name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_never_leaves_the_root() {
        for (name, want) in [
            ("a/b", "a/b"),
            ("./a//b/./c/", "a/b/c"),
            ("/etc/passwd", "etc/passwd"),
            ("../../etc/passwd", "etc/passwd"),
            ("a/../../b", "b"),
            ("a/b/../c", "a/c"),
            ("a/..", ""),
            ("..", ""),
            ("./", ""),
            ("", ""),
            ("...", "..."),
            ("..a/..b", "..a/..b"),
        ] {
            assert_eq!(clean(name.as_bytes()), want.as_bytes(), "{name}");
        }
    }

    #[test]
    fn whiteouts() {
        use Asked::*;
        for (path, want) in [
            ("", Root),
            ("a", Plain { parent: b"", name: b"a" }),
            ("a/b/c", Plain { parent: b"a/b", name: b"c" }),
            ("a/.wh.b", Whiteout { parent: b"a", name: b"b" }),
            (".wh.b", Whiteout { parent: b"", name: b"b" }),
            (".wh...b", Whiteout { parent: b"", name: b"..b" }),
            (".wh....", Whiteout { parent: b"", name: b"..." }),
            ("a/.wh..wh..opq", Opaque { parent: b"a" }),
            (".wh..wh..opq", Opaque { parent: b"" }),
            (".wh..wh.aufs", Nothing),
            (".wh..wh.plnk/93.4711", Nothing),
            ("a/.wh..wh..opq/b", Nothing),
            (".wh", Plain { parent: b"", name: b".wh" }),
            ("a.wh.b", Plain { parent: b"", name: b"a.wh.b" }),
        ] {
            assert_eq!(read(path.as_bytes()).unwrap(), want, "{path}");
        }
        for bad in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh...", ".wh.a/b"] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
