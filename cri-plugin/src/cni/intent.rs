//! What was begun: one small file per ADD, written before its first plugin runs and removed after its DEL.
//!
//! It carries a DEL over a killed daemon that had not stored the result yet, and over a changed configuration. It lies
//! in the state folder: a reboot ends it, and with it every namespace; addresses are then freed by the sandbox's record.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Attachment;
use crate::blocking;
use crate::id::SandboxId;
use crate::{Error, Result};

/// An ADD that was begun.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Intent {
    pub(super) pod: Attachment,
    /// The configuration list it was begun with.
    pub(super) config: Value,
}

/// The folder of intents, `ID.json` each.
#[derive(Debug)]
pub(super) struct Intents {
    dir: PathBuf,
}

impl Intents {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io("mkdir", dir))?;
        Ok(Self { dir: dir.to_path_buf() })
    }

    /// Whole or not at all: a reader never sees a half.
    pub(super) async fn save(&self, intent: Intent) -> Result<()> {
        let path = self.path(&intent.pod.id);
        let part = path.with_extension("part");
        blocking(move || {
            let text = serde_json::to_vec(&intent).map_err(|e| Error::corrupt("CNI intent", e))?;
            let mut file = OpenOptions::new();
            file.write(true).create(true).truncate(true).mode(0o600);
            let mut file = file.open(&part).map_err(Error::io("create", &part))?;
            file.write_all(&text).map_err(Error::io("write", &part))?;
            std::fs::rename(&part, &path).map_err(Error::io("rename", &part))
        })
        .await
    }

    /// `None` also for a file that is none of ours any more: the DEL then takes the present configuration.
    pub(super) async fn load(&self, id: &SandboxId) -> Option<Intent> {
        let path = self.path(id);
        blocking(move || Ok(read(&path))).await.ok().flatten()
    }

    pub(super) async fn remove(&self, id: &SandboxId) -> Result<()> {
        let path = self.path(id);
        blocking(move || match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("unlink", path)(e)),
            _ => Ok(()),
        })
        .await
    }

    /// All of them; a damaged one is logged and left out.
    pub(super) async fn list(&self) -> Vec<Intent> {
        let dir = self.dir.clone();
        let list = blocking(move || {
            let entries = std::fs::read_dir(&dir).map_err(Error::io("read", &dir))?;
            let named = |path: &PathBuf| path.extension().is_some_and(|e| e == "json");
            Ok(entries.flatten().map(|entry| entry.path()).filter(named).filter_map(|path| read(&path)).collect())
        });
        list.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "CNI intents cannot be listed");
            Vec::new()
        })
    }

    /// The id is 64 hex digits by its type, so it is a file name.
    fn path(&self, id: &SandboxId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

fn read(path: &Path) -> Option<Intent> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "CNI intent cannot be read");
            return None;
        }
    };
    serde_json::from_slice(&text)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "CNI intent is damaged"))
        .ok()
}
