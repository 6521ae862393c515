//! Pod networks: the CNI specification 0.1.0 to 1.1.0 over executed plugins.
//!
//! What libcni and go-cni are to containerd, as one piece: `folder` and `watch` keep the present network, `conf` and
//! `result` judge foreign JSON, `chain` runs the plugins in their order through `exec`, `intent` remembers on disk what
//! was begun, so that a DEL works after any crash; `stray` ends what a killed daemon left running.
//!
//! Deliberately absent: the `loopback` plugin (`netns::create` raises `lo`), more than one network per pod (that is
//! Multus's work, itself a plugin), and libcni's cache of results: the daemon's sandbox record holds them.

mod attachment;
mod bandwidth;
mod chain;
mod conf;
mod exec;
mod folder;
mod intent;
mod plugins;
mod result;
mod stray;
mod version;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::AbortHandle;

pub use attachment::{Attached, Attachment, Dns, PortMapping, Protocol};
pub use bandwidth::Bandwidth;
pub use result::addresses;

use crate::id::SandboxId;
use crate::{Error, Result, config};
use chain::Chain;
use conf::Network;
use intent::{Intent, Intents};
use plugins::Plugins;

/// The interface that a pod's network makes in the pod, as kubelet and every policy engine expect it.
pub const IFNAME: &str = "eth0";

/// The pods' network: its present configuration and the plugins that carry it out.
#[derive(Debug)]
pub struct Cni {
    conf_dir: PathBuf,
    plugins: Plugins,
    intents: Intents,
    loaded: RwLock<Loaded>,
    /// ADD and DEL share it, a plugin's GC has it alone: an address given out while GC reads its list would be freed.
    traffic: tokio::sync::RwLock<()>,
    watch: OnceLock<AbortHandle>,
}

/// What the folder held when it was last read.
#[derive(Debug)]
struct Loaded {
    present: Result<Arc<Network>, String>,
    /// The last one that was good, for a DEL that has nothing better.
    last_good: Option<Arc<Network>>,
    /// Why the plugins of the present one would not take a pod now (STATUS, 1.1.0).
    refusal: Option<String>,
}

impl Cni {
    /// Reads the configuration folder and watches it until the last `Arc` goes. Blocks for the first reading; wants a
    /// tokio runtime around it.
    ///
    /// A missing folder or a broken file is no error here but what `status` tells.
    ///
    /// # Errors
    /// `Io` if the folder for what was begun cannot be made.
    pub fn open(config: &config::Cni) -> Result<Arc<Self>> {
        let present = folder::load(&config.conf_dir).map(Arc::new);
        if let Err(why) = &present {
            tracing::warn!(%why, "no pod network yet");
        }
        let cni = Arc::new(Self {
            conf_dir: config.conf_dir.clone(),
            plugins: Plugins::new(&config.bin_dirs, Duration::from_secs(config.timeout_secs)),
            intents: Intents::open(&config.cache_dir)?,
            loaded: RwLock::new(Loaded { last_good: present.as_ref().ok().cloned(), present, refusal: None }),
            traffic: tokio::sync::RwLock::default(),
            watch: OnceLock::new(),
        });
        let task = tokio::spawn(watch::run(Arc::downgrade(&cni), config.conf_dir.clone()));
        let _ = cni.watch.set(task.abort_handle());
        Ok(cni)
    }

    /// Whether pods can be given a network now: there is a configuration, and no plugin of it said no when it was last
    /// asked (STATUS, 1.1.0; behind the scenes, so this never waits).
    ///
    /// # Errors
    /// The message for NetworkReady=false.
    pub fn status(&self) -> Result<(), String> {
        let loaded = self.read();
        match (&loaded.present, &loaded.refusal) {
            (Ok(_), None) => Ok(()),
            (Ok(_), Some(why)) => Err(format!("cni plugin not ready: {why}")),
            (Err(why), _) => Err(format!("cni plugin not initialized: {why}")),
        }
    }

    /// How the last reading of the folder went: `OK` or its error (`lastCNILoadStatus` of `crictl info`).
    pub fn load_status(&self) -> String {
        self.read().present.as_ref().err().cloned().unwrap_or_else(|| "OK".into())
    }

    /// `cniconfig` of `crictl info`, with containerd's keys.
    pub fn describe(&self) -> Value {
        let networks: Vec<Value> = match &self.read().present {
            Ok(network) => vec![json!({ "Config": network.describe(), "IFName": IFNAME })],
            Err(_) => Vec::new(),
        };
        json!({
            "PluginDirs": self.plugins.dirs(),
            "PluginConfDir": self.conf_dir,
            "PluginMaxConfNum": 1,
            "Prefix": "eth",
            "Networks": networks,
        })
    }

    /// Gives a pod its network: ADD of every plugin in turn (CNI specification, section 3).
    ///
    /// The intent is on disk before the first plugin runs, and a failure is followed by DEL of the whole chain.
    ///
    /// # Errors
    /// `Failed` without a configuration, or with the words of the plugin that failed; `TimedOut` if one was killed at
    /// its deadline; `Corrupt` for a result that is none or holds no address for the pod.
    pub async fn add(&self, pod: &Attachment) -> Result<Attached> {
        let network = self.read().present.clone().map_err(|why| Error::failed("CNI ADD", why))?;
        let _shared = self.traffic.read().await;
        self.intents.save(Intent { pod: pod.clone(), config: network.source().clone() }).await?;
        let chain = Chain { plugins: &self.plugins, network: &network, pod };
        let attached = chain.add().await.and_then(|result| {
            let ips = addresses(&result, IFNAME)?;
            Ok(Attached { ips, result, config: network.source().clone() })
        });
        if attached.is_err() && chain.undo().await {
            self.forget(&pod.id).await;
        }
        attached
    }

    /// Takes a pod's network away: DEL of every plugin, the last one first. A pod that has none is no error.
    ///
    /// With what `add` returned, the configuration and the result of that ADD are used, whatever the folder holds now.
    /// Without (`None`: the daemon ended before it could store it), the configuration that ADD began with is, else the
    /// present one; a failure is then only logged.
    ///
    /// # Errors
    /// As of `add`; calling again is right. What comes before the failed plugin was not tried: with its rules still in
    /// place (a port mapping), an address must not be given to another pod.
    pub async fn del(&self, pod: &Attachment, attached: Option<&Attached>) -> Result<()> {
        if attached.is_none() {
            stray::end(&pod.id).await;
        }
        let Some(network) = self.network_of(pod, attached).await else {
            tracing::warn!(sandbox = %pod.id, "no CNI configuration to delete the pod's network with");
            return Ok(());
        };
        let _shared = self.traffic.read().await;
        let chain = Chain { plugins: &self.plugins, network: &network, pod };
        match chain.del(attached.map(|a| &a.result)).await {
            Ok(()) => self.forget(&pod.id).await,
            Err(error) if attached.is_some() => return Err(error),
            Err(error) => tracing::warn!(sandbox = %pod.id, %error, "CNI DEL of a network that was never reported"),
        }
        Ok(())
    }

    /// Asks every plugin whether the pod's network is as its ADD left it. `Ok` where the network's version (below
    /// 0.4.0) or its `disableCheck` has no CHECK.
    ///
    /// # Errors
    /// As of `add`, with the words of the plugin that found a difference.
    pub async fn check(&self, pod: &Attachment, attached: &Attached) -> Result<()> {
        let network = Network::from_list(attached.config.clone())
            .map_err(|why| Error::corrupt(format!("stored CNI configuration of sandbox {}", pod.id), why))?;
        Chain { plugins: &self.plugins, network: &network, pod }.check(&attached.result).await
    }

    /// Frees what no sandbox holds: DEL for what was begun for others, then GC of the plugins that have it (1.1.0).
    ///
    /// `valid` lists the sandboxes that exist. It is asked after what was begun has been listed and while no ADD runs,
    /// so a sandbox must be in the store before its `add` is called. Failures are logged and come again next time.
    pub async fn gc(&self, valid: impl Fn() -> Vec<SandboxId>) {
        let begun = self.intents.list().await;
        let known = valid();
        for intent in begun.into_iter().filter(|intent| !known.contains(&intent.pod.id)) {
            tracing::info!(sandbox = %intent.pod.id, "deleting the network of a sandbox that is gone");
            // Without a result `del` logs what fails.
            let _ = self.del(&intent.pod, None).await;
        }
        let Ok(network) = self.read().present.clone() else { return };
        if network.collects() {
            let _alone = self.traffic.write().await;
            chain::collect(&self.plugins, &network, &valid()).await;
        }
    }

    /// The configuration that a DEL should use: the stored one, the one ADD began with, the last good one.
    async fn network_of(&self, pod: &Attachment, attached: Option<&Attached>) -> Option<Arc<Network>> {
        let stored = attached.and_then(|a| parsed(pod, &a.config));
        if stored.is_some() {
            return stored;
        }
        let begun = self.intents.load(&pod.id).await.and_then(|intent| parsed(pod, &intent.config));
        begun.or_else(|| self.read().last_good.clone())
    }

    /// A leftover intent costs one DEL more at the next `gc`, which is no reason to fail.
    async fn forget(&self, id: &SandboxId) {
        if let Err(error) = self.intents.remove(id).await {
            tracing::warn!(sandbox = %id, %error, "CNI intent left behind");
        }
    }

    /// Takes a new reading of the folder into use.
    fn replace(&self, present: Result<Network, String>) {
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        match (&loaded.present, present) {
            (Ok(old), Ok(new)) if old.source() == new.source() => {}
            (Err(old), Err(new)) if *old == new => {}
            (_, Ok(new)) => {
                tracing::info!(network = new.name(), "pod network loaded");
                let new = Arc::new(new);
                *loaded = Loaded { last_good: Some(Arc::clone(&new)), present: Ok(new), refusal: None };
            }
            (_, Err(why)) => {
                tracing::warn!(%why, "no pod network");
                loaded.present = Err(why);
            }
        }
    }

    /// Asks the plugins whether they are ready, where they can be asked. Returns whether they are.
    async fn probe(&self) -> bool {
        let Ok(network) = self.read().present.clone() else { return true };
        if !network.reports() {
            return true;
        }
        let refusal = chain::status(&self.plugins, &network).await.err().map(|error| error.to_string());
        let ready = refusal.is_none();
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        if loaded.refusal != refusal {
            tracing::info!(network = network.name(), ?refusal, "readiness of the pod network changed");
            loaded.refusal = refusal;
        }
        ready
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Loaded> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        if let Some(task) = self.watch.get() {
            task.abort();
        }
    }
}

/// A stored configuration, unless the record was damaged.
fn parsed(pod: &Attachment, config: &Value) -> Option<Arc<Network>> {
    Network::from_list(config.clone())
        .map(Arc::new)
        .inspect_err(|why| tracing::warn!(sandbox = %pod.id, %why, "stored CNI configuration is unusable"))
        .ok()
}
