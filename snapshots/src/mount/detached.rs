//! A snapshot's files without a mount point: a detached mount that lives as long as its descriptor.
//!
//! The daemon reads etc/passwd of a snapshot before any shim has mounted it. A mount point would have to be made,
//! found again after a crash, and removed. It is read-only whatever the mounts say, and for an overlay the upper folder
//! is taken as one more lower layer: an overlay mounted `volatile` can be mounted writable only once (overlayfs.rst,
//! "Volatile mount"), and that once is the container's.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, open_tree,
};

use super::private::{self, SCRATCH};
use super::{Mount, mount_all};
use crate::error::{Error, Result};

/// A detached, read-only mount of a snapshot, to be read through openat2(2) with `RESOLVE_IN_ROOT`.
///
/// Blocks for as long as a mount takes. Needs Linux 5.6.
///
/// # Errors
/// `Invalid` for mounts that cannot be made, `Io` with the kernel's words otherwise.
pub fn open_detached(mounts: &[Mount]) -> Result<OwnedFd> {
    let reading: Vec<Mount> = mounts.iter().map(read_only).collect();
    match reading.as_slice() {
        [] => Err(Error::invalid("mounts", "none given")),
        [one] if is_bind(one) && one.target.is_none() => clone_tree(one),
        [one] if one.kind == "overlay" && one.target.is_none() => {
            overlay(one).or_else(|_| in_private_namespace(&reading))
        }
        _ => in_private_namespace(&reading),
    }
}

fn is_bind(m: &Mount) -> bool {
    m.kind == "bind" || m.kind == "rbind"
}

/// The same mount for reading: an overlay without an upper folder, a bind of the one folder where only one is left.
fn read_only(m: &Mount) -> Mount {
    let mut out = m.clone();
    // Whose the files seem to be is nothing to their reader.
    out.options.retain(|o| !o.starts_with("uidmap=") && !o.starts_with("gidmap="));
    if m.kind == "overlay" {
        let lower = layers(m);
        if let [one] = lower.as_slice() {
            return Mount {
                kind: "bind".into(),
                source: one.clone(),
                target: out.target,
                options: vec!["rbind".into()],
            };
        }
        let kept = |o: &String| !["upperdir=", "workdir=", "lowerdir="].iter().any(|p| o.starts_with(p));
        out.options.retain(|o| kept(o) && o != "volatile" && o != "rw");
        out.options.push(format!("lowerdir={}", lower.join(":")));
    }
    out.options.retain(|o| o != "rw");
    out.options.push("ro".into());
    out
}

/// The folders of an overlay, uppermost first.
fn layers(m: &Mount) -> Vec<String> {
    let find = |key: &str| m.options.iter().find_map(|o| o.strip_prefix(key));
    let upper = find("upperdir=").map(str::to_owned);
    upper.into_iter().chain(find("lowerdir=").into_iter().flat_map(super::overlay::split)).collect()
}

fn clone_tree(m: &Mount) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if m.kind == "rbind" || m.options.iter().any(|o| o == "rbind") {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, m.source.as_str(), flags).map_err(|e| Error::io("open_tree", &m.source, e))
}

/// Linux 6.7 takes layers one by one; older kernels take 256 bytes of them, or only through mount(2).
fn overlay(m: &Mount) -> Result<OwnedFd> {
    let failed = |op: &'static str| move |e: rustix::io::Errno| Error::io(op, "overlay", e);
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen"))?;
    for layer in layers(m) {
        fsconfig_set_string(&fs, "lowerdir+", unescape(&layer)).map_err(failed("add a layer to"))?;
    }
    for option in m.options.iter().filter(|o| !o.starts_with("lowerdir=")) {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&fs, key, value),
            None => fsconfig_set_flag(&fs, option.as_str()),
        }
        .map_err(failed("set an option of"))?;
    }
    fsconfig_create(&fs).map_err(failed("create"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("fsmount"))
}

/// fsconfig(2) takes a path as it is; the escapes of the option string are for its parser.
fn unescape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut escaped = false;
    for c in path.chars() {
        escaped = c == '\\' && !escaped;
        if !escaped {
            out.push(c);
        }
    }
    out
}

/// Makes the mounts in a namespace of a thread's own and takes a detached copy.
fn in_private_namespace(mounts: &[Mount]) -> Result<OwnedFd> {
    private::run(|| {
        mount_all(mounts, Path::new(SCRATCH))?;
        private::take(Path::new(SCRATCH))
    })
}

/// The older kernels' way, for the tests of this folder.
#[cfg(test)]
pub(super) fn for_tests(mounts: &[Mount]) -> OwnedFd {
    in_private_namespace(&mounts.iter().map(read_only).collect::<Vec<_>>()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_folder_becomes_a_layer() {
        let m = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: None,
            options: ["index=off", "volatile", "workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs"]
                .map(String::from)
                .to_vec(),
        };
        assert_eq!(read_only(&m).options, ["index=off", "lowerdir=/s/3/fs:/s/2/fs:/s/1/fs", "ro"]);
    }

    #[test]
    fn escapes_are_for_the_option_string_only() {
        assert_eq!(unescape("/a\\:b\\\\c"), "/a:b\\c");
    }
}
