//! A snapshot's row, and the words its columns hold. A word nobody knows is an error, never a default.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use crate::snapshotter::{Info, Kind, Usage};

/// One snapshot by its key.
pub(super) const SELECT_BY_KEY: &str =
    "SELECT s.id, s.key, s.parent, p.key, s.kind, s.state, s.created, s.updated, s.bytes, s.inodes
     FROM snapshot s LEFT JOIN snapshot p ON p.id = s.parent WHERE s.key = ?";

/// All that are whole. A parent can have a larger id than its child: layers unpacked side by side get it at commit.
pub(super) const SELECT_ALL: &str = "WITH RECURSIVE depth(id, level) AS (
         SELECT id, 0 FROM snapshot WHERE parent IS NULL
         UNION ALL SELECT s.id, level + 1 FROM snapshot s JOIN depth d ON s.parent = d.id)
     SELECT s.id, s.key, s.parent, p.key, s.kind, s.state, s.created, s.updated, s.bytes, s.inodes
     FROM depth d JOIN snapshot s ON s.id = d.id LEFT JOIN snapshot p ON p.id = s.parent
     WHERE s.state <> 'preparing' AND NOT (s.kind = 'committed' AND s.state <> 'ready')
     ORDER BY level, s.id";

/// The layers from one id down, nearest first, to the first opaque one.
pub(super) const SELECT_CHAIN: &str = "WITH RECURSIVE chain(id, parent, opaque, level) AS (
         SELECT id, parent, opaque, 0 FROM snapshot WHERE id = ?
         UNION ALL SELECT s.id, s.parent, s.opaque, level + 1
         FROM snapshot s JOIN chain c ON s.id = c.parent WHERE NOT c.opaque)
     SELECT id FROM chain ORDER BY level LIMIT 1000";

/// One row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// The name of its folder.
    pub id: i64,
    /// Key or name.
    pub key: String,
    /// Id and name of the layer it stands on.
    pub parent: Option<(i64, String)>,
    /// What it is.
    pub kind: Kind,
    /// How it fares.
    pub state: State,
    /// Nanoseconds since the epoch.
    pub created: i64,
    /// Nanoseconds since the epoch.
    pub updated: i64,
    /// What it takes on the disk, if it is committed and was measured.
    pub usage: Option<Usage>,
}

/// How a snapshot fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Its folder is being made; a crash now drops it.
    Preparing,
    /// Whole.
    Ready,
    /// It was written through a mount that never syncs, and the machine went down: its files may be anything.
    Stale,
    /// Its folder, or that of a layer it stands on, is gone.
    Broken,
}

impl State {
    const WORDS: [(State, &'static str); 4] =
        [(State::Preparing, "preparing"), (State::Ready, "ready"), (State::Stale, "stale"), (State::Broken, "broken")];
}

impl ToSql for State {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let word = State::WORDS.iter().find(|(s, _)| s == self).map_or("broken", |(_, w)| w);
        Ok(ToSqlOutput::from(word))
    }
}

impl FromSql for State {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let word = value.as_str()?;
        State::WORDS.iter().find(|(_, w)| *w == word).map(|(s, _)| *s).ok_or(FromSqlError::InvalidType)
    }
}

/// The word a kind is stored as.
pub(super) fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::View => "view",
        Kind::Active => "active",
        Kind::Committed => "committed",
    }
}

struct KindColumn(Kind);

impl FromSql for KindColumn {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_str()? {
            "view" => Ok(KindColumn(Kind::View)),
            "active" => Ok(KindColumn(Kind::Active)),
            "committed" => Ok(KindColumn(Kind::Committed)),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}

impl Row {
    /// Reads what the SELECTs above return.
    pub(super) fn read(r: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let bytes: Option<i64> = r.get(8)?;
        let inodes: Option<i64> = r.get(9)?;
        Ok(Row {
            id: r.get(0)?,
            key: r.get(1)?,
            parent: r.get::<_, Option<i64>>(2)?.zip(r.get(3)?),
            kind: r.get::<_, KindColumn>(4)?.0,
            state: r.get(5)?,
            created: r.get(6)?,
            updated: r.get(7)?,
            usage: bytes
                .zip(inodes)
                .map(|(bytes, inodes)| Usage { bytes: bytes.cast_unsigned(), inodes: inodes.cast_unsigned() }),
        })
    }

    /// What the outside sees of it.
    pub fn info(self) -> Info {
        let time = |nanos: i64| -> SystemTime { UNIX_EPOCH + Duration::from_nanos(nanos.max(0).unsigned_abs()) };
        Info {
            name: self.key,
            parent: self.parent.map(|(_, key)| key),
            kind: self.kind,
            created: time(self.created),
            updated: time(self.updated),
        }
    }
}
