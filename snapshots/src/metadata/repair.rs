//! Making rows and folders agree again after a crash, when the store is opened.
//!
//! | found | done |
//! |---|---|
//! | a row still `preparing` | dropped; its folder is an orphan |
//! | a folder without a row | returned to the caller, who deletes it |
//! | a committed row without a folder | it and the layers on it are `broken`: dropped, or set aside while in use |
//! | an active row or view without a folder | dropped |
//! | an active row or view on a broken layer | kept as `broken`: it may be a running container's, and it can be removed |
//! | the machine was rebooted | active rows are `stale` until the snapshotter clears them |

use std::collections::HashSet;

use rusqlite::{Connection, params};

use super::{Metadata, State};
use crate::error::Result;

/// Layers and below, for the recursive statements: `broken` spreads to whatever stands on it.
const SPREAD: &str = "
    WITH RECURSIVE hit(id) AS (
        SELECT id FROM snapshot WHERE state = 'broken'
        UNION SELECT s.id FROM snapshot s JOIN hit h ON s.parent = h.id)
    UPDATE snapshot SET state = 'broken' WHERE id IN hit AND state <> 'broken'";

/// Broken layers nothing stands on any more.
const DROP_LEAVES: &str = "
    DELETE FROM snapshot WHERE state = 'broken' AND kind = 'committed'
    AND id NOT IN (SELECT parent FROM snapshot WHERE parent IS NOT NULL)";

/// Broken layers something still stands on: their names become free for a new layer.
const SET_ASIDE: &str = "
    UPDATE snapshot SET key = 'broken/' || id || '/' || key
    WHERE state = 'broken' AND kind = 'committed' AND key NOT LIKE 'broken/' || id || '/%'";

impl Metadata {
    /// Repairs the rows, given the `folders` that exist; returns the ids of rows that have a folder to keep.
    pub fn repair(&self, folders: &HashSet<i64>) -> Result<HashSet<i64>> {
        let mut db = self.db();
        let done = (|| {
            let tx = db.transaction()?;
            tx.execute("DELETE FROM snapshot WHERE state = ?", [State::Preparing])?;
            mark_missing(&tx, folders)?;
            tx.execute(SPREAD, [])?;
            while tx.execute(DROP_LEAVES, [])? > 0 {}
            tx.execute(SET_ASIDE, [])?;
            let kept: rusqlite::Result<HashSet<i64>> =
                tx.prepare("SELECT id FROM snapshot")?.query_map([], |r| r.get(0))?.collect();
            let kept = kept?;
            tx.commit()?;
            Ok(kept)
        })();
        done.map_err(self.failed("repair"))
    }

    /// After a reboot: whatever was active may be half-written.
    pub fn distrust_active(&self) -> Result<()> {
        self.db()
            .execute(
                "UPDATE snapshot SET state = ? WHERE kind = 'active' AND state = ?",
                params![State::Stale, State::Ready],
            )
            .map_err(self.failed("mark snapshots stale"))?;
        Ok(())
    }
}

fn mark_missing(db: &Connection, folders: &HashSet<i64>) -> rusqlite::Result<()> {
    let mut statement = db.prepare("SELECT id, kind FROM snapshot")?;
    let rows: rusqlite::Result<Vec<(i64, String)>> = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect();
    for (id, kind) in rows?.into_iter().filter(|(id, _)| !folders.contains(id)) {
        if kind == "committed" {
            db.execute("UPDATE snapshot SET state = ? WHERE id = ?", params![State::Broken, id])?;
        } else {
            db.execute("DELETE FROM snapshot WHERE id = ?", [id])?;
        }
    }
    Ok(())
}
