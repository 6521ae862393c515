//! What is known about snapshots, in SQLite.
//!
//! One connection behind a mutex; no statement runs while files are touched. WAL with `synchronous=NORMAL`: a killed
//! process loses nothing, a power cut may lose the newest prepares and removes (repaired when the store is opened; a
//! reboot ends containers anyway). The one record that must not be lost, a committed layer, is followed by a sync of
//! the WAL. Checkpoints, which sync too, are left to the sweeper's own connection: never on a pod's way.
//!
//! A snapshot's row is written before its folder is made (`preparing`), marked when the folder is whole (`ready`), and
//! deleted before the folder is: whatever a crash leaves can be told apart.
//!
//! ```text
//! preparing --> ready --commit--> ready (committed)
//!     |           |--reboot, mounted volatile--> stale
//!     |           '--folder lost--> broken
//!     '--crash--> (row and folder dropped)
//! ```

mod repair;
mod row;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::error::{Error, Result};
use crate::snapshotter::{KEY_MAX_BYTES, Kind, Usage};

pub(crate) use row::{Row, State};

/// The layout of the tables; a database that says otherwise was written by another version.
const VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE snapshot (
        id      INTEGER PRIMARY KEY AUTOINCREMENT,
        key     TEXT NOT NULL UNIQUE,
        parent  INTEGER REFERENCES snapshot(id),
        kind    TEXT NOT NULL,
        state   TEXT NOT NULL,
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        opaque  INTEGER NOT NULL DEFAULT 0,
        bytes   INTEGER,
        inodes  INTEGER
    );
    CREATE INDEX snapshot_parent ON snapshot(parent);
    CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
";

/// The database of one store.
pub(crate) struct Metadata {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// What a commit records.
pub(crate) struct Commit<'a> {
    /// The row of the active snapshot.
    pub id: i64,
    /// Its key, for errors.
    pub key: &'a str,
    /// The name it gets.
    pub name: &'a str,
    /// The row of the layer below.
    pub parent: Option<i64>,
    /// Whether its top folder hides everything below.
    pub opaque: bool,
}

impl Metadata {
    /// Opens or makes the database at `path`. The caller holds the store's lock.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |op| move |source| Error::Metadata { op, path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(failed("open"))?;
        // The daemon is alone on this file; the sweeper's connection only holds the lock for a checkpoint.
        connection.busy_timeout(std::time::Duration::from_secs(10)).map_err(failed("open"))?;
        connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;
                 PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-256;",
            )
            .map_err(failed("open"))?;
        let version: i64 =
            connection.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(failed("read the version"))?;
        match version {
            0 => connection
                .execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;"))
                .map_err(failed("make the tables"))?,
            VERSION => {}
            other => {
                let why = format!("its version is {other}, this program writes {VERSION}");
                return Err(Error::Corrupt { what: path.display().to_string(), why });
            }
        }
        Ok(Metadata { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        // A panic between two statements leaves SQLite's own state sound: every change is one statement or transaction.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, op: &'static str) -> impl Fn(rusqlite::Error) -> Error + '_ {
        move |source| Error::Metadata { op, path: self.path.clone(), source }
    }

    /// A value kept about the store itself; sets it if `new` is given. Returns what was there before.
    pub fn about(&self, key: &str, new: Option<&str>) -> Result<Option<String>> {
        let db = self.db();
        let old = db
            .query_row("SELECT value FROM about WHERE key = ?", [key], |r| r.get(0))
            .optional()
            .map_err(self.failed("read about the store"))?;
        if let Some(new) = new.filter(|n| old.as_deref() != Some(*n)) {
            db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", [key, new])
                .map_err(self.failed("write about the store"))?;
        }
        Ok(old)
    }

    /// Records the intent to make a snapshot. Its state is `preparing` until [`Metadata::ready`].
    pub fn begin(&self, key: &str, parent: Option<&str>, kind: Kind) -> Result<Row> {
        check_key(key)?;
        let db = self.db();
        let parent = parent.map(|p| self.layer(&db, p)).transpose()?;
        let now = nanos_now();
        let inserted = db
            .prepare_cached(
                "INSERT INTO snapshot (key, parent, kind, state, created, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
            )
            .and_then(|mut s| {
                s.insert(params![key, parent.as_ref().map(|p| p.id), row::kind_word(kind), State::Preparing, now])
            });
        let id = inserted.map_err(|e| self.taken(key, e))?;
        Ok(Row {
            id,
            key: key.to_owned(),
            parent: parent.map(|p| (p.id, p.key)),
            kind,
            state: State::Preparing,
            created: now,
            updated: now,
            usage: None,
        })
    }

    /// The folder of a snapshot begun is whole.
    pub fn ready(&self, id: i64) -> Result<()> {
        self.db()
            .prepare_cached("UPDATE snapshot SET state = ? WHERE id = ?")
            .and_then(|mut s| s.execute(params![State::Ready, id]))
            .map_err(self.failed("mark a snapshot ready"))?;
        Ok(())
    }

    /// Forgets a snapshot begun whose folder could not be made.
    pub fn abandon(&self, id: i64) -> Result<()> {
        self.db()
            .execute("DELETE FROM snapshot WHERE id = ? AND state = ?", params![id, State::Preparing])
            .map_err(self.failed("forget a snapshot"))?;
        Ok(())
    }

    /// The snapshot `key`, whole.
    ///
    /// # Errors
    /// `NotFound`, also for one that is still being made.
    pub fn get(&self, key: &str) -> Result<Row> {
        let row = self.find(&self.db(), key)?;
        row.filter(|r| r.state != State::Preparing).ok_or_else(|| Error::NotFound { key: key.to_owned() })
    }

    /// The committed snapshot `name`, fit to be a parent.
    pub fn parent(&self, name: &str) -> Result<Row> {
        self.layer(&self.db(), name)
    }

    fn layer(&self, db: &Connection, name: &str) -> Result<Row> {
        let row = self.find(db, name)?.ok_or_else(|| Error::NotFound { key: name.to_owned() })?;
        if row.kind != Kind::Committed || row.state != State::Ready {
            let why = "it is not committed, so it cannot be a parent".to_owned();
            return Err(Error::FailedPrecondition { key: name.to_owned(), why });
        }
        Ok(row)
    }

    fn find(&self, db: &Connection, key: &str) -> Result<Option<Row>> {
        db.prepare_cached(row::SELECT_BY_KEY)
            .and_then(|mut s| s.query_row([key], Row::read).optional())
            .map_err(self.failed("read a snapshot"))
    }

    /// Ids of the layers a snapshot stands on, the nearest first, down to and with the first that hides the rest.
    pub fn chain(&self, row: &Row) -> Result<Vec<i64>> {
        row.parent.as_ref().map_or(Ok(Vec::new()), |(parent, _)| self.chain_from(*parent))
    }

    /// The layer `id` and those it stands on, as [`Metadata::chain`].
    pub fn chain_from(&self, id: i64) -> Result<Vec<i64>> {
        let db = self.db();
        let mut statement = db.prepare_cached(row::SELECT_CHAIN).map_err(self.failed("read a chain"))?;
        let ids = statement.query_map([id], |r| r.get(0)).and_then(Iterator::collect);
        ids.map_err(self.failed("read a chain"))
    }

    /// Records a layer; when this returns, the record survives a power cut.
    ///
    /// The WAL is synced by hand, after the statement and outside the lock: `PRAGMA synchronous=FULL` does the same while
    /// every pod's prepare and remove waits.
    pub fn commit(&self, commit: &Commit<'_>) -> Result<()> {
        check_key(commit.name)?;
        let updated = self
            .db()
            .prepare_cached(
                "UPDATE snapshot SET key = ?1, kind = 'committed', parent = ?2, opaque = ?3, updated = ?4
                 WHERE id = ?5 AND kind = 'active' AND state = 'ready'",
            )
            .and_then(|mut s| s.execute(params![commit.name, commit.parent, commit.opaque, nanos_now(), commit.id]));
        match updated {
            Ok(1) => self.sync(),
            // Removed, or committed by somebody else, while its files were being synced.
            Ok(_) => Err(Error::NotFound { key: commit.key.to_owned() }),
            Err(e) => Err(self.taken(commit.name, e)),
        }
    }

    /// Makes all that was recorded so far durable. What a checkpoint moved out of the WAL meanwhile it synced itself.
    fn sync(&self) -> Result<()> {
        let mut path = self.path.clone().into_os_string();
        path.push("-wal");
        let failed = |op| move |e| Error::io(op, &self.path, e);
        let wal = std::fs::File::open(&path).map_err(failed("open the WAL of"))?;
        wal.sync_data().map_err(failed("sync the WAL of"))
    }

    /// Forgets a snapshot that nothing stands on; returns its row.
    pub fn remove(&self, key: &str) -> Result<Row> {
        let db = self.db();
        let row = self.find(&db, key)?.ok_or_else(|| Error::NotFound { key: key.to_owned() })?;
        if row.state == State::Preparing {
            return Err(Error::FailedPrecondition { key: key.to_owned(), why: "it is still being made".into() });
        }
        let deleted = db.prepare_cached("DELETE FROM snapshot WHERE id = ?").and_then(|mut s| s.execute([row.id]));
        match deleted {
            Ok(_) => Ok(row),
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                let children = db
                    .query_row("SELECT count(*) FROM snapshot WHERE parent = ?", [row.id], |r| r.get::<_, i64>(0))
                    .map_err(self.failed("count children"))?;
                Err(Error::HasChildren { key: key.to_owned(), children: children.unsigned_abs() })
            }
            Err(e) => Err(self.failed("remove a snapshot")(e)),
        }
    }

    /// Keeps what a committed snapshot was measured to take.
    pub fn measured(&self, id: i64, usage: Usage) -> Result<()> {
        let (bytes, inodes) = (usage.bytes.cast_signed(), usage.inodes.cast_signed());
        self.db()
            .execute(
                "UPDATE snapshot SET bytes = ?, inodes = ? WHERE id = ? AND kind = 'committed'",
                params![bytes, inodes, id],
            )
            .map_err(self.failed("keep a measure"))?;
        Ok(())
    }

    /// All snapshots that are whole, parents before their children. A row that makes no sense is left out.
    pub fn all(&self) -> Result<Vec<Row>> {
        let db = self.db();
        let mut statement = db.prepare_cached(row::SELECT_ALL).map_err(self.failed("list snapshots"))?;
        let rows = statement.query_map([], Row::read).map_err(self.failed("list snapshots"))?;
        Ok(rows.filter_map(std::result::Result::ok).collect())
    }

    /// A constraint that failed on insert or update: the key is taken, or the parent went.
    fn taken(&self, key: &str, e: rusqlite::Error) -> Error {
        match e.sqlite_error().map(|e| e.extended_code) {
            Some(rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE) => Error::AlreadyExists { key: key.to_owned() },
            Some(rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => {
                Error::FailedPrecondition { key: key.to_owned(), why: "its parent was removed meanwhile".into() }
            }
            _ => self.failed("record a snapshot")(e),
        }
    }
}

/// Moves what the WAL holds into the database, on a connection of the caller's own: the store's is not blocked.
pub(crate) fn checkpoint(path: &Path) -> Result<()> {
    let failed = |source| Error::Metadata { op: "checkpoint", path: path.to_owned(), source };
    let connection = Connection::open(path).map_err(failed)?;
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).map_err(failed)
}

fn check_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > KEY_MAX_BYTES || key.contains('\0') {
        let shown: String = key.chars().take(64).collect();
        let why = format!("it has to have 1 to {KEY_MAX_BYTES} bytes, none of them NUL");
        return Err(Error::invalid(format!("snapshot key {shown:?}"), why));
    }
    Ok(())
}

fn nanos_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
