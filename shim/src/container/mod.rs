//! Containers: one file per verb, as in the daemon.
//!
//! A verb is a function over the shim and the container; it claims the process it changes ([`Process::claim`]) and takes
//! one step in its [`life`]. No table is locked across an await.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub mod create;
pub mod delete;
pub mod exec;
mod exit;
pub mod kill;
pub mod life;
pub mod pause;
pub mod pids;
pub mod process;
pub mod start;
pub mod update;

use process::Process;

use crate::{
    bundle::Bundle,
    cgroup::oom::Kills,
    error::{Error, Result},
    options::Options,
    runtime::Oci,
};

/// One container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: Bundle,
    /// The OCI runtime that made it.
    pub runtime: Oci,
    /// The options it was created with.
    pub options: Options,
    /// Its init.
    pub init: Arc<Process>,
    /// Whether the kernel ends all its processes with its init.
    pub owns_pid_namespace: bool,
    /// Its memory kills, and with them its cgroups.
    pub kills: Kills,
    execs: Mutex<HashMap<String, Arc<Process>>>,
}

impl Container {
    fn table(&self) -> MutexGuard<'_, HashMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its execs.
    pub fn execs(&self) -> Vec<Arc<Process>> {
        self.table().values().cloned().collect()
    }

    /// An exec, or with an empty id the init.
    pub fn process(&self, exec: &str) -> Result<Arc<Process>> {
        if exec.is_empty() {
            return Ok(self.init.clone());
        }
        let found = self.table().get(exec).cloned();
        found.ok_or_else(|| Error::NotFound { what: "exec", id: exec.into() })
    }
}
