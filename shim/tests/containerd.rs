//! The shim under a stock containerd, driven by `ctr`.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use common::{SHIM, able, eventually, fill_rootfs};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

const RUNTIME: &str = "io.containerd.cleat.v2";

/// A containerd of the test's own.
struct Containerd {
    dir: TempDir,
    namespace: String,
    daemon: Child,
    events: Child,
}

impl Containerd {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("cd").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {ttrpc:?}\n",
            root = path("root"),
            state = path("state"),
            socket = path("c.sock"),
            ttrpc = path("c.sock.ttrpc"),
        );
        fs::write(path("config.toml"), config).unwrap();
        fill_rootfs(&path("rootfs"));
        // A file, because `ctr` of containerd 2 takes an option behind the command for one of its own.
        fs::write(path("rootfs/exit7"), "exit 7\n").unwrap();
        let bin = Path::new(SHIM).parent().unwrap().display().to_string();
        let log = File::create(path("log")).unwrap();
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(path("config.toml"))
            .env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap()))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let socket = path("c.sock");
        let namespace = format!("cleat-ctr-{}", std::process::id());
        let ready = || ctr(&socket, &namespace).arg("version").output().unwrap().status.success();
        assert!(eventually(ready), "{}", fs::read_to_string(path("log")).unwrap());
        let events = ctr(&socket, &namespace)
            .arg("events")
            .stdout(File::create(path("events")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        Self { dir, namespace, daemon, events }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ctr(&self, args: &[&str]) -> Output {
        ctr(&self.path("c.sock"), &self.namespace).args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs `ctr` and returns what it printed.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.ctr(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let log = || fs::read_to_string(self.path("log")).unwrap();
        assert!(output.status.success(), "ctr {args:?}: {}\n{}", text(&output.stderr), log());
        text(&output.stdout)
    }

    /// The topics of a container's task events, in order.
    fn topics(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("events")).unwrap();
        let topic =
            |line: &str| line.split_whitespace().find_map(|word| word.strip_prefix("/tasks/").map(String::from));
        text.lines().filter_map(topic).collect()
    }

    fn shims(&self) -> Vec<String> {
        let proc = fs::read_dir("/proc").unwrap().flatten();
        let cmdline = |pid: PathBuf| fs::read_to_string(pid.join("cmdline")).unwrap_or_default().replace('\0', " ");
        proc.map(|entry| cmdline(entry.path()))
            .filter(|line| line.contains(&self.namespace))
            .filter(|l| l.starts_with(SHIM))
            .collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.events.id().cast_signed()), Signal::SIGTERM);
        let _ = self.events.wait();
        let _ = kill(Pid::from_raw(self.daemon.id().cast_signed()), Signal::SIGTERM);
        let _ = self.daemon.wait();
        let _ = fs::remove_dir(Path::new("/run/containerd/runc").join(&self.namespace));
        for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(controller.path().join(&self.namespace));
        }
    }
}

fn ctr(socket: &Path, namespace: &str) -> Command {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket).args(["--namespace", namespace]);
    command
}

#[test]
fn a_stock_containerd_runs_containers_with_this_shim() {
    const NAME: &str = "a_stock_containerd_runs_containers_with_this_shim";
    if !able(NAME, "runc") || !able(NAME, "containerd") || !able(NAME, "ctr") {
        return;
    }
    let c = Containerd::start();
    let rootfs = c.path("rootfs").display().to_string();
    let run = ["run", "-d", "--rootfs", "--runtime", RUNTIME];
    c.ok(&[&run[..], &[&rootfs, "c1", "/bin/sleep", "1000"]].concat());
    assert!(c.ok(&["task", "ls"]).contains("RUNNING"));
    assert_eq!(c.ok(&["task", "exec", "--exec-id", "e1", "c1", "/bin/echo", "hello"]), "hello\n");
    // containerd 2's `ctr` ends with 1 whatever the exec's status; the event has it.
    assert!(!c.ctr(&["task", "exec", "--exec-id", "e2", "c1", "/bin/sh", "/exit7"]).status.success());
    assert!(eventually(|| fs::read_to_string(c.path("events")).unwrap().contains("\"exit_status\":7")));
    assert!(c.ok(&["task", "ps", "c1"]).lines().count() >= 2);
    assert!(c.ok(&["task", "metrics", "c1"]).contains("memory"));
    c.ok(&["task", "pause", "c1"]);
    assert!(c.ok(&["task", "ls"]).contains("PAUSED"));
    c.ok(&["task", "resume", "c1"]);
    c.ok(&["task", "kill", "--signal", "SIGKILL", "c1"]);
    assert!(eventually(|| c.ok(&["task", "ls"]).contains("STOPPED")));
    let deleted = c.ctr(&["task", "delete", "c1"]);
    assert!(String::from_utf8_lossy(&deleted.stderr).contains("exit code 137"), "{deleted:?}");
    c.ok(&["container", "rm", "c1"]);
    let expected = [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit",
        "exec-added",
        "exec-started",
        "exit",
        "paused",
        "resumed",
        "exit",
        "delete",
    ];
    assert!(eventually(|| c.topics().len() >= expected.len()), "{:?}", c.topics());
    assert_eq!(c.topics(), expected);

    assert!(eventually(|| c.shims().is_empty()), "shims are left: {:?}", c.shims());
    let bundles = c.path("state/io.containerd.runtime.v2.task").join(&c.namespace);
    assert_eq!(fs::read_dir(&bundles).unwrap().count(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(c.dir.path().to_str().unwrap()), "{mounts}");
}

#[test]
fn a_restarted_containerd_finds_its_shims_again() {
    const NAME: &str = "a_restarted_containerd_finds_its_shims_again";
    if !able(NAME, "runc") || !able(NAME, "containerd") || !able(NAME, "ctr") {
        return;
    }
    let mut c = Containerd::start();
    c.namespace.push_str("-b");
    let rootfs = c.path("rootfs").display().to_string();
    c.ok(&["run", "-d", "--rootfs", "--runtime", SHIM, &rootfs, "c1", "/bin/sleep", "1000"]);
    kill(Pid::from_raw(c.daemon.id().cast_signed()), Signal::SIGKILL).unwrap();
    c.daemon.wait().unwrap();
    let log = File::create(c.path("log2")).unwrap();
    c.daemon = Command::new("containerd").arg("--config").arg(c.path("config.toml")).stderr(log).spawn().unwrap();
    assert!(eventually(|| c.ctr(&["version"]).status.success()));
    assert!(c.ok(&["task", "ls"]).contains("RUNNING"));
    assert_eq!(c.ok(&["task", "exec", "--exec-id", "e1", "c1", "/bin/echo", "again"]), "again\n");
    c.ok(&["task", "delete", "--force", "c1"]);
    c.ok(&["container", "rm", "c1"]);
    assert!(eventually(|| c.shims().is_empty()), "shims are left: {:?}", c.shims());
}
