//! The known ways for a shim to go wrong, one test each.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use cleat_proto::shim::{KilledRequest, OomClient};
use common::{Place, Shim, Stdio3, able, any, code, context, events::Record, eventually};
use containerd_shim_protos::{
    api::{
        CloseIORequest, CreateTaskRequest, DeleteResponse, PauseRequest, PidsRequest, ResizePtyRequest, StatsRequest,
        Status, UpdateTaskRequest,
    },
    cgroups::metrics::Metrics,
    protobuf::{Message as _, MessageField},
    shim_async::{Client, TaskClient},
    types::mount::Mount,
};
use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use serde_json::json;
use tokio::time::timeout;
use ttrpc::Code;

const SOON: Duration = Duration::from_secs(10);

/// A shim with one container, created; `change` gets the container's configuration.
async fn created(place: &Place, args: &[&str], change: impl FnOnce(&mut serde_json::Value)) -> Shim {
    let bundle = place.bundle("c1", args, change);
    let shim = place.start(&bundle, "c1").await;
    shim.create(place, "c1", Stdio3::default()).await.unwrap();
    shim
}

async fn started(place: &Place, args: &[&str]) -> Shim {
    let shim = created(place, args, |_| {}).await;
    shim.start("c1", "").await.unwrap();
    shim
}

async fn finish(shim: &Shim) {
    let _ = shim.kill("c1", "", libc::SIGKILL).await;
    timeout(SOON, shim.wait("c1", "")).await.unwrap().unwrap();
    shim.delete("c1", "").await.unwrap();
    shim.shutdown().await;
    assert!(shim.gone().await);
}

/// 1: an exit never comes before its start, an init's never before its execs'.
#[tokio::test]
async fn exits_come_after_starts_and_execs_before_their_init() {
    if !able("exits_come_after_starts_and_execs_before_their_init", "runc") {
        return;
    }
    let mut place = Place::new("runc");
    let ttrpc = place.path("ttrpc.sock");
    let (record, _server) = Record::listen(&ttrpc).await;
    place.events = ttrpc.display().to_string();
    let shim = started(&place, &["sleep", "1000"]).await;
    for exec in ["e1", "e2"] {
        shim.exec("c1", exec, &["sleep", "1000"], Stdio3::default()).await.unwrap();
        shim.start("c1", exec).await.unwrap();
    }
    shim.exec("c1", "e3", &["true"], Stdio3::default()).await.unwrap();
    shim.start("c1", "e3").await.unwrap();
    finish(&shim).await;
    let topics = record.until(13).await;
    let at = |topic: &str| topics.iter().position(|t| t == topic).unwrap_or_else(|| panic!("{topic} in {topics:?}"));
    assert!(at("create") < at("start") && at("start") < at("exit c1") && at("exit c1") < at("delete"), "{topics:?}");
    for exec in ["exit e1", "exit e2", "exit e3"] {
        assert!(at(exec) < at("exit c1"), "{topics:?}");
    }
    let last_started = topics.iter().rposition(|t| t == "exec-started").unwrap();
    assert!(last_started < at("exit e3"), "{topics:?}");
}

/// 2 and 3: a daemon that is gone, or that takes a connection and never answers, holds up nothing.
#[tokio::test]
async fn a_daemon_that_is_dead_or_deaf_holds_up_nothing() {
    if !able("a_daemon_that_is_dead_or_deaf_holds_up_nothing", "runc") {
        return;
    }
    for deaf in [false, true] {
        let mut place = Place::new("runc");
        let ttrpc = place.path("ttrpc.sock");
        place.events = ttrpc.display().to_string();
        let _listener = deaf.then(|| std::os::unix::net::UnixListener::bind(&ttrpc).unwrap());
        let shim = started(&place, &["sleep", "1000"]).await;
        let begun = Instant::now();
        for number in 0..5 {
            let exec = format!("e{number}");
            shim.exec("c1", &exec, &["true"], Stdio3::default()).await.unwrap();
            shim.start("c1", &exec).await.unwrap();
            assert_eq!(timeout(SOON, shim.wait("c1", &exec)).await.unwrap().unwrap().exit_status, 0);
        }
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        finish(&shim).await;
    }
}

/// 5: the end of an exec's stdin may be told before the exec has one, and so may its terminal's size.
#[tokio::test]
async fn what_is_asked_of_an_exec_before_its_start_is_done_at_its_start() {
    if !able("what_is_asked_of_an_exec_before_its_start_is_done_at_its_start", "runc") {
        return;
    }
    let place = Place::new("runc");
    let shim = started(&place, &["sleep", "1000"]).await;
    let (stdin, out) = (place.path("in"), place.path("out"));
    mkfifo(&stdin, Mode::S_IRWXU).unwrap();
    fs::write(&out, "").unwrap();
    let stdio = Stdio3 { paths: [stdin.to_str().unwrap(), out.to_str().unwrap(), ""], terminal: false };
    shim.exec("c1", "e1", &["cat"], stdio).await.unwrap();
    let close = CloseIORequest { id: "c1".into(), exec_id: "e1".into(), stdin: true, ..Default::default() };
    shim.task.close_io(context(), &close).await.unwrap();
    shim.start("c1", "e1").await.unwrap();
    assert_eq!(timeout(SOON, shim.wait("c1", "e1")).await.unwrap().unwrap().exit_status, 0);
    shim.delete("c1", "e1").await.unwrap();

    let stdio = Stdio3 { terminal: true, ..Stdio3::stdout(out.to_str().unwrap()) };
    let script = "while [ \"$(busybox stty size)\" != '33 77' ]; do sleep 0.05; done";
    shim.exec("c1", "e2", &["sh", "-c", script], stdio).await.unwrap();
    let size = ResizePtyRequest { id: "c1".into(), exec_id: "e2".into(), width: 77, height: 33, ..Default::default() };
    shim.task.resize_pty(context(), &size).await.unwrap();
    shim.start("c1", "e2").await.unwrap();
    assert_eq!(timeout(SOON, shim.wait("c1", "e2")).await.unwrap().unwrap().exit_status, 0);
    shim.delete("c1", "e2").await.unwrap();
    finish(&shim).await;
}

/// 6: nobody reads the container's stdout, and nobody ever will.
#[tokio::test]
async fn a_fifo_without_a_reader_blocks_nothing() {
    if !able("a_fifo_without_a_reader_blocks_nothing", "runc") {
        return;
    }
    let place = Place::new("runc");
    let bundle = place.bundle("c1", &["echo", "hello"], |_| {});
    let fifo = place.path("out");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let shim = place.start(&bundle, "c1").await;
    let stdio = Stdio3::stdout(fifo.to_str().unwrap());
    timeout(SOON, shim.create(&place, "c1", stdio)).await.unwrap().unwrap();
    timeout(SOON, shim.start("c1", "")).await.unwrap().unwrap();
    finish(&shim).await;
}

/// 7: an exec's child keeps its stdout; the exec is over all the same, and its streams end with its deletion.
#[tokio::test]
async fn a_background_child_does_not_hold_an_exec() {
    if !able("a_background_child_does_not_hold_an_exec", "runc") {
        return;
    }
    let place = Place::new("runc");
    let shim = started(&place, &["sleep", "1000"]).await;
    let out = place.path("out");
    fs::write(&out, "").unwrap();
    let stdio = Stdio3::stdout(out.to_str().unwrap());
    shim.exec("c1", "e1", &["sh", "-c", "sleep 1000 & echo done"], stdio).await.unwrap();
    shim.start("c1", "e1").await.unwrap();
    assert_eq!(timeout(SOON, shim.wait("c1", "e1")).await.unwrap().unwrap().exit_status, 0);
    let begun = Instant::now();
    shim.delete("c1", "e1").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(fs::read_to_string(&out).unwrap(), "done\n");
    finish(&shim).await;
}

/// 9: descriptors go back to where they were, terminals' too.
#[tokio::test]
async fn execs_leak_no_descriptor() {
    if !able("execs_leak_no_descriptor", "runc") {
        return;
    }
    let place = Place::new("runc");
    let shim = started(&place, &["sleep", "1000"]).await;
    let fds = || fs::read_dir(format!("/proc/{}/fd", shim.pid)).unwrap().count();
    let before = fds();
    let out = place.path("out");
    fs::write(&out, "").unwrap();
    for number in 0..6 {
        let exec = format!("e{number}");
        let stdio = Stdio3 { terminal: number % 2 == 0, ..Stdio3::stdout(out.to_str().unwrap()) };
        shim.exec("c1", &exec, &["echo", "hello"], stdio).await.unwrap();
        shim.start("c1", &exec).await.unwrap();
        shim.wait("c1", &exec).await.unwrap();
        shim.delete("c1", &exec).await.unwrap();
    }
    // One that cannot even start.
    shim.exec("c1", "bad", &["nosuch"], Stdio3::stdout(out.to_str().unwrap())).await.unwrap();
    let error = shim.start("c1", "bad").await.unwrap_err().to_string();
    assert!(error.contains("nosuch"), "{error}");
    shim.delete("c1", "bad").await.unwrap();
    assert!(eventually(|| fds() == before), "{before} descriptors before, {} after", fds());
    let mut left: Vec<_> = fs::read_dir(place.path("c1")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    let expected = ["address", "config.json", "init.pid", "log.json", "options.json", "rootfs", "runtime"];
    assert_eq!(left, expected);
    finish(&shim).await;
}

/// 11: memory kills are told, before the exit, and only of whom they hit.
#[tokio::test]
async fn a_memory_kill_is_told_before_the_exit() {
    const NAME: &str = "a_memory_kill_is_told_before_the_exit";
    if !able(NAME, "runc") {
        return;
    }
    if !Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
        && !Path::new("/sys/fs/cgroup/memory.stat").exists()
    {
        println!("SKIP {NAME}: no memory controller");
        return;
    }
    let mut place = Place::new("runc");
    let ttrpc = place.path("ttrpc.sock");
    let (record, _server) = Record::listen(&ttrpc).await;
    place.events = ttrpc.display().to_string();
    // dd's buffer is memory of its own.
    let hungry = ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"];
    let bundle = place.bundle("c1", &hungry, |config| {
        config["linux"]["resources"] = json!({"memory": {"limit": 20 << 20, "swap": 20 << 20}});
        config["linux"]["devices"] = json!([]);
    });
    let other = place.bundle("c2", &["true"], |_| {});
    let shim = place.start(&bundle, "c1").await;
    shim.create(&place, "c1", Stdio3::default()).await.unwrap();
    shim.create(&place, "c2", Stdio3::default()).await.unwrap();
    assert!(other.exists());
    let oom = OomClient::new(shim.client.clone());
    let killed = async |id: &str| {
        let request = KilledRequest { container_id: id.into(), ..Default::default() };
        oom.killed(context(), &request).await.unwrap().killed
    };
    assert!(!killed("c1").await);
    for id in ["c1", "c2"] {
        shim.start(id, "").await.unwrap();
    }
    assert_eq!(timeout(SOON, shim.wait("c1", "")).await.unwrap().unwrap().exit_status, 137);
    assert_eq!(shim.wait("c2", "").await.unwrap().exit_status, 0);
    assert!(killed("c1").await);
    assert!(!killed("c2").await);
    let topics = record.until(7).await;
    let at = |topic: &str| topics.iter().position(|t| t == topic);
    assert!(at("oom").is_some() && at("oom") < at("exit c1"), "{topics:?}");
    assert_eq!(topics.iter().filter(|t| *t == "oom").count(), 1, "{topics:?}");
    shim.delete("c2", "").await.unwrap();
    finish(&shim).await;
}

/// 12: somebody sits in the root filesystem when it is to be unmounted.
#[tokio::test]
async fn a_busy_root_filesystem_does_not_wedge_deletion() {
    if !able("a_busy_root_filesystem_does_not_wedge_deletion", "runc") {
        return;
    }
    let place = Place::new("runc");
    let bundle = place.bundle("c1", &["true"], |_| {});
    fs::rename(bundle.join("rootfs"), place.path("image")).unwrap();
    let shim = place.start(&bundle, "c1").await;
    let mut mount = Mount::new();
    mount.type_ = "bind".into();
    mount.source = place.path("image").display().to_string();
    mount.options = vec!["rbind".into(), "rw".into()];
    let mut request = CreateTaskRequest::new();
    request.id = "c1".into();
    request.bundle = bundle.display().to_string();
    request.options = MessageField::some(place.options());
    request.rootfs = vec![mount];
    shim.task.create(context(), &request).await.unwrap();
    let mounted = || fs::read_to_string("/proc/self/mountinfo").unwrap().contains(bundle.to_str().unwrap());
    assert!(mounted());
    let mut squatter = Command::new("sleep").arg("1000").current_dir(bundle.join("rootfs/tmp")).spawn().unwrap();
    shim.start("c1", "").await.unwrap();
    shim.wait("c1", "").await.unwrap();
    shim.delete("c1", "").await.unwrap();
    assert!(!mounted());
    squatter.kill().unwrap();
    squatter.wait().unwrap();
    assert_eq!(code(shim.delete("c1", "").await), Code::NOT_FOUND);
}

/// 13: a frozen container can be killed.
#[tokio::test]
async fn a_paused_container_dies_of_sigkill() {
    for runtime in ["runc", "crun"] {
        if !able("a_paused_container_dies_of_sigkill", runtime) {
            continue;
        }
        let place = Place::new(runtime);
        let shim = started(&place, &["sleep", "1000"]).await;
        let mut request = PauseRequest::new();
        request.id = "c1".into();
        shim.task.pause(context(), &request).await.unwrap();
        assert_eq!(shim.state("c1", "").await.unwrap().status.unwrap(), Status::PAUSED);
        assert_eq!(code(shim.task.pause(context(), &request).await), Code::FAILED_PRECONDITION);
        shim.kill("c1", "", libc::SIGKILL).await.unwrap();
        assert_eq!(timeout(SOON, shim.wait("c1", "")).await.unwrap().unwrap().exit_status, 137);
        finish(&shim).await;
    }
}

/// 15: the shim is killed; `delete` ends the container and says so, and may be repeated.
#[tokio::test]
async fn delete_cleans_up_after_a_killed_shim() {
    for runtime in ["runc", "crun"] {
        if !able("delete_cleans_up_after_a_killed_shim", runtime) {
            continue;
        }
        let place = Place::new(runtime);
        let shim = created(&place, &["sleep", "1000"], |_| {}).await;
        let pid = shim.start("c1", "").await.unwrap();
        kill(Pid::from_raw(shim.pid), Signal::SIGKILL).unwrap();
        assert!(shim.gone().await);
        assert!(shim.socket().exists());
        for _ in 0..2 {
            let begun = Instant::now();
            let (ok, stdout, stderr) = place.call(&place.path("c1"), "c1", "delete", b"");
            assert!(ok, "{stderr}");
            assert_eq!(DeleteResponse::parse_from_bytes(&stdout).unwrap().exit_status, 137);
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
        let ended = || fs::read_to_string(format!("/proc/{pid}/status")).map_or(true, |s| s.contains("State:\tZ"));
        assert!(eventually(ended), "the container's init lives");
        assert!(!shim.socket().exists());
        assert_eq!(fs::read_dir(place.path("runtime/cleat-test")).unwrap().count(), 0);
    }
}

/// A daemon that dies in the middle of a Create does not cut it in half.
#[tokio::test]
async fn a_create_outlives_its_caller() {
    if !able("a_create_outlives_its_caller", "runc") {
        return;
    }
    let place = Place::new("runc");
    let bundle = place.bundle("c1", &["sleep", "1000"], |_| {});
    let shim = place.start(&bundle, "c1").await;
    let impatient = TaskClient::new(Client::connect(&shim.address).await.unwrap());
    let mut request = CreateTaskRequest::new();
    request.id = "c1".into();
    request.bundle = bundle.display().to_string();
    request.options = MessageField::some(place.options());
    assert!(timeout(Duration::from_millis(5), impatient.create(context(), &request)).await.is_err());
    drop(impatient);
    let mut status = Err(Code::UNKNOWN);
    for _ in 0..500 {
        status = match shim.state("c1", "").await {
            Ok(state) => Ok(state.status.unwrap()),
            error => Err(code(error)),
        };
        if status == Ok(Status::CREATED) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(status, Ok(Status::CREATED));
    shim.start("c1", "").await.unwrap();
    finish(&shim).await;
}

/// Containers of a pod share a shim, whichever way their start is asked for.
#[tokio::test]
async fn a_grouped_container_gets_the_pod_s_shim() {
    if !able("a_grouped_container_gets_the_pod_s_shim", "runc") {
        return;
    }
    let place = Place::new("runc");
    let annotate = |config: &mut serde_json::Value| {
        config["annotations"] = json!({"io.kubernetes.cri.sandbox-id": "c1"});
    };
    let pod = place.bundle("c1", &["sleep", "1000"], annotate);
    let second = place.bundle("c2", &["sleep", "1000"], annotate);
    let shim = place.start(&pod, "c1").await;
    let again = place.start(&second, "c2").await;
    assert_eq!((shim.address.as_str(), shim.pid), (again.address.as_str(), again.pid));
    assert_eq!(fs::read_to_string(second.join("address")).unwrap(), shim.address);
    for id in ["c1", "c2"] {
        shim.create(&place, id, Stdio3::default()).await.unwrap();
        shim.start(id, "").await.unwrap();
    }
    shim.kill("c2", "", libc::SIGKILL).await.unwrap();
    shim.wait("c2", "").await.unwrap();
    shim.delete("c2", "").await.unwrap();
    // The pod lives on, and `delete` of its container leaves its socket alone.
    shim.shutdown().await;
    let (ok, _, stderr) = place.call(&second, "c2", "delete", b"");
    assert!(ok, "{stderr}");
    assert_eq!(shim.state("c1", "").await.unwrap().status.unwrap(), Status::RUNNING);
    finish(&shim).await;
}

/// An old daemon gets a plain address and nothing else.
#[tokio::test]
async fn an_old_daemon_gets_a_plain_address() {
    if !able("an_old_daemon_gets_a_plain_address", "runc") {
        return;
    }
    let place = Place::new("runc");
    let bundle = place.bundle("c1", &["true"], |_| {});
    // Under its own gRPC address, the default socket directory is shared by no other test.
    let id = format!("plain-{}", std::process::id());
    let (ok, stdout, stderr) = place.call(&bundle, &id, "start", &place.options().write_to_bytes().unwrap());
    assert!(ok && stderr.is_empty(), "{stderr}");
    let address = String::from_utf8(stdout).unwrap();
    assert!(address.starts_with("unix:///run/containerd/s/"), "{address}");
    let shim = Shim::connect(&address).await;
    shim.shutdown().await;
    assert!(shim.gone().await);
    assert!(!shim.socket().exists());
}

/// Statistics, limits and processes, with both runtimes.
#[tokio::test]
async fn limits_statistics_and_processes() {
    for runtime in ["runc", "crun"] {
        if !able("limits_statistics_and_processes", runtime) {
            continue;
        }
        let place = Place::new(runtime);
        let shim = started(&place, &["sh", "-c", "sleep 1000; true"]).await;
        let mut update = UpdateTaskRequest::new();
        update.id = "c1".into();
        let url = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
        let limits = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 55}});
        update.resources = MessageField::some(any(url, limits.to_string().into_bytes()));
        shim.task.update(context(), &update).await.unwrap();
        let mut request = StatsRequest::new();
        request.id = "c1".into();
        let stats = shim.task.stats(context(), &request).await.unwrap().stats;
        if stats.type_url == "io.containerd.cgroups.v1.Metrics" {
            let metrics = Metrics::parse_from_bytes(&stats.value).unwrap();
            assert_eq!((metrics.memory.usage.limit, metrics.pids.limit), (64 << 20, 55));
            assert!(metrics.pids.current >= 1 && metrics.cpu.usage.total > 0 && metrics.memory.usage.usage > 0);
        }
        update.resources = MessageField::some(any("x.y/Z", Vec::new()));
        assert_eq!(code(shim.task.update(context(), &update).await), Code::INVALID_ARGUMENT);

        shim.exec("c1", "e1", &["sleep", "1000"], Stdio3::default()).await.unwrap();
        let exec = shim.start("c1", "e1").await.unwrap();
        let mut request = PidsRequest::new();
        request.id = "c1".into();
        let listed = shim.task.pids(context(), &request).await.unwrap().processes;
        assert!(listed.len() >= 3, "{listed:?}");
        assert!(listed.iter().any(|p| p.pid == exec && p.info.is_some()), "{listed:?}");
        request.id = "c2".into();
        assert_eq!(code(shim.task.pids(context(), &request).await), Code::NOT_FOUND);
        shim.kill("c1", "e1", libc::SIGTERM).await.unwrap();
        assert_eq!(shim.wait("c1", "e1").await.unwrap().exit_status, 128 + 15);
        shim.delete("c1", "e1").await.unwrap();
        finish(&shim).await;
    }
}

/// A terminal is made by the runtime, sized and read through the shim.
#[tokio::test]
async fn a_terminal_has_the_size_it_was_given() {
    for runtime in ["runc", "crun"] {
        if !able("a_terminal_has_the_size_it_was_given", runtime) {
            continue;
        }
        let place = Place::new(runtime);
        let out = place.path("out");
        fs::write(&out, "").unwrap();
        let script = "while [ \"$(stty size)\" != '33 77' ]; do sleep 0.05; done; tty; stty size";
        let bundle = place.bundle("c1", &["/bin/busybox", "sh", "-c", script], |config| {
            config["process"]["terminal"] = true.into();
        });
        for applet in ["stty", "tty"] {
            std::os::unix::fs::symlink("busybox", bundle.join("rootfs/bin").join(applet)).unwrap();
        }
        let shim = place.start(&bundle, "c1").await;
        let stdio = Stdio3 { terminal: true, ..Stdio3::stdout(out.to_str().unwrap()) };
        shim.create(&place, "c1", stdio).await.unwrap();
        shim.start("c1", "").await.unwrap();
        let mut request = ResizePtyRequest::new();
        request.id = "c1".into();
        (request.width, request.height) = (77, 33);
        shim.task.resize_pty(context(), &request).await.unwrap();
        assert_eq!(timeout(SOON, shim.wait("c1", "")).await.unwrap().unwrap().exit_status, 0);
        let text = fs::read_to_string(&out).unwrap();
        assert!(text.contains("/dev/") && text.contains("33 77"), "{text:?}");
        finish(&shim).await;
    }
}

/// The shim has a cgroup of its own while it lives.
#[tokio::test]
async fn the_shim_s_own_cgroup_comes_and_goes() {
    if !able("the_shim_s_own_cgroup_comes_and_goes", "runc") {
        return;
    }
    let mut place = Place::new("runc");
    place.shim_cgroup = format!("{}/shim", place.cgroup);
    let shim = started(&place, &["sleep", "1000"]).await;
    let own = || fs::read_to_string(format!("/proc/{}/cgroup", shim.pid)).unwrap();
    let inside = || own().lines().filter(|line| line.ends_with(&place.shim_cgroup)).count();
    let places = if Path::new("/sys/fs/cgroup/cgroup.procs").exists() { 1 } else { 3 };
    assert!(eventually(|| inside() >= places), "{}", own());
    finish(&shim).await;
    let left: Vec<_> = fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .map(|mount| mount.unwrap().path().join(place.shim_cgroup.trim_start_matches('/')))
        .filter(|dir| dir.exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// 16 of the faults: an OCI runtime that is missing or hangs says so, and nothing stays.
#[tokio::test]
async fn a_missing_runtime_is_named() {
    if !able("a_missing_runtime_is_named", "runc") {
        return;
    }
    let place = Place::new("/nonexistent/runc");
    let bundle = place.bundle("c1", &["true"], |_| {});
    let shim = place.start(&bundle, "c1").await;
    let error = shim.create(&place, "c1", Stdio3::default()).await.unwrap_err().to_string();
    assert!(error.contains("/nonexistent/runc"), "{error}");
    assert_eq!(code(shim.state("c1", "").await), Code::NOT_FOUND);
    shim.shutdown().await;
    assert!(shim.gone().await);
}

/// ... and one that hangs is ended at its deadline, with what it has started.
#[tokio::test]
async fn a_hanging_runtime_is_ended() {
    if !able("a_hanging_runtime_is_ended", "runc") {
        return;
    }
    let script = std::env::temp_dir().join(format!("cleat-hang-{}", std::process::id()));
    fs::write(&script, "#!/bin/sh\ncase \"$*\" in *pause*) sleep 7654321;; *) exec runc \"$@\";; esac\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut place = Place::new("runc");
    place.runtime = script.to_str().unwrap().to_string().leak();
    let shim = started(&place, &["sleep", "1000"]).await;
    let mut request = PauseRequest::new();
    request.id = "c1".into();
    let error = shim.task.pause(context(), &request).await;
    assert_eq!(code(error), Code::DEADLINE_EXCEEDED);
    let hanging = || {
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter(|p| fs::read(p.path().join("cmdline")).is_ok_and(|c| c == b"sleep\x007654321\x00")).count()
    };
    assert!(eventually(|| hanging() == 0));
    assert_eq!(shim.state("c1", "").await.unwrap().status.unwrap(), Status::RUNNING);
    finish(&shim).await;
    fs::remove_file(&script).unwrap();
}

/// Kill with `all` reaches what left the init's process group, in a pid namespace that is not its own.
#[tokio::test]
async fn kill_all_reaches_every_process() {
    for runtime in ["runc", "crun"] {
        if !able("kill_all_reaches_every_process", runtime) {
            continue;
        }
        let place = Place::new(runtime);
        let script = "sleep 1234567 & exec sleep 1000";
        let shim = created(&place, &["sh", "-c", script], |config| {
            config["linux"]["namespaces"] = json!([{"type": "mount"}]);
            config.as_object_mut().unwrap().remove("hostname");
        })
        .await;
        shim.start("c1", "").await.unwrap();
        let pids = async || {
            let request = PidsRequest { id: "c1".into(), ..Default::default() };
            shim.task.pids(context(), &request).await.unwrap().processes
        };
        let mut both = Vec::new();
        for _ in 0..100 {
            both = pids().await;
            if both.len() == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(both.len(), 2, "{both:?}");
        // Only the init is killed; what shares the host's pid namespace must not stay behind.
        shim.kill("c1", "", libc::SIGKILL).await.unwrap();
        shim.wait("c1", "").await.unwrap();
        let gone =
            |pid: u32| fs::read_to_string(format!("/proc/{pid}/status")).map_or(true, |s| s.contains("State:\tZ"));
        assert!(eventually(|| both.iter().all(|p| gone(p.pid))), "{both:?}");
        finish(&shim).await;
    }
}

/// The version is text, and nothing is asked of stdin.
#[test]
fn the_version_is_text() {
    let output = Command::new(common::SHIM).arg("-v").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("containerd-shim-cleat-v2 "));
}
