//! What the shim's tests share: bundles with a busybox, a shim of the built binary, and a client of its services.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod events;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use containerd_shim_protos::{
    api::{
        ConnectRequest, CreateTaskRequest, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
        ShutdownRequest, StartRequest, StateRequest, StateResponse, WaitRequest, WaitResponse,
    },
    bootstrap_api::{BootstrapParams, BootstrapResult, Extension},
    protobuf::{Message, MessageField, well_known_types::any::Any},
    shim::oci::Options,
    shim_async::{Client, TaskClient},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use ttrpc::context::{Context, with_duration};

pub const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-cleat-v2");
/// The binary under test: the one just built, unless `CLEAT_SHIM` names another.
pub fn shim() -> PathBuf {
    std::env::var_os("CLEAT_SHIM").map_or_else(|| SHIM.into(), PathBuf::from)
}

const NAMESPACE: &str = "cleat-test";
const APPLETS: [&str; 12] =
    ["sh", "sleep", "echo", "cat", "true", "false", "kill", "ps", "ls", "dd", "mount", "hostname"];

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether this machine can run the test; prints why not.
pub fn able(test: &str, runtime: &str) -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "not root".to_string()
    } else if !Path::new("/bin/busybox").exists() {
        "no static busybox".into()
    } else if Command::new(runtime).arg("--version").output().is_err() {
        format!("no {runtime}")
    } else {
        return true;
    };
    println!("SKIP {test}: {reason}");
    false
}

/// A context as the daemon sends it.
pub fn context() -> Context {
    let mut context = with_duration(Duration::from_secs(60));
    context.add("containerd-namespace-ttrpc".into(), NAMESPACE.into());
    context
}

/// A place for one test: directories, a cgroup parent, the runtime's root. Everything goes with it.
pub struct Place {
    pub dir: TempDir,
    pub runtime: &'static str,
    pub cgroup: String,
    /// Where events go; empty for none.
    pub events: String,
    pub shim_cgroup: String,
}

impl Place {
    pub fn new(runtime: &'static str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new().prefix("cs").tempdir().unwrap();
        let cgroup = format!("/cleat-test-{}-{number}", std::process::id());
        Self { dir, runtime, cgroup, events: String::new(), shim_cgroup: String::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn options(&self) -> Any {
        let mut options = Options::new();
        options.binary_name = self.runtime.into();
        options.root = self.path("runtime").display().to_string();
        options.shim_cgroup = self.shim_cgroup.clone();
        any("containerd.runc.v1.Options", options.write_to_bytes().unwrap())
    }

    /// Makes a bundle; `change` gets its configuration before it is written.
    pub fn bundle(&self, id: &str, args: &[&str], change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.path(id);
        fill_rootfs(&bundle.join("rootfs"));
        let mut config = config(args, &format!("{}/{id}", self.cgroup));
        change(&mut config);
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        bundle
    }

    pub fn params(&self, id: &str) -> BootstrapParams {
        let mut extension = Extension::new();
        extension.value = MessageField::some(self.options());
        let mut params = BootstrapParams::new();
        params.instance_id = id.into();
        params.namespace = NAMESPACE.into();
        params.containerd_ttrpc_address = self.events.clone();
        params.extensions = vec![extension];
        params.socket_dir = Some(self.path("s").display().to_string());
        params
    }

    /// Runs the shim's binary and returns its status, stdout and stderr.
    pub fn call(&self, bundle: &Path, id: &str, command: &str, stdin: &[u8]) -> (bool, Vec<u8>, String) {
        let mut child = Command::new(shim())
            .args(["-namespace", NAMESPACE, "-address", "/run/test.sock", "-publish-binary", "/bin/false"])
            .args(["-id", id, command])
            .current_dir(bundle)
            .env_remove("TTRPC_ADDRESS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Starts a shim for a bundle and connects to it.
    pub async fn start(&self, bundle: &Path, id: &str) -> Shim {
        let (ok, stdout, stderr) = self.call(bundle, id, "start", &self.params(id).write_to_bytes().unwrap());
        assert!(ok, "start failed: {stderr}");
        assert_eq!(stderr, "");
        let result = BootstrapResult::parse_from_bytes(&stdout).unwrap();
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        Shim::connect(&result.address).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.path("runtime").join(NAMESPACE)).into_iter().flatten().flatten() {
            let root = self.path("runtime").join(NAMESPACE);
            let id = entry.file_name().into_string().unwrap();
            let _ = Command::new(self.runtime)
                .args(["--root", root.to_str().unwrap(), "delete", "--force", &id])
                .stderr(Stdio::null())
                .status();
        }
        for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let parent = controller.path().join(self.cgroup.trim_start_matches('/'));
            eventually(|| {
                for child in fs::read_dir(&parent).into_iter().flatten().flatten() {
                    let _ = fs::remove_dir(child.path());
                }
                let _ = fs::remove_dir(&parent);
                !parent.exists() || std::thread::panicking()
            });
        }
    }
}

pub fn any(url: &str, value: Vec<u8>) -> Any {
    let mut any = Any::new();
    any.type_url = url.into();
    any.value = value;
    any
}

pub fn fill_rootfs(rootfs: &Path) {
    for dir in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
        fs::create_dir_all(rootfs.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
}

pub fn process(args: &[&str]) -> Value {
    json!({
        "terminal": false, "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin", "TERM=xterm"], "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]}
    })
}

fn config(args: &[&str], cgroup: &str) -> Value {
    let namespaces: Vec<Value> = ["pid", "mount", "ipc", "uts"].iter().map(|t| json!({"type": t})).collect();
    json!({
        "ociVersion": "1.0.2", "process": process(args), "root": {"path": "rootfs"}, "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {"namespaces": namespaces, "cgroupsPath": cgroup, "resources": {}}
    })
}

/// A client of one shim. The shim is ended with it.
pub struct Shim {
    pub address: String,
    pub client: Client,
    pub task: TaskClient,
    pub pid: i32,
}

impl Shim {
    pub async fn connect(address: &str) -> Self {
        let client = Client::connect(address).await.unwrap();
        let task = TaskClient::new(client.clone());
        let connected = task.connect(context(), &ConnectRequest::new()).await.unwrap();
        Self { address: address.into(), client, task, pid: connected.shim_pid.cast_signed() }
    }

    pub fn socket(&self) -> &Path {
        Path::new(self.address.strip_prefix("unix://").unwrap())
    }

    pub async fn create(&self, place: &Place, id: &str, stdio: Stdio3<'_>) -> ttrpc::Result<u32> {
        let mut request = CreateTaskRequest::new();
        request.id = id.into();
        request.bundle = place.path(id).display().to_string();
        request.options = MessageField::some(place.options());
        [request.stdin, request.stdout, request.stderr] = stdio.paths.map(String::from);
        request.terminal = stdio.terminal;
        Ok(self.task.create(context(), &request).await?.pid)
    }

    pub async fn start(&self, id: &str, exec: &str) -> ttrpc::Result<u32> {
        let mut request = StartRequest::new();
        request.id = id.into();
        request.exec_id = exec.into();
        Ok(self.task.start(context(), &request).await?.pid)
    }

    pub async fn exec(&self, id: &str, exec: &str, args: &[&str], stdio: Stdio3<'_>) -> ttrpc::Result<()> {
        let mut request = ExecProcessRequest::new();
        request.id = id.into();
        request.exec_id = exec.into();
        [request.stdin, request.stdout, request.stderr] = stdio.paths.map(String::from);
        request.terminal = stdio.terminal;
        let url = "types.containerd.io/opencontainers/runtime-spec/1/Process";
        request.spec = MessageField::some(any(url, process(args).to_string().into_bytes()));
        self.task.exec(context(), &request).await.map(drop)
    }

    pub async fn kill(&self, id: &str, exec: &str, signal: i32) -> ttrpc::Result<()> {
        let mut request = KillRequest::new();
        request.id = id.into();
        request.exec_id = exec.into();
        request.signal = signal.cast_unsigned();
        self.task.kill(context(), &request).await.map(drop)
    }

    pub async fn wait(&self, id: &str, exec: &str) -> ttrpc::Result<WaitResponse> {
        let mut request = WaitRequest::new();
        request.id = id.into();
        request.exec_id = exec.into();
        self.task.wait(context(), &request).await
    }

    pub async fn delete(&self, id: &str, exec: &str) -> ttrpc::Result<DeleteResponse> {
        let mut request = DeleteRequest::new();
        request.id = id.into();
        request.exec_id = exec.into();
        self.task.delete(context(), &request).await
    }

    pub async fn state(&self, id: &str, exec: &str) -> ttrpc::Result<StateResponse> {
        let mut request = StateRequest::new();
        request.id = id.into();
        request.exec_id = exec.into();
        self.task.state(context(), &request).await
    }

    pub async fn shutdown(&self) {
        self.task.shutdown(context(), &ShutdownRequest::new()).await.unwrap();
    }

    /// Waits until the shim's process is gone.
    pub async fn gone(&self) -> bool {
        let status = format!("/proc/{}/status", self.pid);
        for _ in 0..1000 {
            // A zombie waits for whoever is process 1 here, which is not the shim's concern.
            if fs::read_to_string(&status).map_or(true, |text| text.contains("State:\tZ")) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let exe = fs::read_link(format!("/proc/{}/exe", self.pid)).unwrap_or_default();
        if exe == shim() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// The three streams of a process in a test.
#[derive(Clone, Copy, Default)]
pub struct Stdio3<'a> {
    pub paths: [&'a str; 3],
    pub terminal: bool,
}

impl<'a> Stdio3<'a> {
    pub fn stdout(path: &'a str) -> Self {
        Self { paths: ["", path, ""], terminal: false }
    }
}

/// Polls for up to ten seconds.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..1000 {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// The status code of an error.
pub fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> ttrpc::Code {
    match result.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("{other} is no status"),
    }
}
