//! Unpacking a layer: a stream of tar, written by anybody, into a folder of the host.
//!
//! ```text
//! archive   blocks -> entries (header, pax)
//! name      what an entry asks for: a file, a whiteout
//! folders   where: a descriptor of the folder, found inside the root and nowhere else
//! unpack    one entry: make it, attributes
//! implied   folders the layer does not describe
//! ```
//! No path of the archive is ever given to the kernel except relative to the root with `RESOLVE_IN_ROOT`, or as a single
//! component relative to a folder's descriptor with nothing followed. Nothing is checked first and used later: files are
//! made with `O_EXCL`, and what is in the way is removed when the kernel says so.
//!
//! Deliberately absent: decompression and digests (the caller's stream does both, and sees every byte: what follows
//! the archive is read too), and progress (count what the stream hands out).

mod archive;
mod attributes;
mod folders;
mod header;
pub(crate) mod implied;
mod name;
mod pax;
mod purge;
mod unpack;

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::mount::Mount;
use crate::snapshotter::Snapshotter;

/// What a layer lands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A folder of its own; whiteouts become overlayfs's.
    Overlay,
    /// Its parent's files; whiteouts delete.
    Merged,
}

/// What happens to device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// They are made.
    Create,
    /// They are left out, as a user namespace would have it.
    Skip,
}

/// How much a layer may be. Anything beyond is an error, never cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all files together; also of what follows the archive's end.
    pub max_bytes: u64,
    /// Entries of the archive.
    pub max_entries: u64,
    /// Bytes of a path, and of a link's target.
    pub max_path: u64,
    /// Whether device nodes are made.
    pub devices: Devices,
}

impl Default for Limits {
    /// More than any image in use has, less than fills a node's memory with names.
    fn default() -> Self {
        Limits { max_bytes: 256 << 30, max_entries: 8 << 20, max_path: 4095, devices: Devices::Create }
    }
}

/// What a layer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Bytes of its files.
    pub bytes: u64,
    /// Entries of its archive.
    pub entries: u64,
}

/// Unpacks the tar stream `reader` into the folder `root`, to the stream's end.
///
/// Blocks. Needs CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_MKNOD and CAP_SETFCAP, and CAP_SYS_ADMIN for
/// [`Mode::Overlay`]; nobody else may write below `root` meanwhile. Nothing is synced: `commit` does that, once.
///
/// # Errors
/// `Invalid` for a broken or hostile archive, `TooLarge` beyond `limits`, `Io` otherwise (`is_no_space` when the disk is
/// full). What was unpacked so far stays: the caller removes the snapshot.
pub fn apply(reader: impl Read, root: &Path, mode: Mode, limits: &Limits) -> Result<Applied> {
    unpack::Unpack::new(reader, root, mode, limits)?.run()
}

/// Where a layer prepared as `mounts` is unpacked without mounting anything, and how. None: they have to be mounted, and
/// the layer lands [`Mode::Merged`] on the mount.
pub fn destination(snapshotter: &dyn Snapshotter, mounts: &[Mount]) -> Option<(PathBuf, Mode)> {
    let [mount] = mounts else { return None };
    match mount.kind.as_str() {
        "overlay" => {
            let upper = mount.options.iter().find_map(|o| o.strip_prefix("upperdir="))?;
            Some((upper.into(), Mode::Overlay))
        }
        "bind" if snapshotter.independent_layers() => Some(((&mount.source).into(), Mode::Overlay)),
        "bind" => Some(((&mount.source).into(), Mode::Merged)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
