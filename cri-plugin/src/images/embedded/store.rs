//! `images.db`: which images there are, by which names, made of which blobs and layers (SQLite, WAL, synchronous FULL:
//! what was answered survives a power cut).
//!
//! The database is what is true; a copy in memory answers every question but that for the accounts. A record that cannot
//! be read is set aside: it stays in the file with the reason, is not listed, and a new pull replaces it. Everything
//! that writes blocks.

mod index;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::images::digest::Digest;
use crate::images::{Accounts, ImageId};
use crate::{Error, Result};
pub use index::Index;

/// Given up when the disk is full, so that an image can still be removed.
const RESERVE_BYTES: u64 = 1 << 20;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS images (
        id TEXT PRIMARY KEY, record TEXT NOT NULL, passwd BLOB NOT NULL, grp BLOB NOT NULL, set_aside TEXT
    ) STRICT;
    CREATE TABLE IF NOT EXISTS names (
        name TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE
    ) STRICT;
    CREATE INDEX IF NOT EXISTS names_of_image ON names(image);
    PRAGMA user_version = 1;";

/// One image as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: ImageId,
    /// The chain ids of its layers, the base first; the last one is its root file system.
    pub chain: Vec<Digest>,
    /// Index, manifest, config and layers with their sizes.
    pub blobs: BTreeMap<Digest, u64>,
    /// The config's `User`.
    pub user: String,
    /// The config's labels.
    pub labels: BTreeMap<String, String>,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    reserve: PathBuf,
    connection: Mutex<Connection>,
    index: RwLock<Index>,
}

impl Store {
    /// Opens `images.db` below `root`. A file that is no database is set aside as a whole: its images are pulled anew.
    ///
    /// # Errors
    /// `Io`, `Failed` with SQLite's words; another process that has it open among them.
    pub fn open(root: &Path) -> Result<Self> {
        let path = root.join("images.db");
        let connection = match connect(&path) {
            Err(Error::Corrupt { why, .. }) => {
                let aside = root.join("images.db.corrupt");
                tracing::error!(path = %path.display(), aside = %aside.display(), why, "the image database is corrupt");
                std::fs::rename(&path, &aside).map_err(Error::io("rename", &path))?;
                connect(&path)?
            }
            other => other?,
        };
        let store = Self {
            reserve: root.join("images.reserve"),
            path,
            connection: Mutex::new(connection),
            index: RwLock::default(),
        };
        store.load()?;
        store.refill();
        Ok(store)
    }

    /// The images as they are now; not to be held across an await.
    pub fn index(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores an image under `names`, which it takes over from whoever had them. Blobs of another manifest of the same
    /// image stay its own.
    ///
    /// # Errors
    /// `Io` for a full disk, `Failed` with SQLite's words.
    pub fn insert(&self, mut record: Record, accounts: &Accounts, names: &BTreeSet<String>) -> Result<()> {
        let mut connection = self.lock();
        if let Some(old) = self.index().by_id(&record.id) {
            record.blobs.extend(old.blobs.iter().map(|(digest, size)| (digest.clone(), *size)));
        }
        let text = serde_json::to_string(&record).map_err(|e| Error::corrupt("image record", e))?;
        self.write(&mut connection, "store an image", |transaction| {
            transaction.execute(
                "INSERT INTO images (id, record, passwd, grp) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET record = ?2, passwd = ?3, grp = ?4, set_aside = NULL",
                params![record.id.as_str(), text, accounts.passwd, accounts.group],
            )?;
            names.iter().try_for_each(|name| put_name(transaction, name, &record.id))
        })?;
        self.index_mut(|index| index.insert(record, names.iter().cloned()));
        Ok(())
    }

    /// Gives an image one name more; false if the image is not there.
    ///
    /// # Errors
    /// As `insert`.
    pub fn add_name(&self, id: &ImageId, name: &str) -> Result<bool> {
        let mut connection = self.lock();
        match self.index().name(name) {
            _ if self.index().by_id(id).is_none() => return Ok(false),
            Some(holder) if holder == id => return Ok(true),
            _ => {}
        }
        self.write(&mut connection, "name an image", |transaction| put_name(transaction, name, id))?;
        self.index_mut(|index| index.name_image(name.to_string(), id.clone()));
        Ok(true)
    }

    /// Forgets an image and its names, on a full disk too. Answers its record, if it was there.
    ///
    /// # Errors
    /// As `insert`.
    pub fn remove(&self, id: &ImageId) -> Result<Option<Arc<Record>>> {
        let mut connection = self.lock();
        let delete = |transaction: &Transaction<'_>| {
            transaction.execute("DELETE FROM images WHERE id = ?1", [id.as_str()]).map(drop)
        };
        let mut done = self.write(&mut connection, "remove an image", delete);
        if matches!(&done, Err(e) if is_no_space(e)) {
            std::fs::remove_file(&self.reserve).map_err(Error::io("unlink", &self.reserve))?;
            done = self.write(&mut connection, "remove an image", delete);
        }
        done?;
        let mut removed = None;
        self.index_mut(|index| removed = index.remove(id));
        Ok(removed)
    }

    /// The account files of an image.
    ///
    /// # Errors
    /// `NotFound`; `Failed` with SQLite's words.
    pub fn accounts(&self, id: &ImageId) -> Result<Accounts> {
        let read = |row: &rusqlite::Row<'_>| Ok(Accounts { passwd: row.get(0)?, group: row.get(1)? });
        let query = "SELECT passwd, grp FROM images WHERE id = ?1";
        let accounts = self.lock().query_row(query, [id.as_str()], read).optional();
        accounts
            .map_err(|e| failed(&self.path, "read accounts", e))?
            .ok_or_else(|| Error::not_found("image", id.as_str()))
    }

    /// Takes an image out of the list because of what is missing of it.
    ///
    /// # Errors
    /// As `insert`.
    pub fn set_aside(&self, id: &ImageId, why: &str) -> Result<()> {
        let mut connection = self.lock();
        self.set_aside_row(&mut connection, id.as_str(), why)?;
        self.index_mut(|index| drop(index.remove(id)));
        Ok(())
    }

    /// Makes room for the next removal on a full disk; to be called when something was freed.
    pub fn refill(&self) {
        if std::fs::metadata(&self.reserve).is_ok_and(|m| m.len() == RESERVE_BYTES) {
            return;
        }
        let filled = std::fs::File::create(&self.reserve).and_then(|file| {
            let size = RESERVE_BYTES;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size).map_err(std::io::Error::from)
        });
        if let Err(e) = filled {
            tracing::warn!(path = %self.reserve.display(), error = %e, "no room to remove an image on a full disk");
        }
    }

    /// Reads all records; the unreadable ones are set aside.
    fn load(&self) -> Result<()> {
        let mut connection = self.lock();
        let (mut index, mut bad) = (Index::default(), Vec::new());
        let rows = all(&connection, "SELECT id, record FROM images WHERE set_aside IS NULL");
        for (id, text) in rows.map_err(|e| failed(&self.path, "read images", e))? {
            match serde_json::from_str::<Record>(&text) {
                Ok(record) if record.id.as_str() == id => index.insert(record, std::iter::empty()),
                Ok(_) => bad.push((id, "its record is another image's".to_string())),
                Err(e) => bad.push((id, e.to_string())),
            }
        }
        for (id, why) in bad {
            self.set_aside_row(&mut connection, &id, &why)?;
        }
        let rows = all(&connection, "SELECT image, name FROM names");
        for (image, name) in rows.map_err(|e| failed(&self.path, "read names", e))? {
            match image.parse() {
                Ok(id) if index.by_id(&id).is_some() => index.name_image(name, id),
                _ => tracing::warn!(name, image, "a name of no image"),
            }
        }
        self.index_mut(|current| *current = index);
        Ok(())
    }

    fn set_aside_row(&self, connection: &mut Connection, id: &str, why: &str) -> Result<()> {
        tracing::error!(image = id, why, "an image is set aside: pull it again");
        self.write(connection, "set an image aside", |transaction| {
            transaction.execute("DELETE FROM names WHERE image = ?1", [id])?;
            transaction.execute("UPDATE images SET set_aside = ?2 WHERE id = ?1", [id, why]).map(drop)
        })
    }

    fn write(
        &self,
        connection: &mut Connection,
        what: &str,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<()> {
        let run = || {
            let transaction = connection.transaction()?;
            change(&transaction)?;
            transaction.commit()
        };
        run().map_err(|e| failed(&self.path, what, e))
    }

    fn index_mut(&self, change: impl FnOnce(&mut Index)) {
        change(&mut self.index.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put_name(transaction: &Transaction<'_>, name: &str, id: &ImageId) -> rusqlite::Result<()> {
    transaction.execute("INSERT OR REPLACE INTO names (name, image) VALUES (?1, ?2)", [name, id.as_str()]).map(drop)
}

fn all(connection: &Connection, query: &str) -> rusqlite::Result<Vec<(String, String)>> {
    connection.prepare(query)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// One process has it, for good: the lock is never given back, and no shared memory file is needed.
fn connect(path: &Path) -> Result<Connection> {
    let open = || {
        let connection = Connection::open(path)?;
        connection.execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = 4194304;",
        )?;
        connection.execute_batch(SCHEMA)?;
        Ok(connection)
    };
    open().map_err(|e| failed(path, "open", e))
}

fn failed(path: &Path, what: &str, e: rusqlite::Error) -> Error {
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            Error::Io { op: "write", path: path.to_path_buf(), source: std::io::Error::from_raw_os_error(libc::ENOSPC) }
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::corrupt(path.display().to_string(), e),
        _ => Error::failed(format!("{}: {what}", path.display()), e),
    }
}

/// Whether a full disk is the cause.
pub fn is_no_space(e: &Error) -> bool {
    matches!(e, Error::Io { source, .. } if matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)))
}

#[cfg(test)]
mod tests;
