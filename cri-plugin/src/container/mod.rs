//! A container: its record, and one file per verb. Its states are in [`state`].

mod attach;
mod create;
mod exec;
mod exec_stream;
mod log;
mod process;
mod relay;
mod remove;
mod rootfs;
mod start;
pub mod state;
mod stop;
mod volumes;

use std::sync::Arc;

use cleat_proto::cri::v1::ContainerConfig;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

pub use attach::attach;
pub use create::create;
pub use exec::{ExecSync, exec_sync};
pub use exec_stream::exec;
pub use log::reopen_log;
pub(crate) use process::expect_running;
pub use remove::remove;
pub(crate) use remove::{discard, remove_traces};
pub use start::{resume, start};
pub use state::{Exit, State, UnixNanos};
pub use stop::stop;
pub(crate) use stop::{exited, kill, shim_lost};

use crate::id::{ContainerId, SandboxId};
use crate::store::{Record, Row, Store};
use crate::{Error, Result};

/// A container, shared by all who speak of it.
pub struct Container {
    /// What never changes.
    pub fixed: Fixed,
    /// Verbs that change it take turns.
    pub op: Mutex<()>,
    grace: std::sync::Mutex<Option<stop::Grace>>,
    state: watch::Sender<State>,
    turn: Mutex<()>,
}

/// What a container is born with.
#[derive(Debug, Clone)]
pub struct Fixed {
    /// Its id.
    pub id: ContainerId,
    /// Its pod.
    pub sandbox: SandboxId,
    /// As the client sent it.
    pub config: ContainerConfig,
    /// The image, resolved.
    pub image: Image,
    /// When it was asked for.
    pub created_at: UnixNanos,
    /// Where its log goes; empty is nowhere.
    pub log_path: String,
    /// Who its first process begins as.
    pub user: Option<User>,
}

/// The first process's ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The image as it was when the container was made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:...` of its configuration.
    pub id: String,
    /// A name by digest, for `image_ref`'s readers.
    pub digest: String,
    /// The signal that its configuration stops it with; empty is SIGTERM.
    pub stop_signal: String,
}

impl Image {
    /// What `image_ref` answers: by digest with the repository where there is one, else the id.
    pub fn reference(&self) -> String {
        if self.digest.is_empty() { self.id.clone() } else { self.digest.clone() }
    }
}

impl Container {
    /// A container in the given state.
    pub fn new(fixed: Fixed, state: State) -> Arc<Self> {
        Arc::new(Self {
            fixed,
            op: Mutex::new(()),
            grace: std::sync::Mutex::new(None),
            state: watch::Sender::new(state),
            turn: Mutex::new(()),
        })
    }

    /// Its id.
    pub fn id(&self) -> &ContainerId {
        &self.fixed.id
    }

    /// Its state now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Returns when it has exited.
    pub async fn until_exited(&self) {
        // The sender lives as long as self: the wait cannot fail.
        let _ = self.state.subscribe().wait_for(|s| matches!(s, State::Exited(_))).await;
    }

    /// Takes a step: the next state is stored first and seen by others after.
    ///
    /// # Errors
    /// Those of the step and of the store; the state is then what it was.
    pub async fn advance(&self, store: &Store, step: impl FnOnce(State, &str) -> Result<State>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let next = step(self.state(), self.id().as_str())?;
        store.put(&Stored { fixed: self.fixed.clone(), state: next.clone() }).await?;
        self.state.send_replace(next);
        Ok(())
    }

    /// Takes a step that has already happened outside: a store that fails is told to the log, and the state is seen.
    pub(crate) async fn follow(&self, store: &Store, step: impl FnOnce(State, &str) -> Result<State>) {
        let _turn = self.turn.lock().await;
        let Ok(next) = step(self.state(), self.id().as_str()) else { return };
        if let Err(e) = store.put(&Stored { fixed: self.fixed.clone(), state: next.clone() }).await {
            tracing::error!(container = %self.id(), error = %e, "the store does not take the state of a container");
        }
        self.state.send_replace(next);
    }
}

/// The name that must be unique in a pod.
pub fn name(sandbox: &SandboxId, config: &ContainerConfig) -> String {
    let m = config.metadata.clone().unwrap_or_default();
    format!("container {} attempt {} of sandbox {sandbox}", m.name, m.attempt)
}

/// A container as the store holds it.
pub struct Stored {
    /// What never changes.
    pub fixed: Fixed,
    /// What does.
    pub state: State,
}

#[derive(Serialize, Deserialize)]
struct Json {
    sandbox: SandboxId,
    image: Image,
    created_at: UnixNanos,
    log_path: String,
    #[serde(default)]
    user: Option<User>,
    state: State,
}

impl Record for Stored {
    const KIND: &'static str = "container";

    fn id(&self) -> &str {
        self.fixed.id.as_str()
    }

    fn encode(&self) -> Result<Row> {
        let f = &self.fixed;
        let json = Json {
            sandbox: f.sandbox.clone(),
            image: f.image.clone(),
            created_at: f.created_at,
            log_path: f.log_path.clone(),
            user: f.user.clone(),
            state: self.state.clone(),
        };
        let state = serde_json::to_string(&json).map_err(|e| Error::corrupt(format!("container {}", f.id), e))?;
        Ok(Row { config: f.config.encode_to_vec(), state })
    }

    fn decode(id: &str, row: &Row) -> Result<Self> {
        let corrupt =
            |e: &dyn std::fmt::Display| Error::corrupt(format!("the record of container {id}"), e.to_string());
        let json: Json = serde_json::from_str(&row.state).map_err(|e| corrupt(&e))?;
        let fixed = Fixed {
            id: ContainerId::try_from(id.to_string())?,
            sandbox: json.sandbox,
            config: ContainerConfig::decode(row.config.as_slice()).map_err(|e| corrupt(&e))?,
            image: json.image,
            created_at: json.created_at,
            log_path: json.log_path,
            user: json.user,
        };
        Ok(Self { fixed, state: json.state })
    }
}
