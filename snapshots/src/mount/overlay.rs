//! Overlay mounts of any number of layers.
//!
//! mount(2) takes one page of options, which some thirty long paths fill. The paths share a prefix, so the mount is
//! made by a thread whose working directory is that prefix and whose paths are relative to it: `unshare(CLONE_FS)`
//! gives that thread a working directory of its own, so the caller's does not move, nothing forks, and 500 layers
//! (the kernel's own limit, OVL_MAX_STACK) fit. The newer way, `lowerdir+` with fsconfig(2), needs Linux 6.7; older
//! kernels would still need this one, so there is one way instead of two.

use std::path::Path;
use std::thread;

use nix::mount::mount;
use nix::sched::{CloneFlags, unshare};

use super::idmap;
use super::options::Options;
use crate::error::{Error, Result};

/// Mounts an overlay on `target`, which has to be absolute.
pub(super) fn mount_overlay(source: &str, target: &Path, options: &Options<'_>) -> Result<()> {
    if let Some(ids) = &options.ids {
        return idmap::overlay(source, target, options, ids);
    }
    let data = options.data();
    if data.len() < DATA_MAX_BYTES {
        return mount(Some(source), target, Some("overlay"), options.flags, Some(data.as_str()))
            .map_err(|e| Error::io("mount overlay on", target, e));
    }
    let (prefix, data) = shorten(&options.data)
        .ok_or_else(|| Error::invalid("overlay options", format!("{} bytes and no common prefix", data.len())))?;
    if data.len() >= DATA_MAX_BYTES {
        return Err(Error::invalid("overlay options", format!("{} bytes, even below {prefix}", data.len())));
    }
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("overlay-mount".into()).spawn_scoped(scope, || {
            unshare(CloneFlags::CLONE_FS).map_err(|e| Error::io("unshare the working directory for", target, e))?;
            nix::unistd::chdir(prefix.as_str()).map_err(|e| Error::io("chdir", &prefix, e))?;
            mount(Some(source), target, Some("overlay"), options.flags, Some(data.as_str()))
                .map_err(|e| Error::io("mount overlay on", target, e))
        });
        let worker = worker.map_err(|e| Error::io("start a thread to mount", target, e))?;
        worker.join().unwrap_or_else(|_| Err(Error::invalid("overlay mount", "its thread panicked")))
    })
}

/// What mount(2) takes of options, with the closing NUL: a page, and no page is smaller than this.
const DATA_MAX_BYTES: usize = 4096;

/// The options that hold paths.
const PATHS: [&str; 3] = ["lowerdir=", "upperdir=", "workdir="];

/// A working directory, and the options with paths relative to it; none if the layers share no folder.
///
/// The upper and the work folder may lie elsewhere, and so may the first layer (an upper folder opened for reading):
/// they are few, and stay absolute; the layers are many.
fn shorten(data: &[&str]) -> Option<(String, String)> {
    let lower: Vec<String> = data.iter().filter_map(|o| o.strip_prefix("lowerdir=")).flat_map(split).collect();
    let prefixes = [common_folder(&lower), common_folder(lower.get(1..)?)];
    let cut = |prefix: String| {
        let out: Vec<String> = data.iter().map(|option| relative(option, &prefix)).collect();
        (prefix, out.join(","))
    };
    prefixes.into_iter().flatten().map(cut).min_by_key(|(_, data)| data.len())
}

/// `option` with the paths below `prefix` cut to what follows it.
fn relative(option: &str, prefix: &str) -> String {
    let Some(key) = PATHS.iter().find(|p| option.starts_with(**p)) else {
        return option.to_owned();
    };
    let paths = split(&option[key.len()..]);
    let cut: Vec<&str> =
        paths.iter().map(|p| p.strip_prefix(prefix).unwrap_or(p)).map(|p| if p.is_empty() { "." } else { p }).collect();
    format!("{key}{}", cut.join(":"))
}

/// Splits a list of folders at its colons, which overlayfs lets a backslash escape.
pub(super) fn split(list: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut escaped = false;
    for c in list.chars() {
        if c == ':' && !escaped {
            out.push(String::new());
        } else if let Some(last) = out.last_mut() {
            last.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    out
}

/// The longest folder, with its closing slash, all absolute `paths` start with.
fn common_folder(paths: &[String]) -> Option<String> {
    let (first, rest) = paths.split_first()?;
    let same =
        rest.iter().fold(first.len(), |n, p| n.min(first.bytes().zip(p.bytes()).take_while(|(a, b)| a == b).count()));
    let end = first.get(..same)?.rfind('/')? + 1;
    let prefix = first.get(..end)?;
    // An escaped character in the prefix would have to be unescaped for chdir(2); nobody needs that.
    (prefix.starts_with('/') && !prefix.contains('\\')).then(|| prefix.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_to_what_differs() {
        let data = ["index=off", "workdir=/v/s/12/work", "upperdir=/v/s/12/fs", "lowerdir=/v/s/11/fs:/v/s/2/fs"];
        let (prefix, out) = shorten(&data).unwrap();
        assert_eq!(prefix, "/v/s/");
        assert_eq!(out, "index=off,workdir=12/work,upperdir=12/fs,lowerdir=11/fs:2/fs");
    }

    #[test]
    fn a_shared_name_is_not_a_shared_folder() {
        let (prefix, out) = shorten(&["lowerdir=/v/abc:/v/abd"]).unwrap();
        assert_eq!((prefix.as_str(), out.as_str()), ("/v/", "lowerdir=abc:abd"));
    }

    #[test]
    fn relative_or_escaped_prefixes_are_left_alone() {
        assert!(shorten(&["lowerdir=a:b"]).is_none());
        assert!(shorten(&["lowerdir=/x\\:y/a:/x\\:y/b"]).is_none());
        assert!(shorten(&["volatile"]).is_none());
    }

    #[test]
    fn an_escaped_colon_does_not_split() {
        assert_eq!(split("/a\\:b:/c"), ["/a\\:b", "/c"]);
        assert_eq!(split("/a\\\\:/c"), ["/a\\\\", "/c"]);
    }
}
