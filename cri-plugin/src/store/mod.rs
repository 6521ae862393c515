//! Pods and containers on disk: one SQLite file that a killed daemon finds again.
//!
//! WAL with `synchronous = NORMAL`: a write is safe from a killed daemon at once, without an fsync per call; a power
//! cut may lose the newest writes, but a power cut also ends every container they speak of. A record is two columns:
//! the client's own configuration as it came (protobuf) and our state (JSON, readable with the `sqlite3` shell).
//! One bad record is moved to `set_aside` with the reason; it never stops the daemon. Images have a store of their own.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, params};

use crate::{Error, Result};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS objects (
        kind TEXT NOT NULL, id TEXT NOT NULL, config BLOB NOT NULL, state TEXT NOT NULL, PRIMARY KEY (kind, id)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS set_aside (
        kind TEXT NOT NULL, id TEXT NOT NULL, config BLOB NOT NULL, state TEXT NOT NULL, why TEXT NOT NULL
    );
";

/// What can be stored: a sandbox or a container.
pub trait Record: Sized {
    /// "sandbox" or "container": also how it is told apart on disk.
    const KIND: &'static str;

    /// Its id.
    fn id(&self) -> &str;

    /// The client's configuration (protobuf) and our state (JSON).
    ///
    /// # Errors
    /// When the state has no JSON form.
    fn encode(&self) -> Result<Row>;

    /// The other direction.
    ///
    /// # Errors
    /// `Corrupt`, with the reason.
    fn decode(id: &str, row: &Row) -> Result<Self>;
}

/// The two columns of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The client's configuration, protobuf.
    pub config: Vec<u8>,
    /// Our state, JSON.
    pub state: String,
}

/// The open store. Cloning shares it.
#[derive(Clone)]
pub struct Store(Arc<Mutex<Connection>>);

impl Store {
    /// Opens or creates the file. Blocks.
    ///
    /// # Errors
    /// `Corrupt` where SQLite cannot make sense of it.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |e: rusqlite::Error| Error::corrupt(path.display().to_string(), e);
        let connection = Connection::open(path).map_err(wrong)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(wrong)?;
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(wrong)?;
        connection.execute_batch(SCHEMA).map_err(wrong)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Writes a record, new or not.
    ///
    /// # Errors
    /// `Corrupt` with SQLite's words, which include a full disk.
    pub async fn put<R: Record>(&self, record: &R) -> Result<()> {
        let (id, row) = (record.id().to_string(), record.encode()?);
        self.with(move |db| {
            db.prepare_cached("INSERT OR REPLACE INTO objects (kind, id, config, state) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![R::KIND, id, row.config, row.state])
        })
        .await
        .map(drop)
    }

    /// Forgets a record; one that is not there counts as forgotten.
    ///
    /// # Errors
    /// As `put`.
    pub async fn delete<R: Record>(&self, id: &str) -> Result<()> {
        let id = id.to_string();
        self.with(move |db| {
            db.prepare_cached("DELETE FROM objects WHERE kind = ?1 AND id = ?2")?.execute(params![R::KIND, id])
        })
        .await
        .map(drop)
    }

    /// Reads all records of a kind; what cannot be read is set aside and named in the log.
    ///
    /// # Errors
    /// As `put`.
    pub async fn load<R: Record>(&self) -> Result<Vec<R>> {
        let rows = self.with(|db| rows(db, R::KIND)).await?;
        let mut records = Vec::with_capacity(rows.len());
        for (id, row) in rows {
            match row.and_then(|row| R::decode(&id, &row)) {
                Ok(record) => records.push(record),
                Err(e) => {
                    tracing::error!(kind = R::KIND, id, error = %e, "a record is set aside: it cannot be read");
                    self.set_aside(R::KIND, id, e.to_string()).await?;
                }
            }
        }
        Ok(records)
    }

    async fn set_aside(&self, kind: &'static str, id: String, why: String) -> Result<()> {
        self.with(move |db| {
            let step = db.transaction()?;
            step.execute(
                "INSERT INTO set_aside SELECT kind, id, config, state, ?3 FROM objects WHERE kind = ?1 AND id = ?2",
                params![kind, id, why],
            )?;
            step.execute("DELETE FROM objects WHERE kind = ?1 AND id = ?2", params![kind, id])?;
            step.commit()
        })
        .await
    }

    async fn with<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = self.0.clone();
        let done = tokio::task::spawn_blocking(move || {
            call(&mut connection.lock().unwrap_or_else(PoisonError::into_inner))
                .map_err(|e| Error::corrupt("the store of pods", e))
        });
        done.await.map_err(|e| Error::corrupt("the store of pods", e))?
    }
}

type Loaded = (String, Result<Row>);

/// A row whose columns have other types than ours is an error of that row alone.
fn rows(db: &mut Connection, kind: &str) -> rusqlite::Result<Vec<Loaded>> {
    let mut query = db.prepare("SELECT id, config, state FROM objects WHERE kind = ?1")?;
    let rows = query.query_map([kind], |row| {
        let columns = (|| Ok(Row { config: row.get(1)?, state: row.get(2)? }))();
        Ok((row.get(0)?, columns.map_err(|e: rusqlite::Error| Error::corrupt("a record", e))))
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Note(String, Row);

    impl Record for Note {
        const KIND: &'static str = "note";

        fn id(&self) -> &str {
            &self.0
        }

        fn encode(&self) -> Result<Row> {
            Ok(self.1.clone())
        }

        fn decode(id: &str, row: &Row) -> Result<Self> {
            if row.state == "bad" {
                return Err(Error::corrupt("note", "it says so"));
            }
            Ok(Self(id.into(), row.clone()))
        }
    }

    fn note(id: &str, state: &str) -> Note {
        Note(id.into(), Row { config: vec![1, 0, 255], state: state.into() })
    }

    #[tokio::test]
    async fn a_bad_record_is_set_aside_and_the_others_load() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("store.db")).expect("open");
        for record in [note("a", "good"), note("b", "bad"), note("c", "good")] {
            store.put(&record).await.expect("put");
        }
        store
            .0
            .lock()
            .expect("lock")
            .execute("INSERT INTO objects VALUES ('note', 'd', 'text', x'ff')", [])
            .expect("d");
        store.delete::<Note>("c").await.expect("delete");
        store.delete::<Note>("never there").await.expect("delete");
        drop(store);

        let store = Store::open(&dir.path().join("store.db")).expect("reopen");
        assert_eq!(store.load::<Note>().await.expect("load"), [note("a", "good")]);
        let aside: i64 = store
            .0
            .lock()
            .expect("lock")
            .query_row("SELECT count(*) FROM set_aside", [], |row| row.get(0))
            .expect("count");
        assert_eq!(aside, 2);
        assert_eq!(store.load::<Note>().await.expect("again").len(), 1);
    }

    #[test]
    fn a_file_that_is_no_database_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("store.db");
        std::fs::write(&path, vec![0x55; 4096]).expect("write");
        let e = Store::open(&path).err().expect("no database").to_string();
        assert!(e.contains("store.db"), "{e}");
    }
}
