//! Version, Status, RuntimeConfig: what kubelet asks before it believes in a runtime, and every few seconds after.

use std::collections::BTreeMap;

use cleat_proto::cri::v1::{
    CgroupDriver, LinuxRuntimeConfiguration, RuntimeCondition, RuntimeConfigResponse, RuntimeFeatures, RuntimeHandler,
    RuntimeHandlerFeatures, RuntimeStatus, StatusResponse, VersionResponse,
};

use crate::daemon::Daemon;

/// The version of kubelet's own API, not of CRI; never anything else.
const KUBELET_API_VERSION: &str = "0.1.0";

/// Source: CRI api.proto, Version.
pub(super) fn version(api: &str) -> VersionResponse {
    VersionResponse {
        version: KUBELET_API_VERSION.into(),
        runtime_name: "cleat".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: api.into(),
    }
}

/// Source: CRI api.proto, Status.
pub(super) fn status(daemon: &Daemon, verbose: bool) -> StatusResponse {
    let network = daemon.cni.status();
    StatusResponse {
        status: Some(RuntimeStatus {
            conditions: vec![condition("RuntimeReady", Ok(())), condition("NetworkReady", network)],
        }),
        info: if verbose { super::info::status(daemon) } else { BTreeMap::new() },
        runtime_handlers: handlers(daemon),
        features: Some(RuntimeFeatures { supplemental_groups_policy: true, ..RuntimeFeatures::default() }),
    }
}

fn condition(kind: &str, state: Result<(), String>) -> RuntimeCondition {
    let reason = kind.replace("Ready", "NotReady");
    RuntimeCondition {
        r#type: kind.into(),
        status: state.is_ok(),
        reason: if state.is_ok() { String::new() } else { reason },
        message: state.err().unwrap_or_default(),
    }
}

/// The default handler is listed under its own name and under the empty one.
fn handlers(daemon: &Daemon) -> Vec<RuntimeHandler> {
    let names = daemon.config.runtimes.keys().map(String::as_str).chain([""]);
    names
        .map(|name| {
            let features = daemon.features(name);
            RuntimeHandler {
                name: name.into(),
                features: Some(RuntimeHandlerFeatures {
                    recursive_read_only_mounts: features.recursive_read_only,
                    user_namespaces: false,
                }),
            }
        })
        .collect()
}

/// Source: CRI api.proto, RuntimeConfig. The zero of the enum is SYSTEMD, so it is always set.
pub(super) fn runtime_config(daemon: &Daemon) -> RuntimeConfigResponse {
    let systemd = daemon.config.runtimes.get(&daemon.config.default_runtime).is_some_and(|r| r.systemd_cgroup);
    let driver = if systemd { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs };
    RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: driver.into() }) }
}
