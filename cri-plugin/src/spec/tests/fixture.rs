//! What the tests of `spec` start from: a pod, a container, an image and a host, all ordinary.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cleat_proto::cri::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata,
};
use oci_spec::image::ImageConfiguration;

use crate::config;
use crate::id::{ContainerId, SandboxId};
use crate::spec::host::CgroupMode;
use crate::spec::{Accounts, Features, Host, Input, Namespaces, Probed, Sandbox, Volumes, cgroup};

/// Owns what an `Input` borrows.
pub struct Case {
    pub id: ContainerId,
    pub sandbox_id: SandboxId,
    pub pod: PodSandboxConfig,
    pub config: ContainerConfig,
    pub image: ImageConfiguration,
    pub accounts: Accounts,
    pub probed: Probed,
    pub host: Host,
    pub features: Features,
    pub handler: config::Runtime,
    pub containers: config::Containers,
    pub cgroup: cgroup::Parent,
    pub namespaces: Namespaces,
    pub resolved: BTreeMap<usize, PathBuf>,
    pub anonymous: BTreeMap<PathBuf, PathBuf>,
}

impl Case {
    pub fn new() -> Self {
        let path = |kind: &str| Some(PathBuf::from(format!("/ns/{kind}")));
        Self {
            id: ContainerId::try_from("c".repeat(64)).expect("id"),
            sandbox_id: SandboxId::try_from("5".repeat(64)).expect("id"),
            pod: pod(),
            config: container(),
            image: image(r#"{"Entrypoint":["/bin/sh"],"Cmd":["-c","true"],"Env":["PATH=/bin"]}"#),
            accounts: Accounts::new("root:x:0:0:root:/root:/bin/sh\n".into(), "root:x:0:\n".into()).expect("small"),
            probed: Probed::default(),
            host: host(),
            features: Features { recursive_read_only: true, idmapped_mounts: true },
            handler: config::Runtime::default(),
            containers: config::Containers::default(),
            cgroup: cgroup::Parent::Cgroupfs("/pods/pod1".into()),
            namespaces: Namespaces {
                net: path("net"),
                ipc: path("ipc"),
                uts: path("uts"),
                pid: path("pid"),
                user: path("user"),
                target_pid: path("target"),
            },
            resolved: BTreeMap::new(),
            anonymous: BTreeMap::new(),
        }
    }

    pub fn input(&self) -> Input<'_> {
        Input {
            id: &self.id,
            sandbox: Sandbox { id: &self.sandbox_id, config: &self.pod, namespaces: &self.namespaces },
            config: &self.config,
            image: &self.image,
            image_name: "docker.io/library/busybox:latest",
            accounts: &self.accounts,
            probed: &self.probed,
            host: &self.host,
            features: self.features,
            handler: &self.handler,
            containers: &self.containers,
            cgroup: &self.cgroup,
            volumes: Volumes {
                hosts: Some(Path::new("/pod/hosts")),
                resolv_conf: Some(Path::new("/pod/resolv.conf")),
                hostname: Some(Path::new("/pod/hostname")),
                shm: Some(Path::new("/pod/shm")),
                resolved: Some(&self.resolved),
                anonymous: Some(&self.anonymous),
            },
        }
    }
}

/// A hybrid host with every capability, without AppArmor and SELinux.
pub fn host() -> Host {
    Host {
        cgroup: CgroupMode::Hybrid,
        cgroup_options: Vec::new(),
        controllers: BTreeSet::from(["cpu", "memory", "pids", "hugetlb"].map(String::from)),
        swap: true,
        bounding: (1 << 41) - 1,
        seccomp: true,
        apparmor: None,
        selinux: None,
        mount_setattr: true,
        user_namespaces: true,
        oom_score_adj: 0,
        hugepage_sizes: vec!["2MB".into(), "1GB".into()],
        arch: "x86_64".into(),
        hostname: "node".into(),
    }
}

/// An image whose `config` is this JSON.
pub fn image(config: &str) -> ImageConfiguration {
    let text = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"config":{config}}}"#
    );
    serde_json::from_str(&text).expect("image configuration")
}

/// A pod as kubelet sends it: a network, ipc and uts namespace, no shared pid namespace.
pub fn pod() -> PodSandboxConfig {
    let metadata =
        PodSandboxMetadata { name: "pod".into(), uid: "uid-1".into(), namespace: "default".into(), attempt: 0 };
    let mut pod = PodSandboxConfig {
        metadata: Some(metadata),
        hostname: "pod".into(),
        log_directory: "/var/log/pods/default_pod_uid-1".into(),
        ..PodSandboxConfig::default()
    };
    let private = NamespaceOption { pid: NamespaceMode::Container as i32, ..NamespaceOption::default() };
    pod_security(&mut pod).namespace_options = Some(private);
    pod_security(&mut pod).privileged = true;
    pod
}

fn container() -> ContainerConfig {
    let private = NamespaceOption { pid: NamespaceMode::Container as i32, ..NamespaceOption::default() };
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(ImageSpec { image: "busybox".into(), ..ImageSpec::default() }),
        log_path: "main/0.log".into(),
        ..with_security(|s| s.namespace_options = Some(private))
    }
}

/// A container with nothing but a security context.
pub fn with_security(change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> ContainerConfig {
    let mut config = ContainerConfig::default();
    change(security(&mut config));
    config
}

/// A container with nothing but resources.
pub fn with_resources(resources: LinuxContainerResources) -> ContainerConfig {
    let linux = LinuxContainerConfig { resources: Some(resources), ..LinuxContainerConfig::default() };
    ContainerConfig { linux: Some(linux), ..ContainerConfig::default() }
}

/// The container's security context, made if missing.
pub fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// The pod's `linux`, made if missing.
pub fn pod_linux(pod: &mut PodSandboxConfig) -> &mut LinuxPodSandboxConfig {
    pod.linux.get_or_insert_default()
}

/// The pod's security context, made if missing.
pub fn pod_security(pod: &mut PodSandboxConfig) -> &mut LinuxSandboxSecurityContext {
    pod_linux(pod).security_context.get_or_insert_default()
}
