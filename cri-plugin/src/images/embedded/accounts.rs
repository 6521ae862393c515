//! etc/passwd and etc/group of an unpacked image, read once so that making a container needs no mount to know its users.

use std::os::fd::AsFd;

use cleat_snapshots::mount::{open_detached, read_in_root};

use super::node::{Node, snapshot_error};
use crate::Result;
use crate::images::Accounts;
use crate::images::digest::Digest;

/// Larger ones are no account files (CVE-2026-47262).
const MAX_FILE_BYTES: u64 = 10 << 20;

/// The account files of the image whose top layer this is. What is no regular file, or too large, is taken as missing: a
/// container that needs a name from it fails then, one that does not runs. Blocks.
///
/// # Errors
/// The snapshotter's and the kernel's.
pub fn read(node: &Node, top: Option<&Digest>) -> Result<Accounts> {
    let Some(top) = top else { return Ok(Accounts::default()) };
    let key = node.snapshot_key();
    let mounts = node.snapshotter.view(&key, Some(top.as_str())).map_err(snapshot_error)?;
    let accounts = open_detached(&mounts).map_err(snapshot_error).and_then(|root| {
        let file = |path: &str| match read_in_root(root.as_fd(), path, MAX_FILE_BYTES) {
            Ok(bytes) => Ok(bytes.unwrap_or_default()),
            Err(e @ (cleat_snapshots::Error::Invalid { .. } | cleat_snapshots::Error::TooLarge { .. })) => {
                tracing::warn!(image = %top, path, error = %e, "no account file");
                Ok(Vec::new())
            }
            Err(e) => Err(snapshot_error(e)),
        };
        Ok(Accounts { passwd: file("etc/passwd")?, group: file("etc/group")? })
    });
    if let Err(e) = node.snapshotter.remove(&key) {
        tracing::warn!(key, error = %e, "a view stays until the next start");
    }
    accounts
}
