//! A pod sandbox: its record, its states, and one file per verb.
//!
//! ```text
//! Creating --ready--> Ready --not_ready--> NotReady
//!     +------------------not_ready-------------^
//! ```
//! What a sandbox holds outside this process (shim, network, namespaces, mounts, folders) is undone by one function,
//! [`teardown()`], whoever asks: a failed run, a stop, a removal, or recovery after a crash. It is told by the record
//! what may be there, takes what is missing as undone, and can be run again. So there is no list of undo steps that
//! a crash could lose.

mod files;
mod launch;
mod lost;
mod port_forward;
mod remove;
mod run;
mod stop;
mod teardown;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use cleat_proto::cri::v1::PodSandboxConfig;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

pub use files::Files;
pub(crate) use files::remove_dir;
pub use launch::reconnect;
pub(crate) use lost::lost;
pub use lost::watch_shim;
pub use port_forward::{connect, forwardable};
pub(crate) use remove::forget;
pub use remove::remove;
pub use run::run;
pub use stop::stop;
pub use teardown::teardown;

use crate::cni::Attached;
use crate::container::UnixNanos;
use crate::id::SandboxId;
use crate::store::{Record, Row, Store};
use crate::tasks::Shim;
use crate::{Error, Result};

/// A pod sandbox, shared by all who speak of it.
pub struct Sandbox {
    /// What never changes.
    pub fixed: Fixed,
    /// The verbs take turns: whoever changes what the pod holds takes it for writing, its containers for reading.
    pub op: Arc<tokio::sync::RwLock<()>>,
    state: watch::Sender<State>,
    shim: RwLock<Option<Arc<Shim>>>,
    turn: Mutex<()>,
}

/// What a sandbox is born with.
#[derive(Debug, Clone)]
pub struct Fixed {
    /// Its id.
    pub id: SandboxId,
    /// As the client sent it.
    pub config: PodSandboxConfig,
    /// The handler as the client named it; empty is the default.
    pub requested_handler: String,
    /// The `[runtimes.NAME]` that it means.
    pub handler: String,
    /// When it was asked for.
    pub created_at: UnixNanos,
    /// The boot it lives in: after another one nothing of it is left.
    pub boot_id: String,
}

/// What changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Where it is in its life.
    pub phase: Phase,
    /// What its network holds.
    pub network: Network,
    /// The pause process of a shared pid namespace; zero where there is none.
    pub pid: u32,
}

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Being made; never shown to a client.
    Creating,
    /// Serving.
    Ready,
    /// Stopped, lost, or never finished.
    NotReady,
}

/// What CNI was asked for a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The host's own; CNI is never asked.
    Host,
    /// ADD was or is about to be called; its result is not known.
    Pending,
    /// ADD succeeded.
    Attached(Box<Attached>),
    /// DEL succeeded.
    Released,
}

impl State {
    /// Creating -> Ready.
    ///
    /// # Errors
    /// `WrongState` from anywhere else.
    pub fn ready(self, id: &SandboxId, network: Network, pid: u32) -> Result<Self> {
        match self.phase {
            Phase::Creating => Ok(Self { phase: Phase::Ready, network, pid }),
            Phase::Ready | Phase::NotReady => Err(self.wrong(id, "being created")),
        }
    }

    /// Any -> NotReady; a sandbox that is not ready stays so.
    pub fn not_ready(self) -> Self {
        Self { phase: Phase::NotReady, ..self }
    }

    /// An error for a call that needs a ready sandbox.
    pub fn wrong(&self, id: &SandboxId, wanted: &'static str) -> Error {
        let state = match self.phase {
            Phase::Creating => "being created",
            Phase::Ready => "ready",
            Phase::NotReady => "not ready",
        };
        Error::WrongState { kind: "sandbox", id: id.to_string(), state, wanted }
    }
}

impl Sandbox {
    /// A sandbox in the given state.
    pub fn new(fixed: Fixed, state: State) -> Arc<Self> {
        Arc::new(Self {
            fixed,
            op: Arc::default(),
            state: watch::Sender::new(state),
            shim: RwLock::new(None),
            turn: Mutex::new(()),
        })
    }

    /// Its id.
    pub fn id(&self) -> &SandboxId {
        &self.fixed.id
    }

    /// Its state now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Its shim, while connected.
    ///
    /// # Errors
    /// `Unreachable`.
    pub fn shim(&self) -> Result<Arc<Shim>> {
        self.shim.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(|| Error::Unreachable {
            peer: format!("shim of sandbox {}", self.id()),
            why: "it has ended or was never connected".into(),
        })
    }

    /// Remembers or forgets the connection.
    pub fn set_shim(&self, shim: Option<Arc<Shim>>) {
        *self.shim.write().unwrap_or_else(PoisonError::into_inner) = shim;
    }

    /// Takes a step: the next state is stored first and seen by others after.
    ///
    /// # Errors
    /// Those of the step and of the store; the state is then what it was.
    pub async fn advance(&self, store: &Store, step: impl FnOnce(State) -> Result<State>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let next = step(self.state())?;
        store.put(&Stored { fixed: self.fixed.clone(), state: next.clone() }).await?;
        self.state.send_replace(next);
        Ok(())
    }

    /// Whether the pod uses the host's network.
    pub fn host_network(&self) -> bool {
        crate::spec::namespaces::host_network(&self.fixed.config)
    }

    /// The file that pins the pod's network namespace, if it has one of its own.
    pub fn netns(&self, state: &std::path::Path) -> Option<PathBuf> {
        (!self.host_network()).then(|| state.join("netns").join(self.id().as_str()))
    }
}

/// The name that must be unique among pods: as kubelet makes it.
pub fn name(config: &PodSandboxConfig) -> String {
    let m = config.metadata.clone().unwrap_or_default();
    format!("pod {}/{} uid {} attempt {}", m.namespace, m.name, m.uid, m.attempt)
}

/// A sandbox as the store holds it.
pub struct Stored {
    /// What never changes.
    pub fixed: Fixed,
    /// What does.
    pub state: State,
}

#[derive(Serialize, Deserialize)]
struct Json {
    requested_handler: String,
    handler: String,
    created_at: UnixNanos,
    boot_id: String,
    state: State,
}

impl Record for Stored {
    const KIND: &'static str = "sandbox";

    fn id(&self) -> &str {
        self.fixed.id.as_str()
    }

    fn encode(&self) -> Result<Row> {
        let f = &self.fixed;
        let json = Json {
            requested_handler: f.requested_handler.clone(),
            handler: f.handler.clone(),
            created_at: f.created_at,
            boot_id: f.boot_id.clone(),
            state: self.state.clone(),
        };
        let state = serde_json::to_string(&json).map_err(|e| Error::corrupt(format!("sandbox {}", f.id), e))?;
        Ok(Row { config: f.config.encode_to_vec(), state })
    }

    fn decode(id: &str, row: &Row) -> Result<Self> {
        let corrupt = |e: &dyn std::fmt::Display| Error::corrupt(format!("the record of sandbox {id}"), e.to_string());
        let json: Json = serde_json::from_str(&row.state).map_err(|e| corrupt(&e))?;
        let fixed = Fixed {
            id: SandboxId::try_from(id.to_string())?,
            config: PodSandboxConfig::decode(row.config.as_slice()).map_err(|e| corrupt(&e))?,
            requested_handler: json.requested_handler,
            handler: json.handler,
            created_at: json.created_at,
            boot_id: json.boot_id,
        };
        Ok(Self { fixed, state: json.state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(phase: Phase) -> State {
        State { phase, network: Network::Pending, pid: 0 }
    }

    #[test]
    fn only_the_drawn_edges_exist() {
        let id = SandboxId::random().expect("id");
        assert!(state(Phase::Creating).ready(&id, Network::Host, 0).is_ok());
        assert!(state(Phase::Ready).ready(&id, Network::Host, 0).is_err());
        assert!(state(Phase::NotReady).ready(&id, Network::Host, 0).is_err());
        for phase in [Phase::Creating, Phase::Ready, Phase::NotReady] {
            assert_eq!(state(phase).not_ready().phase, Phase::NotReady);
        }
    }

    #[test]
    fn a_record_survives_its_row() {
        let fixed = Fixed {
            id: SandboxId::random().expect("id"),
            config: PodSandboxConfig { hostname: "h".into(), ..Default::default() },
            requested_handler: String::new(),
            handler: "runc".into(),
            created_at: 7,
            boot_id: "b".into(),
        };
        let stored = Stored { fixed, state: state(Phase::Ready) };
        let row = stored.encode().expect("encode");
        let again = Stored::decode(stored.fixed.id.as_str(), &row).expect("decode");
        assert_eq!((again.fixed.config, again.state), (stored.fixed.config, stored.state));
        assert!(Stored::decode("x", &row).is_err());
        assert!(Stored::decode(again.fixed.id.as_str(), &Row { state: "{".into(), ..row }).is_err());
    }
}
