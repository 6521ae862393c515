//! Generated specs run for real: runc and crun take them, and inside it looks as the spec says.
//!
//! Each run has a bundle, a state directory, a cgroup parent and namespaces of its own and removes them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cleat_proto::cri::v1::{
    Device, IdMapping, Int64Value, KeyValue, LinuxContainerResources, Mount, NamespaceMode, NamespaceOption,
    SecurityProfile, UserNamespace,
};

use super::fixture::{self, Case};
use oci_spec::runtime::Spec;

use crate::config;
use crate::id::{ContainerId, SandboxId};
use crate::spec::{Accounts, Features, Host, Namespaces, Pause, Probed, cgroup, container, pause, sysctls};

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nextra:x:50000:app\n";

/// The two runtimes; crun up to 1.8 gives up on a hybrid host unless the v2 tree is out of sight.
const RUNC: &str = "exec runc \"$@\"";
const CRUN: &str = "umount /sys/fs/cgroup/unified 2>/dev/null; exec crun \"$@\"";

/// A process whose namespaces stand for the pod's.
struct Pod(Child);

impl Pod {
    fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--net", "--ipc", "--uts", "sh", "-c", "hostname pod; echo ready; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn();
        let mut pod = Self(child.expect("unshare"));
        let mut ready = [0; 5];
        std::io::Read::read_exact(pod.0.stdout.as_mut().expect("piped"), &mut ready).expect("ready");
        pod
    }

    /// The same in a user namespace, whose ids are the host's from `first`.
    fn mapped(first: u32) -> Self {
        let child = Command::new("unshare")
            .args(["--user", "--net", "--ipc", "--uts", "sh", "-c", "echo ready; exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn();
        let mut pod = Self(child.expect("unshare"));
        let mut ready = [0; 5];
        std::io::Read::read_exact(pod.0.stdout.as_mut().expect("piped"), &mut ready).expect("ready");
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{}/{map}", pod.0.id()), format!("0 {first} 65536\n")).expect(map);
        }
        pod
    }

    fn namespaces(&self) -> Namespaces {
        let path = |kind: &str| Some(PathBuf::from(format!("/proc/{}/ns/{kind}", self.0.id())));
        Namespaces { net: path("net"), ipc: path("ipc"), uts: path("uts"), user: path("user"), ..Namespaces::default() }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("the pod's process ends");
    }
}

/// A bundle and all that belongs to it.
struct Live {
    dir: tempfile::TempDir,
    /// Kept alive for its namespaces.
    _pod: Pod,
    case: Case,
    parent: String,
}

impl Live {
    fn new() -> Self {
        Self::with(Pod::new())
    }

    fn with(pod: Pod) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let id = ContainerId::random().expect("id");
        let parent = format!("/cleat-spec-{}", &id.as_str()[..12]);
        let mut case = Case::new();
        case.cgroup = cgroup::Parent::new(&parent, cgroup::Driver::Cgroupfs).expect("parent");
        case.host = Host::detect().expect("detect");
        case.namespaces = pod.namespaces();
        case.accounts = Accounts::new(PASSWD.into(), GROUP.into()).expect("small");
        case.sandbox_id = SandboxId::random().expect("id");
        case.id = id;
        let live = Self { dir, _pod: pod, case, parent };
        live.rootfs();
        live
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn rootfs(&self) {
        for dir in ["rootfs/bin", "rootfs/etc", "rootfs/tmp", "shm", "data", "state"] {
            std::fs::create_dir_all(self.path(dir)).expect("mkdir");
        }
        std::fs::copy("/bin/busybox", self.path("rootfs/bin/busybox")).expect("busybox");
        std::os::unix::fs::symlink("busybox", self.path("rootfs/bin/sh")).expect("symlink");
        for (name, text) in [
            ("hosts", "127.0.0.1 pod\n"),
            ("resolv.conf", ""),
            ("hostname", "pod\n"),
            ("data/file", "seven\n"),
            ("rootfs/etc/passwd", PASSWD),
        ] {
            std::fs::write(self.path(name), text).expect("write");
        }
        // The root of a user namespace is a stranger here and must get through.
        for (name, mode) in [("shm", 0o1777), ("", 0o755)] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(self.path(name), mode).expect("chmod");
        }
    }

    /// Runs `script` in the container and returns what it printed.
    fn run(&mut self, runtime: &str, script: &str) -> String {
        self.case.config.command = vec!["/bin/busybox".into(), "sh".into(), "-c".into(), script.into()];
        self.case.config.envs.push(KeyValue { key: "PATH".into(), value: b"/bin".to_vec() });
        self.case.probed = Probed::read(&self.case.config, &self.case.handler).expect("probe");
        let [hosts, resolv, hostname, shm] = ["hosts", "resolv.conf", "hostname", "shm"].map(|n| self.path(n));
        let mut input = self.case.input();
        input.volumes.hosts = Some(&hosts);
        input.volumes.resolv_conf = Some(&resolv);
        input.volumes.hostname = Some(&hostname);
        input.volumes.shm = Some(&shm);
        let spec = container(&input).unwrap_or_else(|e| panic!("{e}"));
        self.start(runtime, &spec)
    }

    fn start(&self, runtime: &str, spec: &Spec) -> String {
        spec.save(self.path("config.json")).expect("config.json");
        let state = self.path("state");
        let output = Command::new("timeout")
            .args(["60", "unshare", "--mount", "sh", "-c", runtime, "sh", "--root"])
            .arg(&state)
            .args(["run", "--bundle"])
            .arg(self.dir.path())
            .arg(self.case.id.as_str())
            .output()
            .expect("the runtime starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{runtime}: {}\n{out}\n{err}", output.status);
        out.into_owned()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let own = self.parent.trim_start_matches('/').to_owned();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let parent = hierarchy.path().join(&own);
            let _ = std::fs::remove_dir(parent.join(self.case.id.as_str()));
            let _ = std::fs::remove_dir(parent);
        }
    }
}

/// What this machine must have; says what is missing and skips the test where it has not.
fn able(name: &str, program: &str) -> bool {
    let found = |p: &str| ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|d| Path::new(d).join(p).exists());
    let missing = [program, "busybox", "unshare", "timeout"].into_iter().find(|p| !found(p));
    if let Some(missing) = missing {
        println!("SKIP {name}: {missing} is not installed");
        return false;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIP {name}: not root");
        return false;
    }
    true
}

fn has_line(out: &str, line: &str) -> bool {
    out.lines().any(|l| l.split_whitespace().eq(line.split_whitespace()))
}

const ORDINARY: &str = r#"
ro() { grep -qE "^[^ ]+ $1 [^ ]+ ro," /proc/mounts && echo $1 is read-only; }
id; pwd; hostname; echo $GREETING $HOSTNAME
grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status
echo keys $(cat /proc/keys | wc -c)
echo firmware $(ls -A /sys/firmware | wc -l)
ro /; ro /data; ro /proc/sys; ro /sys; ro /etc/hosts
grep -qE ' cgroup2? rw,' /proc/mounts || echo cgroup is read-only
touch /dev/shm/x && echo shm is writable
unshare -U true 2>/dev/null || echo no new namespace
cat /data/file /proc/self/oom_score_adj /etc/hosts
echo pid $$
"#;

fn ordinary(live: &mut Live) {
    let config = &mut live.case.config;
    config.working_dir = "/tmp".into();
    config.envs = vec![KeyValue { key: "GREETING".into(), value: b"hello".to_vec() }];
    let data = live.dir.path().join("data").to_str().expect("utf-8").to_owned();
    config.mounts = vec![Mount { container_path: "/data".into(), host_path: data, readonly: true, ..Mount::default() }];
    config.linux.get_or_insert_default().resources = Some(LinuxContainerResources {
        oom_score_adj: 500,
        memory_limit_in_bytes: 64 << 20,
        cpu_shares: 100,
        ..Default::default()
    });
    let security = fixture::security(config);
    security.run_as_user = Some(Int64Value { value: 1000 });
    security.supplemental_groups = vec![7];
    security.no_new_privs = true;
    security.readonly_rootfs = true;
    security.seccomp = Some(SecurityProfile::default());
    security.masked_paths = vec!["/proc/keys".into(), "/sys/firmware".into()];
    security.readonly_paths = vec!["/proc/sys".into()];
}

fn check_ordinary(out: &str) {
    for line in [
        "uid=1000(app) gid=1001 groups=7,1001,50000",
        "/tmp",
        "pod",
        "hello pod",
        "CapInh: 0000000000000000",
        "CapEff: 0000000000000000",
        "CapBnd: 00000000a80425fb",
        "CapAmb: 0000000000000000",
        "NoNewPrivs: 1",
        "Seccomp: 2",
        "keys 0",
        "firmware 0",
        "/ is read-only",
        "/data is read-only",
        "/proc/sys is read-only",
        "/sys is read-only",
        "/etc/hosts is read-only",
        "cgroup is read-only",
        "shm is writable",
        "no new namespace",
        "seven",
        "500",
        "127.0.0.1 pod",
        "pid 1",
    ] {
        assert!(has_line(out, line), "no line {line:?} in:\n{out}");
    }
}

const PRIVILEGED: &str = "
grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status
mkdir /sys/fs/cgroup/memory/cleat-live 2>/dev/null && rmdir /sys/fs/cgroup/memory/cleat-live && echo cgroup is writable
test -c /dev/kmsg && echo kmsg
mount -t tmpfs none /tmp && echo mounted
";

fn privileged(live: &mut Live) {
    fixture::security(&mut live.case.config).privileged = true;
}

fn check_privileged(out: &str, host: &Host) {
    let all = format!("CapEff: {:016x}", host.bounding);
    for line in [all.as_str(), "Seccomp: 0", "NoNewPrivs: 0", "mounted"] {
        assert!(has_line(out, line), "no line {line:?} in:\n{out}");
    }
    assert_eq!(Path::new("/dev/kmsg").exists(), has_line(out, "kmsg"), "{out}");
    if host.controllers.contains("memory") && !host.is_v2() {
        assert!(has_line(out, "cgroup is writable"), "{out}");
    }
}

#[test]
fn runc_runs_an_ordinary_container() {
    if able("runc_runs_an_ordinary_container", "runc") {
        let mut live = Live::new();
        ordinary(&mut live);
        check_ordinary(&live.run(RUNC, ORDINARY));
    }
}

#[test]
fn crun_runs_an_ordinary_container() {
    if able("crun_runs_an_ordinary_container", "crun") {
        let mut live = Live::new();
        ordinary(&mut live);
        check_ordinary(&live.run(CRUN, ORDINARY));
    }
}

#[test]
fn runc_runs_a_privileged_container() {
    if able("runc_runs_a_privileged_container", "runc") {
        let mut live = Live::new();
        privileged(&mut live);
        let out = live.run(RUNC, PRIVILEGED);
        check_privileged(&out, &live.case.host);
    }
}

#[test]
fn crun_runs_a_privileged_container() {
    if able("crun_runs_a_privileged_container", "crun") {
        let mut live = Live::new();
        privileged(&mut live);
        let out = live.run(CRUN, PRIVILEGED);
        check_privileged(&out, &live.case.host);
    }
}

#[test]
fn a_device_is_there_and_allowed_and_others_are_not() {
    if able("a_device_is_there_and_allowed_and_others_are_not", "runc") {
        let mut live = Live::new();
        live.case.config.devices =
            vec![Device { host_path: "/dev/zero".into(), container_path: "/dev/nil".into(), permissions: "r".into() }];
        let out = live.run(
            RUNC,
            "head -c 1 /dev/nil | wc -c; mknod /tmp/kmsg c 1 11; cat /tmp/kmsg 2>/dev/null >&2 || echo kmsg is denied",
        );
        assert!(has_line(&out, "1") && has_line(&out, "kmsg is denied"), "{out}");
    }
}

#[test]
fn the_hosts_network_and_a_targets_pids() {
    if able("the_hosts_network_and_a_targets_pids", "runc") {
        let mut live = Live::new();
        let modes = NamespaceOption {
            network: NamespaceMode::Node as i32,
            pid: NamespaceMode::Target as i32,
            target_id: "x".into(),
            ..NamespaceOption::default()
        };
        let pod = NamespaceOption { pid: NamespaceMode::Container as i32, target_id: String::new(), ..modes.clone() };
        fixture::pod_security(&mut live.case.pod).namespace_options = Some(pod);
        live.case.pod.hostname = String::new();
        fixture::security(&mut live.case.config).namespace_options = Some(modes);
        live.case.namespaces.target_pid = Some("/proc/self/ns/pid".into());
        let out = live.run(RUNC, "for n in net pid uts; do readlink /proc/self/ns/$n; done; echo $HOSTNAME");
        for kind in ["net", "pid", "uts"] {
            let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("namespace");
            assert!(has_line(&out, own.to_str().expect("utf-8")), "{kind}: {own:?} not in {out}");
        }
        assert!(has_line(&out, &live.case.host.hostname), "{out}");
    }
}

#[test]
fn a_user_namespace_is_joined_by_both() {
    for (program, runtime) in [("runc", RUNC), ("crun", CRUN)] {
        if !able("a_user_namespace_is_joined_by_both", program) {
            continue;
        }
        let mut live = Live::with(Pod::mapped(200_000));
        let range = vec![IdMapping { host_id: 200_000, container_id: 0, length: 65536 }];
        let userns = UserNamespace { mode: NamespaceMode::Pod as i32, uids: range.clone(), gids: range };
        let options = NamespaceOption {
            pid: NamespaceMode::Container as i32,
            userns_options: Some(userns),
            ..NamespaceOption::default()
        };
        fixture::pod_security(&mut live.case.pod).namespace_options = Some(options.clone());
        fixture::security(&mut live.case.config).namespace_options = Some(options);
        fixture::security(&mut live.case.config).seccomp = Some(SecurityProfile::default());
        live.case.features = Features::default();
        // As an idmapped or shifted snapshot would show it.
        let shifted = Command::new("chown").args(["-R", "200000:200000"]).arg(live.path("rootfs")).status();
        assert!(shifted.expect("chown").success());
        let out = live.run(runtime, "id -u; cat /proc/self/uid_map; grep Seccomp: /proc/self/status");
        for line in ["0", "0 200000 65536", "Seccomp: 2"] {
            assert!(has_line(&out, line), "{program}: no line {line:?} in:\n{out}");
        }
    }
}

#[test]
fn a_pause_container_makes_what_containers_join() {
    for (program, runtime) in [("runc", RUNC), ("crun", CRUN)] {
        if !able("a_pause_container_makes_what_containers_join", program) {
            continue;
        }
        let mut live = Live::new();
        fixture::pod_security(&mut live.case.pod).seccomp = Some(SecurityProfile::default());
        fixture::pod_security(&mut live.case.pod).privileged = false;
        let script = "id -u; hostname; echo pid $$; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
                      grep -E '^(CapBnd|Seccomp):' /proc/self/status";
        let own = live.case.input();
        let input = Pause {
            sandbox: own.sandbox,
            args: &["/bin/busybox", "sh", "-c", script].map(String::from),
            image_name: "cleat/pause",
            sysctls: &sysctls::unprivileged(&live.case.pod).expect("sysctls"),
            cgroup: own.cgroup,
            host: own.host,
            features: Features::default(),
            handler: own.handler,
            containers: &config::Containers { restrict_oom_score_adj: true, ..config::Containers::default() },
            resolv_conf: Some(&live.path("resolv.conf")),
            shm: Some(&live.path("shm")),
        };
        let spec = pause(&input).unwrap_or_else(|e| panic!("{e}"));
        let out = live.start(runtime, &spec);
        for line in ["65535", "pod", "pid 1", "0", "CapBnd: 0000000000000000", "Seccomp: 2"] {
            assert!(has_line(&out, line), "{program}: no line {line:?} in:\n{out}");
        }
    }
}
