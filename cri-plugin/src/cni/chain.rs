//! The plugins of a network, one after the other: DEL backwards, everything else in the order of the configuration.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::conf::{Network, Plugin};
use super::exec::Call;
use super::plugins::Plugins;
use super::{Attachment, IFNAME, result};
use crate::id::SandboxId;
use crate::{Result, netns};

/// A plugin that takes longer to say that it is ready is not.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// One pod on one network.
pub(super) struct Chain<'a> {
    pub(super) plugins: &'a Plugins,
    pub(super) network: &'a Network,
    pub(super) pod: &'a Attachment,
}

impl Chain<'_> {
    /// ADD of every plugin, each with the result of the one before; the last result is the network's.
    pub(super) async fn add(&self) -> Result<Value> {
        let mut previous = None;
        for plugin in self.network.plugins() {
            let stdout = self.call(plugin, "ADD", previous.as_ref()).await?;
            previous = Some(result::parse(&stdout, self.network.version())?);
        }
        // A network without a plugin is not loaded.
        Ok(previous.unwrap_or_default())
    }

    /// DEL of every plugin, the last one first; stops at the first that fails.
    pub(super) async fn del(&self, added: Option<&Value>) -> Result<()> {
        let previous = added.filter(|_| self.network.version().has_check());
        for plugin in self.network.plugins().iter().rev() {
            self.call(plugin, "DEL", previous).await?;
        }
        Ok(())
    }

    /// DEL of every plugin after a failed ADD, whatever fails on the way: nobody will ask again. Returns whether all
    /// of them did it.
    pub(super) async fn undo(&self) -> bool {
        let mut done = true;
        for plugin in self.network.plugins().iter().rev() {
            if let Err(error) = self.call(plugin, "DEL", None).await {
                tracing::warn!(sandbox = %self.pod.id, plugin = plugin.kind, %error, "CNI DEL after a failed ADD");
                done = false;
            }
        }
        done
    }

    /// CHECK of every plugin, where the network has it.
    pub(super) async fn check(&self, added: &Value) -> Result<()> {
        if self.network.checks() {
            for plugin in self.network.plugins() {
                self.call(plugin, "CHECK", Some(added)).await?;
            }
        }
        Ok(())
    }

    async fn call(&self, plugin: &Plugin, command: &'static str, previous: Option<&Value>) -> Result<Vec<u8>> {
        let args = self.pod.args()?;
        // What is no namespace any more is not named: plugins take an empty CNI_NETNS as "gone" (containerd sends it),
        // but fail on a path that is something else.
        let gone = command == "DEL" && !netns::exists(&self.pod.netns);
        let netns = if gone { OsStr::new("") } else { self.pod.netns.as_os_str() };
        let env = vec![
            ("CNI_CONTAINERID", OsStr::new(self.pod.id.as_str())),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", OsStr::new(IFNAME)),
            ("CNI_ARGS", OsStr::new(&args)),
        ];
        let more: Vec<_> = previous.map(|result| ("prevResult", result)).into_iter().collect();
        let stdin = plugin.request(&self.pod.capabilities(), &more);
        run(self.plugins, plugin, command, env, stdin).await
    }
}

/// GC of every plugin: it frees what belongs to no attachment in the list. Failures are logged.
pub(super) async fn collect(plugins: &Plugins, network: &Network, valid: &[SandboxId]) {
    let attachments: Vec<Value> =
        valid.iter().map(|id| json!({ "containerID": id.as_str(), "ifname": IFNAME })).collect();
    let attachments = Value::Array(attachments);
    // The specification was published with the shorter name; libcni sends both.
    let more = [("cni.dev/valid-attachments", &attachments), ("cni.dev/attachments", &attachments)];
    for plugin in network.plugins() {
        let stdin = plugin.request(&Map::new(), &more);
        if let Err(error) = run(plugins, plugin, "GC", Vec::new(), stdin).await {
            tracing::warn!(network = network.name(), plugin = plugin.kind, %error, "CNI GC");
        }
    }
}

/// STATUS of every plugin: whether an ADD could work now.
///
/// # Errors
/// Of the first plugin that is not ready, or does not say so within `STATUS_DEADLINE`.
pub(super) async fn status(plugins: &Plugins, network: &Network) -> Result<()> {
    for plugin in network.plugins() {
        let stdin = plugin.request(&Map::new(), &[]);
        run(plugins, plugin, "STATUS", Vec::new(), stdin).await?;
    }
    Ok(())
}

async fn run<'a>(
    plugins: &'a Plugins,
    plugin: &Plugin,
    command: &'static str,
    mut env: Vec<(&'static str, &'a OsStr)>,
    stdin: Vec<u8>,
) -> Result<Vec<u8>> {
    let binary = plugins.find(&plugin.kind)?;
    let command_name = OsString::from(command);
    env.extend([("CNI_COMMAND", command_name.as_os_str()), ("CNI_PATH", &plugins.cni_path), ("PATH", &plugins.path)]);
    let what = format!("CNI {} {command}", plugin.kind);
    let deadline = if command == "STATUS" { plugins.deadline.min(STATUS_DEADLINE) } else { plugins.deadline };
    Call { what, binary: &binary, env, stdin, deadline }.run().await
}
