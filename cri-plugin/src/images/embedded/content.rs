//! The content store: blobs by digest, below `content/`.
//!
//! `blobs/sha256/HEX` is a whole blob: its bytes were hashed, synced, renamed and its directory synced, in that order.
//! `ingest/` holds what is on its way; what a crash left there goes at the next open. Which blobs are wanted is not known
//! here. Everything blocks.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use crate::images::digest::Digest;
use crate::{Error, Result};

/// The store.
#[derive(Debug)]
pub struct Content {
    blobs: PathBuf,
    ingests: PathBuf,
    next_ingest: AtomicU64,
}

impl Content {
    /// Opens the store below `root`, making it if it is not there, and collects old ingests.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(root: &Path) -> Result<Self> {
        let (blobs, ingests) = (root.join("content/blobs/sha256"), root.join("content/ingest"));
        for dir in [&blobs, &ingests] {
            make_dir(dir)?;
        }
        for entry in std::fs::read_dir(&ingests).map_err(Error::io("read", &ingests))?.flatten() {
            tracing::info!(path = %entry.path().display(), "removing an ingest that a crash left");
            std::fs::remove_file(entry.path()).map_err(Error::io("unlink", entry.path()))?;
        }
        Ok(Self { blobs, ingests, next_ingest: AtomicU64::new(0) })
    }

    /// The size of a blob that is there.
    pub fn size_bytes(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.path(digest)).ok().filter(std::fs::Metadata::is_file).map(|m| m.len())
    }

    /// A blob to be read. Whoever reads it checks its hash.
    ///
    /// # Errors
    /// `Io`.
    pub fn file(&self, digest: &Digest) -> Result<File> {
        File::open(self.path(digest)).map_err(Error::io("open", self.path(digest)))
    }

    /// A small blob, whole and checked; none if it is not there.
    ///
    /// # Errors
    /// `Corrupt` if its bytes are not the digest's; `Io`.
    pub fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let path = self.path(digest);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        match Digest::of(&bytes) {
            actual if actual == *digest => Ok(Some(bytes)),
            actual => Err(Error::corrupt(path.display().to_string(), format!("its digest is {actual}"))),
        }
    }

    /// Stores a small blob that was checked already. Does nothing if it is there and whole.
    ///
    /// # Errors
    /// As `Ingest::finish`.
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if matches!(self.read(digest), Ok(Some(_))) {
            return Ok(());
        }
        let mut ingest = self.ingest(digest, bytes.len() as u64)?;
        ingest.write(bytes)?;
        ingest.finish()
    }

    /// Starts to store a blob of a known digest and size.
    ///
    /// # Errors
    /// `Io`.
    pub fn ingest(&self, digest: &Digest, size_bytes: u64) -> Result<Ingest> {
        let number = self.next_ingest.fetch_add(1, Ordering::Relaxed);
        let path = self.ingests.join(format!("{}-{number}", digest.hex()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(Error::io("create", &path))?;
        Ok(Ingest {
            target: self.path(digest),
            digest: digest.clone(),
            size_bytes,
            file,
            path,
            hasher: Sha256::new(),
            written_bytes: 0,
        })
    }

    /// Removes a blob; one that is not there is removed.
    ///
    /// # Errors
    /// `Io`.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        match std::fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("unlink", self.path(digest))(e)),
            _ => Ok(()),
        }
    }

    /// All blobs, with when each was stored. A file that is named like none is left alone.
    ///
    /// # Errors
    /// `Io`.
    pub fn list(&self) -> Result<Vec<Blob>> {
        let entries = std::fs::read_dir(&self.blobs).map_err(Error::io("read", &self.blobs))?;
        let blob = |entry: std::fs::DirEntry| {
            let digest: Digest = format!("sha256:{}", entry.file_name().to_str()?).parse().ok()?;
            let metadata = entry.metadata().ok()?;
            Some(Blob { digest, size_bytes: metadata.len(), stored: metadata.modified().ok()? })
        };
        Ok(entries.flatten().filter_map(blob).collect())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }
}

/// A blob that is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// When.
    pub stored: std::time::SystemTime,
}

/// A blob on its way into the store. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Ingest {
    digest: Digest,
    size_bytes: u64,
    target: PathBuf,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    written_bytes: u64,
}

impl Ingest {
    /// The next bytes.
    ///
    /// # Errors
    /// `Corrupt` for more than the size; `Io`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written_bytes += bytes.len() as u64;
        if self.written_bytes > self.size_bytes {
            return Err(self.corrupt(format!("longer than its {} bytes", self.size_bytes)));
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))
    }

    /// Checks size and digest, and makes the blob durable and visible.
    ///
    /// # Errors
    /// `Corrupt`; `Io`. Nothing is stored then.
    pub fn finish(mut self) -> Result<()> {
        if self.written_bytes != self.size_bytes {
            return Err(self.corrupt(format!("{} bytes instead of {}", self.written_bytes, self.size_bytes)));
        }
        let actual = Digest::finish(std::mem::take(&mut self.hasher));
        if actual != self.digest {
            return Err(self.corrupt(format!("its digest is {actual}")));
        }
        self.file.sync_all().map_err(Error::io("fsync", &self.path))?;
        std::fs::rename(&self.path, &self.target).map_err(Error::io("rename", &self.target))?;
        sync_parent(&self.target)
    }

    fn corrupt(&self, why: String) -> Error {
        Error::corrupt(format!("blob {}", self.digest), why)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // After a rename the name is gone: nothing is removed.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A directory of our own and its parents.
fn make_dir(dir: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io("mkdir", dir))
}

/// Makes a new name in a directory durable.
fn sync_parent(path: &Path) -> Result<()> {
    let Some(dir) = path.parent() else { return Ok(()) };
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io("fsync", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Content) {
        let dir = tempfile::tempdir().expect("tempdir");
        let content = Content::open(dir.path()).expect("open");
        (dir, content)
    }

    fn files(dir: &Path) -> usize {
        std::fs::read_dir(dir).expect("read").count()
    }

    #[test]
    fn a_blob_comes_back_and_goes() {
        let (_dir, content) = store();
        let digest = Digest::of(b"hello");
        content.put(&digest, b"hello").expect("put");
        content.put(&digest, b"hello").expect("again");
        assert_eq!(content.read(&digest).expect("read").as_deref(), Some(&b"hello"[..]));
        assert_eq!(content.list().expect("list").len(), 1);
        content.remove(&digest).expect("remove");
        content.remove(&digest).expect("missing is removed");
        assert_eq!(content.read(&digest).expect("read"), None);
    }

    #[test]
    fn what_is_not_the_digests_is_never_stored() {
        let (_dir, content) = store();
        let digest = Digest::of(b"hello");
        for bytes in [&b"hellx"[..], b"hell", b"hello!"] {
            let mut ingest = content.ingest(&digest, 5).expect("ingest");
            let stored = ingest.write(bytes).and_then(|()| ingest.finish());
            assert!(matches!(stored, Err(Error::Corrupt { .. })), "{bytes:?}");
            assert_eq!(content.size_bytes(&digest), None);
        }
        assert_eq!(files(&content.ingests), 0);
    }

    #[test]
    fn ingests_of_a_crash_are_collected_and_rot_is_seen() {
        let (dir, content) = store();
        let digest = Digest::of(b"hello");
        let mut ingest = content.ingest(&digest, 5).expect("ingest");
        ingest.write(b"he").expect("write");
        std::mem::forget(ingest);
        content.put(&digest, b"hello").expect("put");
        let again = Content::open(dir.path()).expect("open");
        assert_eq!(files(&again.ingests), 0);
        std::fs::write(again.path(&digest), "hellx").expect("rot");
        assert!(matches!(again.read(&digest), Err(Error::Corrupt { .. })));
    }
}
