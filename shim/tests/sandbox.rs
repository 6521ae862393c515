//! The Sandbox API: pods without a pause container, and with the shim's own when they share a pid namespace.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use cleat_proto::cri::v1::{
    IdMapping, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    UserNamespace,
};
use common::{Place, Shim, Stdio3, able, any, code, context};
use containerd_shim_protos::{
    protobuf::MessageField,
    sandbox_api::{
        CreateSandboxRequest, PingRequest, PlatformRequest, SandboxStatusRequest, ShutdownSandboxRequest,
        StartSandboxRequest, StopSandboxRequest, WaitSandboxRequest,
    },
    sandbox_async::SandboxClient,
};
use prost::Message as _;
use ttrpc::Code;

/// A network namespace that lives as long as a process of the test.
struct Netns(Child);

impl Netns {
    fn new() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap();
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let path = format!("/proc/{}/ns/net", child.id());
        assert!(common::eventually(|| fs::metadata(&path).is_ok_and(|m| m.ino() != own)));
        Self(child)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Pod {
    place: Place,
    bundle: PathBuf,
    shim: Shim,
    sandbox: SandboxClient,
    netns: Netns,
}

impl Pod {
    async fn new() -> Self {
        let mut place = Place::new("runc");
        place.shim_cgroup = format!("{}/shim", place.cgroup);
        let bundle = place.path("pod");
        fs::create_dir(&bundle).unwrap();
        let shim = place.start(&bundle, "pod").await;
        let sandbox = SandboxClient::new(shim.client.clone());
        Self { place, bundle, shim, sandbox, netns: Netns::new() }
    }

    async fn create(&self, config: &PodSandboxConfig) -> ttrpc::Result<()> {
        let mut request = CreateSandboxRequest::new();
        request.sandbox_id = "pod".into();
        request.bundle_path = self.bundle.display().to_string();
        request.netns_path = if user(config) { String::new() } else { self.netns.path() };
        request.options = MessageField::some(any("runtime.v1.PodSandboxConfig", config.encode_to_vec()));
        self.sandbox.create_sandbox(context(), &request).await.map(drop)
    }

    async fn start(&self) -> ttrpc::Result<u32> {
        let request = StartSandboxRequest { sandbox_id: "pod".into(), ..Default::default() };
        Ok(self.sandbox.start_sandbox(context(), &request).await?.pid)
    }

    async fn stop(&self) -> ttrpc::Result<()> {
        let request = StopSandboxRequest { sandbox_id: "pod".into(), ..Default::default() };
        self.sandbox.stop_sandbox(context(), &request).await.map(drop)
    }

    async fn state(&self) -> String {
        let request = SandboxStatusRequest { sandbox_id: "pod".into(), ..Default::default() };
        self.sandbox.sandbox_status(context(), &request).await.unwrap().state
    }

    async fn shutdown(&self) {
        let request = ShutdownSandboxRequest { sandbox_id: "pod".into(), ..Default::default() };
        self.sandbox.shutdown_sandbox(context(), &request).await.unwrap();
    }

    fn ns(&self, name: &str) -> u64 {
        inode(&self.bundle.join("ns").join(name))
    }

    /// A bundle of a container that joins the pod's namespaces.
    fn bundle(&self, id: &str, args: &[&str], pid: bool) {
        self.place.bundle(id, args, |config| {
            let mut namespaces = vec![serde_json::json!({"type": "mount"})];
            for (kind, name) in [("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")] {
                if name != "pid" || pid {
                    let path = self.bundle.join("ns").join(name);
                    namespaces.push(serde_json::json!({"type": kind, "path": path}));
                }
            }
            if !pid {
                namespaces.push(serde_json::json!({"type": "pid"}));
            }
            namespaces.push(serde_json::json!({"type": "network", "path": self.netns.path()}));
            config["linux"]["namespaces"] = namespaces.into();
            config.as_object_mut().unwrap().remove("hostname");
        });
    }
}

/// Whether the pod has a user namespace.
fn user(config: &PodSandboxConfig) -> bool {
    let security = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
    security.and_then(|s| s.namespace_options.as_ref()).is_some_and(|o| o.userns_options.is_some())
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).ino()
}

fn own(name: &str) -> u64 {
    inode(&Path::new("/proc/self/ns").join(name))
}

fn config(pid: NamespaceMode) -> PodSandboxConfig {
    let options = NamespaceOption { pid: pid as i32, ..Default::default() };
    let security_context = Some(LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() });
    let sysctls = [("net.ipv4.ip_forward", "1"), ("kernel.shmmni", "123")];
    PodSandboxConfig {
        hostname: "pod-host".into(),
        linux: Some(LinuxPodSandboxConfig {
            security_context,
            sysctls: sysctls.map(|(k, v)| (k.to_string(), v.to_string())).into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Runs a shell in a container of the pod and returns what it printed.
async fn output(pod: &Pod, id: &str, script: &str, pid: bool) -> String {
    let out = pod.place.path(&format!("{id}.out"));
    fs::write(&out, "").unwrap();
    pod.bundle(id, &["sh", "-c", script], pid);
    pod.shim.create(&pod.place, id, Stdio3::stdout(out.to_str().unwrap())).await.unwrap();
    pod.shim.start(id, "").await.unwrap();
    assert_eq!(pod.shim.wait(id, "").await.unwrap().exit_status, 0);
    pod.shim.delete(id, "").await.unwrap();
    fs::read_to_string(out).unwrap()
}

#[tokio::test]
async fn a_pod_without_a_pause_container() {
    if !able("a_pod_without_a_pause_container", "runc") {
        return;
    }
    let pod = Pod::new().await;
    let before: Vec<u64> = ["ipc", "uts", "net", "pid"].map(|n| inode(&proc_ns(pod.shim.pid, n))).into();
    pod.create(&config(NamespaceMode::Container)).await.unwrap();
    assert_eq!(code(pod.create(&config(NamespaceMode::Container)).await), Code::ALREADY_EXISTS);
    assert_eq!(pod.state().await, "SANDBOX_NOTREADY");
    assert_eq!(pod.start().await.unwrap(), 0);
    assert_eq!(pod.state().await, "SANDBOX_READY");
    pod.sandbox.ping_sandbox(context(), &PingRequest { sandbox_id: "pod".into(), ..Default::default() }).await.unwrap();
    let other = PingRequest { sandbox_id: "other".into(), ..Default::default() };
    assert_eq!(code(pod.sandbox.ping_sandbox(context(), &other).await), Code::NOT_FOUND);
    let platform = pod.sandbox.platform(context(), &PlatformRequest::new()).await.unwrap();
    assert_eq!(platform.platform.os, "linux");

    let after: Vec<u64> = ["ipc", "uts", "net", "pid"].map(|n| inode(&proc_ns(pod.shim.pid, n))).into();
    assert_eq!(before, after, "the shim stayed in the pod's namespaces");
    assert!(pod.ns("ipc") != own("ipc") && pod.ns("uts") != own("uts"));
    assert!(!pod.bundle.join("ns/pid").exists());

    let script = "hostname; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni; echo $$";
    assert_eq!(output(&pod, "c1", script, false).await, "pod-host\n1\n123\n1\n");
    assert_ne!(fs::read_to_string("/proc/sys/kernel/shmmni").unwrap().trim(), "123");

    pod.stop().await.unwrap();
    pod.stop().await.unwrap();
    assert_eq!(pod.state().await, "SANDBOX_NOTREADY");
    assert!(!pod.bundle.join("ns").exists());
    pod.shutdown().await;
    assert!(pod.shim.gone().await);
    assert!(!pod.shim.socket().exists());
}

fn proc_ns(pid: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/{name}"))
}

#[tokio::test]
async fn containers_share_the_pid_namespace_of_pause() {
    if !able("containers_share_the_pid_namespace_of_pause", "runc") {
        return;
    }
    let pod = Pod::new().await;
    pod.create(&config(NamespaceMode::Pod)).await.unwrap();
    let pause = pod.start().await.unwrap();
    assert!(pause > 1);
    let pause_ns = |name| inode(&proc_ns(pause.cast_signed(), name));
    assert_eq!((pod.ns("pid"), pod.ns("ipc"), pod.ns("uts")), (pause_ns("pid"), pause_ns("ipc"), pause_ns("uts")));
    assert_eq!(pause_ns("net"), inode(Path::new(&pod.netns.path())));
    assert_ne!(pause_ns("pid"), own("pid"));
    assert_eq!(output(&pod, "c1", "cat /proc/1/comm", true).await, "pause\n");
    let cgroup = || fs::read_to_string(format!("/proc/{pause}/cgroup")).unwrap();
    assert!(common::eventually(|| cgroup().contains(&pod.place.shim_cgroup)), "{}", cgroup());

    // What a container leaves behind in the shared namespace ends with it.
    pod.bundle("c2", &["sh", "-c", "sleep 1000 & exit 0"], true);
    pod.shim.create(&pod.place, "c2", Stdio3::default()).await.unwrap();
    pod.shim.start("c2", "").await.unwrap();
    pod.shim.wait("c2", "").await.unwrap();
    pod.shim.delete("c2", "").await.unwrap();
    assert_eq!(output(&pod, "c3", "ps | grep -c '[s]leep 1000'; true", true).await, "0\n");

    let wait = WaitSandboxRequest { sandbox_id: "pod".into(), ..Default::default() };
    let waiting = pod.sandbox.wait_sandbox(context(), &wait);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pause.cast_signed()), nix::sys::signal::Signal::SIGKILL).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert_eq!(ended.exit_status, 137);
    assert_eq!(pod.state().await, "SANDBOX_NOTREADY");
    pod.stop().await.unwrap();
    pod.shutdown().await;
    assert!(pod.shim.gone().await);
}

#[tokio::test]
async fn stopping_a_sandbox_ends_its_containers() {
    if !able("stopping_a_sandbox_ends_its_containers", "runc") {
        return;
    }
    let pod = Pod::new().await;
    pod.create(&config(NamespaceMode::Container)).await.unwrap();
    pod.start().await.unwrap();
    pod.bundle("c1", &["sleep", "1000"], false);
    pod.shim.create(&pod.place, "c1", Stdio3::default()).await.unwrap();
    pod.shim.start("c1", "").await.unwrap();
    pod.stop().await.unwrap();
    assert_eq!(pod.shim.wait("c1", "").await.unwrap().exit_status, 137);
    // Never deleted by the daemon: the shim's end removes it.
    pod.shutdown().await;
    assert!(pod.shim.gone().await);
    assert!(!pod.place.path("runtime/cleat-test/c1").exists());
}

#[tokio::test]
async fn a_failed_create_leaves_the_shim_where_it_was() {
    if !able("a_failed_create_leaves_the_shim_where_it_was", "runc") {
        return;
    }
    let pod = Pod::new().await;
    let mut bad = config(NamespaceMode::Container);
    bad.linux.as_mut().unwrap().sysctls = [("net.ipv4.nosuch".to_string(), "1".to_string())].into();
    let error = pod.create(&bad).await.unwrap_err().to_string();
    assert!(error.contains("/proc/sys/net/ipv4/nosuch"), "{error}");
    for name in ["ipc", "uts", "net", "pid"] {
        assert_eq!(inode(&proc_ns(pod.shim.pid, name)), own(name), "{name}");
    }
    // The child that moves the shim into its cgroup may be a moment longer.
    let children = || fs::read_to_string(format!("/proc/{0}/task/{0}/children", pod.shim.pid)).unwrap();
    assert!(common::eventually(|| children().is_empty()), "{}", children());
    assert!(!pod.bundle.join("ns").exists());
    // Nothing is in the way of another attempt.
    pod.create(&config(NamespaceMode::Container)).await.unwrap();
    pod.shutdown().await;
    assert!(pod.shim.gone().await);
}

#[tokio::test]
async fn a_user_namespace_owns_the_pod_s_other_namespaces() {
    const NAME: &str = "a_user_namespace_owns_the_pod_s_other_namespaces";
    if !able(NAME, "runc") {
        return;
    }
    if !Command::new("unshare").args(["--user", "true"]).status().unwrap().success() {
        println!("SKIP {NAME}: no user namespaces");
        return;
    }
    for pid in [NamespaceMode::Container, NamespaceMode::Pod] {
        let pod = Pod::new().await;
        let mut config = config(pid);
        let map = vec![IdMapping { host_id: 100_000, container_id: 0, length: 65536 }];
        let options = config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options.as_mut();
        let mode = NamespaceMode::Pod as i32;
        options.unwrap().userns_options = Some(UserNamespace { mode, uids: map.clone(), gids: map });
        pod.create(&config).await.unwrap();
        let shared = pid == NamespaceMode::Pod;
        assert_eq!(pod.start().await.unwrap() > 0, shared);
        for name in ["user", "ipc", "uts", "net"] {
            assert_ne!(pod.ns(name), own(name), "{name}");
            assert_eq!(inode(&proc_ns(pod.shim.pid, name)), own(name), "{name}");
        }
        // The mapped root has to get to the root filesystem.
        for dir in [pod.place.dir.path().to_path_buf(), pod.place.path("s")] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
        }
        let out = pod.place.path("out");
        fs::write(&out, "").unwrap();
        let script = "cat /proc/self/uid_map; hostname; cat /proc/sys/net/ipv4/ip_forward; ls /sys/class/net; \
                      cat /sys/class/net/lo/operstate; cat /proc/1/comm";
        pod.bundle("c1", &["sh", "-c", script], shared);
        let file = pod.place.path("c1/config.json");
        let mut spec: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|n| n["type"] != "network");
        for (kind, name) in [("network", "net"), ("user", "user")] {
            namespaces.push(serde_json::json!({"type": kind, "path": pod.bundle.join("ns").join(name)}));
        }
        let map = serde_json::json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        (spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]) = (map.clone(), map);
        let sysfs = serde_json::json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]});
        spec["mounts"].as_array_mut().unwrap().push(sysfs);
        fs::write(&file, spec.to_string()).unwrap();
        pod.shim.create(&pod.place, "c1", Stdio3::stdout(out.to_str().unwrap())).await.unwrap();
        pod.shim.start("c1", "").await.unwrap();
        let exit = pod.shim.wait("c1", "").await.unwrap().exit_status;
        pod.shim.delete("c1", "").await.unwrap();
        let text = fs::read_to_string(&out).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        let first = if shared { "pause" } else { "cat" };
        assert_eq!(words[..3], ["0", "100000", "65536"], "{text}");
        assert_eq!(words[3..], ["pod-host", "1", "lo", "unknown", first], "{exit}: {text}");
        pod.shutdown().await;
        assert!(pod.shim.gone().await);
    }
}

#[tokio::test]
async fn a_user_namespace_that_cannot_be_mapped_leaves_nothing() {
    if !able("a_user_namespace_that_cannot_be_mapped_leaves_nothing", "runc") {
        return;
    }
    let pod = Pod::new().await;
    let mut config = config(NamespaceMode::Pod);
    let map = vec![IdMapping { host_id: 1, container_id: 0, length: 10 }; 2];
    let options = config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options.as_mut();
    let mode = NamespaceMode::Pod as i32;
    options.unwrap().userns_options = Some(UserNamespace { mode, uids: map.clone(), gids: map });
    let error = pod.create(&config).await.unwrap_err().to_string();
    assert!(error.contains("uid_map"), "{error}");
    // The child that moves the shim into its cgroup may be a moment longer.
    let children = || fs::read_to_string(format!("/proc/{0}/task/{0}/children", pod.shim.pid)).unwrap();
    assert!(common::eventually(|| children().is_empty()), "{}", children());
    assert!(!pod.bundle.join("ns").exists());
    pod.shutdown().await;
    assert!(pod.shim.gone().await);
}

#[tokio::test]
async fn delete_cleans_up_after_a_killed_shim() {
    if !able("delete_cleans_up_after_a_killed_shim", "runc") {
        return;
    }
    let pod = Pod::new().await;
    pod.create(&config(NamespaceMode::Pod)).await.unwrap();
    let pause = pod.start().await.unwrap();
    let cgroup = || fs::read_to_string(format!("/proc/{pause}/cgroup")).unwrap();
    assert!(common::eventually(|| cgroup().matches(&pod.place.shim_cgroup).count() >= 1), "{}", cgroup());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pod.shim.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(pod.shim.gone().await);
    for _ in 0..2 {
        let (ok, _, stderr) = pod.place.call(&pod.bundle, "pod", "delete", b"");
        assert!(ok, "{stderr}");
    }
    let gone = || fs::read_to_string(format!("/proc/{pause}/status")).map_or(true, |s| s.contains("State:\tZ"));
    assert!(common::eventually(gone), "the pause process lives");
    assert!(!pod.shim.socket().exists());
}
