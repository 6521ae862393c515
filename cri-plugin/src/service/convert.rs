//! Our records as CRI's messages, and CRI's filters over them.

use std::collections::BTreeMap;

use cleat_proto::cri::v1::{
    self as cri, Container as Item, ContainerFilter, ContainerState, ContainerStatus, ImageSpec, LinuxPodSandboxStatus,
    Namespace, PodIp, PodSandbox, PodSandboxFilter, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};

use crate::container::{Container, Exit, State};
use crate::images;
use crate::sandbox::{Network, Phase, Sandbox};

pub(super) fn sandbox_state(sandbox: &Sandbox) -> PodSandboxState {
    match sandbox.state().phase {
        Phase::Ready => PodSandboxState::SandboxReady,
        Phase::Creating | Phase::NotReady => PodSandboxState::SandboxNotready,
    }
}

pub(super) fn sandbox_item(sandbox: &Sandbox) -> PodSandbox {
    let config = sandbox.fixed.config.clone();
    PodSandbox {
        id: sandbox.id().to_string(),
        metadata: config.metadata,
        state: sandbox_state(sandbox).into(),
        created_at: sandbox.fixed.created_at,
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: sandbox.fixed.requested_handler.clone(),
    }
}

pub(super) fn sandbox_status(sandbox: &Sandbox) -> PodSandboxStatus {
    let config = sandbox.fixed.config.clone();
    let security = config.linux.and_then(|l| l.security_context);
    let options = security.and_then(|s| s.namespace_options).unwrap_or_default();
    PodSandboxStatus {
        id: sandbox.id().to_string(),
        metadata: config.metadata,
        state: sandbox_state(sandbox).into(),
        created_at: sandbox.fixed.created_at,
        network: Some(network_status(&sandbox.state().network)),
        linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options: Some(options) }) }),
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: sandbox.fixed.requested_handler.clone(),
    }
}

fn network_status(network: &Network) -> PodSandboxNetworkStatus {
    let Network::Attached(attached) = network else { return PodSandboxNetworkStatus::default() };
    let mut ips = attached.ips.iter().map(ToString::to_string);
    PodSandboxNetworkStatus { ip: ips.next().unwrap_or_default(), additional_ips: ips.map(|ip| PodIp { ip }).collect() }
}

pub(super) fn container_state(state: &State) -> ContainerState {
    match state {
        State::Creating | State::Created | State::Starting => ContainerState::ContainerCreated,
        State::Running { .. } => ContainerState::ContainerRunning,
        State::Exited(_) => ContainerState::ContainerExited,
    }
}

pub(super) fn container_item(container: &Container) -> Item {
    let config = container.fixed.config.clone();
    Item {
        id: container.id().to_string(),
        pod_sandbox_id: container.fixed.sandbox.to_string(),
        metadata: config.metadata,
        image: config.image,
        image_ref: container.fixed.image.reference(),
        state: container_state(&container.state()).into(),
        created_at: container.fixed.created_at,
        labels: config.labels,
        annotations: config.annotations,
        image_id: container.fixed.image.id.clone(),
    }
}

pub(super) fn container_status(container: &Container) -> ContainerStatus {
    let (fixed, state) = (&container.fixed, container.state());
    let stop_signal = fixed.config.stop_signal;
    let config = fixed.config.clone();
    let (started_at, exit) = match &state {
        State::Running { started_at, .. } => (*started_at, Exit::default()),
        State::Exited(exit) => (exit.started_at, exit.clone()),
        State::Creating | State::Created | State::Starting => (0, Exit::default()),
    };
    ContainerStatus {
        id: container.id().to_string(),
        metadata: config.metadata,
        state: container_state(&state).into(),
        created_at: fixed.created_at,
        started_at,
        finished_at: exit.finished_at,
        exit_code: exit.code,
        image: config.image,
        image_ref: fixed.image.reference(),
        reason: exit.reason,
        message: exit.message,
        labels: config.labels,
        annotations: config.annotations,
        mounts: config.mounts,
        log_path: fixed.log_path.clone(),
        resources: config
            .linux
            .and_then(|l| l.resources)
            .map(|linux| cri::ContainerResources { linux: Some(linux), windows: None }),
        image_id: fixed.image.id.clone(),
        user: fixed.user.as_ref().map(|user| cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: user.uid.into(),
                gid: user.gid.into(),
                supplemental_groups: user.groups.iter().map(|g| i64::from(*g)).collect(),
            }),
        }),
        stop_signal,
    }
}

pub(super) fn image(image: images::Image) -> cri::Image {
    let (uid, username) = match image.user {
        None => (Some(cri::Int64Value { value: 0 }), String::new()),
        Some(images::User::Uid(uid)) => (Some(cri::Int64Value { value: uid.into() }), String::new()),
        Some(images::User::Name(name)) => (None, name),
    };
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags,
        repo_digests: image.repo_digests,
        size: image.size_bytes,
        uid,
        username,
        spec: Some(ImageSpec { image: image.id.to_string(), ..ImageSpec::default() }),
        pinned: image.pinned,
    }
}

/// Whether a sandbox passes a filter; a field that is not set lets all pass.
pub(super) fn sandbox_passes(sandbox: &Sandbox, filter: Option<&PodSandboxFilter>) -> bool {
    let Some(filter) = filter else { return true };
    sandbox.id().as_str().starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|s| s.state == i32::from(sandbox_state(sandbox)))
        && labels_match(&filter.label_selector, &sandbox.fixed.config.labels)
}

/// Whether a container passes a filter.
pub(super) fn container_passes(container: &Container, filter: Option<&ContainerFilter>) -> bool {
    let Some(filter) = filter else { return true };
    container.id().as_str().starts_with(&filter.id)
        && container.fixed.sandbox.as_str().starts_with(&filter.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|s| s.state == i32::from(container_state(&container.state())))
        && labels_match(&filter.label_selector, &container.fixed.config.labels)
}

fn labels_match(wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_wanted_labels_must_match() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let labels: BTreeMap<_, _> = map(&[("a", "1"), ("b", "2")]);
        for (wanted, passes) in [
            (map(&[]), true),
            (map(&[("a", "1")]), true),
            (map(&[("a", "1"), ("b", "2")]), true),
            (map(&[("a", "2")]), false),
            (map(&[("c", "1")]), false),
        ] {
            assert_eq!(labels_match(&wanted, &labels), passes, "{wanted:?}");
        }
    }
}
