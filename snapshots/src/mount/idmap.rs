//! Snapshots for a pod with a user namespace: the files of a layer seem to belong to the pod's users.
//!
//! containerd's options `uidmap=CONTAINER:HOST:SIZE` and `gidmap=...` ask for it. Overlayfs cannot be mapped itself, but
//! its layers can (Linux 5.19): each is cloned, mapped and put where the overlay finds it, in a mount namespace that is
//! gone afterwards. The upper folder is not mapped: what the container writes there belongs to the pod's users on the
//! disk too, so its top folder is given to them.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, fchown, fstat, openat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::options::Options;
use super::overlay::split;
use super::private::{self, SCRATCH};
use super::sys::{Holder, map_owners};
use crate::error::{Error, Result};

/// How a pod's ids map to the host's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IdMap {
    uids: Vec<Range>,
    gids: Vec<Range>,
}

/// A run of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    size: u32,
}

impl IdMap {
    /// Reads the two options' values.
    pub fn parse(uids: &str, gids: &str) -> Result<Self> {
        Ok(IdMap { uids: ranges(uids)?, gids: ranges(gids)? })
    }

    /// A user namespace with this mapping. Its process is gone when this returns; the descriptor keeps it.
    fn namespace(&self) -> Result<OwnedFd> {
        let holder = Holder::start().map_err(|e| Error::io("clone into", "a user namespace", e))?;
        for (name, ranges) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
            let path = format!("/proc/{}/{name}", holder.pid);
            let lines: Vec<String> =
                ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.size)).collect();
            fs::write(&path, lines.concat()).map_err(|e| Error::io("write", &path, e))?;
        }
        let path = format!("/proc/{}/ns/user", holder.pid);
        openat(CWD, path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::io("open", &path, e))
    }
}

fn ranges(text: &str) -> Result<Vec<Range>> {
    let range = |part: &str| {
        let numbers: Vec<u32> = part.split(':').map_while(|n| n.parse().ok()).collect();
        match numbers.as_slice() {
            [inside, outside, size] if *size > 0 && part.split(':').count() == 3 => {
                Ok(Range { inside: *inside, outside: *outside, size: *size })
            }
            _ => Err(Error::invalid(format!("id map {text:?}"), "it has to be CONTAINER:HOST:SIZE[,...]")),
        }
    };
    text.split(',').map(range).collect()
}

/// The id outside for one inside; others stay.
fn outside(ranges: &[Range], id: u32) -> u32 {
    let hit = ranges.iter().find(|r| id.checked_sub(r.inside).is_some_and(|offset| offset < r.size));
    hit.map_or(id, |r| r.outside + (id - r.inside))
}

/// Binds `source` on `target` with owners mapped.
pub(super) fn bind(source: &Path, target: &Path, map: &IdMap, recursive: bool) -> Result<()> {
    let tree = mapped(source, map.namespace()?.as_fd(), recursive)?;
    attach(&tree, target)
}

fn mapped(source: &Path, namespace: std::os::fd::BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, source, flags).map_err(|e| Error::io("open_tree", source, e))?;
    map_owners(tree.as_fd(), namespace).map_err(|e| Error::io("map the owners of", source, e))?;
    Ok(tree)
}

fn attach(tree: &OwnedFd, target: &Path) -> Result<()> {
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| Error::io("move_mount to", target, e))
}

/// Mounts an overlay on `target` whose layers' owners are mapped.
pub(super) fn overlay(source: &str, target: &Path, options: &Options<'_>, map: &IdMap) -> Result<()> {
    let namespace = map.namespace()?;
    let lower: Vec<String> = options.data.iter().filter_map(|o| o.strip_prefix("lowerdir=")).flat_map(split).collect();
    if let Some(upper) = options.data.iter().find_map(|o| o.strip_prefix("upperdir=")) {
        give(Path::new(upper), map)?;
    }
    let tree = private::run(|| {
        let scratch = Path::new(SCRATCH);
        mount(Some("layers"), scratch, Some("tmpfs"), MsFlags::empty(), Some("mode=700"))
            .map_err(|e| Error::io("mount tmpfs on", scratch, e))?;
        // Short and relative, so that as many layers fit into a page of options as the kernel takes.
        nix::unistd::chdir(scratch).map_err(|e| Error::io("chdir", scratch, e))?;
        for (i, layer) in lower.iter().enumerate() {
            let place = scratch.join(i.to_string());
            fs::create_dir(&place).map_err(|e| Error::io("mkdir", &place, e))?;
            attach(&mapped(Path::new(layer), namespace.as_fd(), false)?, &place)?;
        }
        let merged = scratch.join("merged");
        fs::create_dir(&merged).map_err(|e| Error::io("mkdir", &merged, e))?;
        let layers: Vec<String> = (0..lower.len()).map(|i| i.to_string()).collect();
        let data: Vec<String> = options
            .data
            .iter()
            .filter(|o| !o.starts_with("lowerdir="))
            .map(|o| (*o).to_owned())
            .chain([format!("lowerdir={}", layers.join(":"))])
            .collect();
        mount(Some(source), &merged, Some("overlay"), options.flags, Some(data.join(",").as_str()))
            .map_err(|e| Error::io("mount overlay for", target, e))?;
        private::take(&merged)
    })?;
    attach(&tree, target)
}

/// Gives the upper folder's top to the pod's users, if it is not theirs yet: it is the container's root folder.
fn give(upper: &Path, map: &IdMap) -> Result<()> {
    let failed = |op| move |e| Error::io(op, upper, e);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(CWD, upper, flags, Mode::empty()).map_err(failed("open folder"))?;
    let stat = fstat(&fd).map_err(failed("stat"))?;
    let (uid, gid) = (outside(&map.uids, stat.st_uid), outside(&map.gids, stat.st_gid));
    if (uid, gid) == (stat.st_uid, stat.st_gid) {
        return Ok(());
    }
    fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(failed("chown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps() {
        let map = IdMap::parse("0:100000:65536,70000:5:1", "0:200000:10").unwrap();
        assert_eq!(map.uids.len(), 2);
        for (id, want) in [(0, 100_000), (65_535, 165_535), (65_536, 65_536), (70_000, 5), (100_000, 100_000)] {
            assert_eq!(outside(&map.uids, id), want);
        }
        for bad in ["", "0", "0:1", "0:1:0", "0:1:2:3", "a:1:2", "0:1:2,", "-1:1:1", "0:4294967296:1"] {
            assert!(IdMap::parse(bad, "0:0:1").is_err(), "{bad}");
        }
    }
}
