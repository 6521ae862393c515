//! The verbose parts of answers: JSON for people and for the tools that read `info.pid` and `info.runtimeSpec`.
//!
//! The keys are containerd's, which is what those tools know (crictl's `info`, `inspect` and `inspectp`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::container::Container;
use crate::daemon::Daemon;
use crate::sandbox::{Network, Phase, Sandbox};
use crate::tasks;

type Info = BTreeMap<String, String>;

pub(super) fn status(daemon: &Daemon) -> Info {
    Info::from([
        ("config".into(), json!(daemon.config).to_string()),
        ("cniconfig".into(), daemon.cni.describe().to_string()),
        ("lastCNILoadStatus".into(), json!(daemon.cni.load_status()).to_string()),
    ])
}

/// One key, `info`, whose value is an object, as containerd has it.
fn wrap(value: &Value) -> Info {
    Info::from([("info".into(), value.to_string())])
}

pub(super) fn sandbox(daemon: &Daemon, sandbox: &Sandbox) -> Info {
    let (fixed, state) = (&sandbox.fixed, sandbox.state());
    let netns = sandbox.netns(&daemon.config.state);
    let cni = match &state.network {
        Network::Attached(attached) => attached.result.clone(),
        Network::Host | Network::Pending | Network::Released => Value::Null,
    };
    let namespaces = netns.as_ref().map(|path| json!({ "type": "network", "path": path }));
    let linux = fixed.config.linux.as_ref();
    wrap(&json!({
        "pid": state.pid,
        "processStatus": if state.phase == Phase::Ready { "running" } else { "deleted" },
        "netNamespaceClosed": netns.is_some() && state.network == Network::Released,
        "image": "",
        "snapshotKey": "",
        "snapshotter": daemon.config.images.snapshotter,
        "runtimeHandler": fixed.requested_handler,
        "runtimeType": runtime_type(daemon, &fixed.handler),
        "runtimeOptions": runtime_options(daemon, &fixed.handler),
        "config": fixed.config,
        "runtimeSpec": { "linux": { "namespaces": namespaces.into_iter().collect::<Vec<_>>() } },
        "cniResult": cni,
        "sandboxMetadata": {
            "id": sandbox.id(),
            "name": super::super::sandbox::name(&fixed.config),
            "runtimeHandler": fixed.handler,
            "netNSPath": netns,
        },
        "overhead": linux.and_then(|l| l.overhead.clone()),
        "resources": linux.and_then(|l| l.resources.clone()),
    }))
}

pub(super) fn container(daemon: &Daemon, container: &Container) -> Info {
    let handler =
        daemon.pods.sandbox(container.fixed.sandbox.as_str()).map(|s| s.fixed.handler.clone()).unwrap_or_default();
    let bundle = tasks::bundle(&daemon.config.state, container.id().as_str());
    let spec = std::fs::read(bundle.join("config.json")).ok();
    let spec: Value = spec.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    wrap(&json!({
        "sandboxID": container.fixed.sandbox,
        "pid": container.state().pid().unwrap_or(0),
        "removing": false,
        "snapshotKey": container.id(),
        "snapshotter": daemon.config.images.snapshotter,
        "runtimeType": runtime_type(daemon, &handler),
        "runtimeOptions": runtime_options(daemon, &handler),
        "config": container.fixed.config,
        "runtimeSpec": spec,
    }))
}

fn runtime_type(daemon: &Daemon, handler: &str) -> String {
    daemon.config.runtimes.get(handler).map(|r| r.kind.clone()).unwrap_or_default()
}

fn runtime_options(daemon: &Daemon, handler: &str) -> Value {
    let Some(runtime) = daemon.config.runtimes.get(handler) else { return Value::Null };
    json!({ "binary_name": runtime.binary, "root": runtime.root, "systemd_cgroup": runtime.systemd_cgroup })
}
