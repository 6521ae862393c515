//! What a tree takes on the disk, as du(1) counts it.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::Errno;

use super::{Pending, open_folder};
use crate::error::Result;
use crate::snapshotter::Usage;

/// st_blocks counts units of this size, whatever the filesystem's own block is (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// Measures the tree at `root`, its top included. What vanishes meanwhile (a container is running in it) is left out.
pub(crate) fn measure(root: &Path) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let mut pending = vec![Pending::root(open_folder(root)?)];
    while let Some(next) = pending.pop() {
        let folder = match next.open() {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(e) => return Err(crate::Error::io("measure", root, e)),
        };
        let own = rustix::fs::fstat(folder.fd.as_fd()).map_err(|e| folder.failed("stat", e))?;
        usage.inodes += 1;
        usage.bytes += own.st_blocks.unsigned_abs() * BLOCK_BYTES;
        for entry in folder.entries()? {
            let (name, kind) = entry.map_err(|e| folder.failed("read folder", e))?;
            if kind == FileType::Directory {
                pending.push(folder.child(&name));
                continue;
            }
            let stat = match statat(folder.fd.as_fd(), name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(folder.failed("stat in", e)),
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                pending.push(folder.child(&name));
            } else if stat.st_nlink == 1 || linked.insert((stat.st_dev, stat.st_ino)) {
                usage.inodes += 1;
                usage.bytes += stat.st_blocks.unsigned_abs() * BLOCK_BYTES;
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn links_count_once_and_folders_count() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/one"), vec![1; 10_000]).unwrap();
        fs::hard_link(dir.path().join("a/one"), dir.path().join("a/b/two")).unwrap();
        std::os::unix::fs::symlink("one", dir.path().join("a/link")).unwrap();
        let usage = measure(dir.path()).unwrap();
        assert_eq!(usage.inodes, 5, "top, a, b, one file, one link");
        assert!((10_000..80_000).contains(&usage.bytes), "{}", usage.bytes);
    }
}
