//! A container from create to delete, through the built shim, with every runtime that is installed.

#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::{fs, process::Command, time::Duration};

use common::{Place, Stdio3, able, code, context, events::Record};
use containerd_shim_protos::api::Status;
use ttrpc::Code;

async fn whole_life(runtime: &'static str) {
    let mut place = Place::new(runtime);
    let ttrpc = place.path("ttrpc.sock");
    let (record, _server) = Record::listen(&ttrpc).await;
    place.events = ttrpc.display().to_string();
    let out = place.path("out").display().to_string();
    fs::write(&out, "").unwrap();
    let bundle = place.bundle("c1", &["sh", "-c", "echo hello; exec sleep 1000"], |_| {});
    let shim = place.start(&bundle, "c1").await;
    assert_eq!(fs::read_to_string(bundle.join("address")).unwrap(), shim.address);

    let pid = shim.create(&place, "c1", Stdio3::stdout(&out)).await.unwrap();
    assert!(pid > 1);
    assert_eq!(shim.state("c1", "").await.unwrap().status.unwrap(), Status::CREATED);
    assert_eq!(code(shim.create(&place, "c1", Stdio3::default()).await), Code::ALREADY_EXISTS);
    assert_eq!(shim.start("c1", "").await.unwrap(), pid);
    let state = shim.state("c1", "").await.unwrap();
    assert_eq!((state.status.unwrap(), state.pid, state.stdout.as_str()), (Status::RUNNING, pid, out.as_str()));
    assert_eq!(code(shim.start("c1", "").await), Code::FAILED_PRECONDITION);
    assert_eq!(code(shim.delete("c1", "").await), Code::FAILED_PRECONDITION);
    assert!(common::eventually(|| fs::read_to_string(&out).unwrap() == "hello\n"));

    shim.exec("c1", "e1", &["sh", "-c", "exit 7"], Stdio3::default()).await.unwrap();
    assert!(shim.start("c1", "e1").await.unwrap() > 1);
    assert_eq!(shim.wait("c1", "e1").await.unwrap().exit_status, 7);
    assert_eq!(shim.delete("c1", "e1").await.unwrap().exit_status, 7);
    assert_eq!(code(shim.wait("c1", "e1").await), Code::NOT_FOUND);

    shim.shutdown().await;
    shim.kill("c1", "", libc::SIGKILL).await.unwrap();
    let end = shim.wait("c1", "").await.unwrap();
    assert_eq!(end.exit_status, 137);
    assert!(end.exited_at.seconds > 0);
    assert_eq!(code(shim.kill("c1", "", libc::SIGTERM).await), Code::NOT_FOUND);
    let deleted = shim.delete("c1", "").await.unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    assert_eq!(code(shim.state("c1", "").await), Code::NOT_FOUND);
    let expected = ["create", "start", "exec-added", "exec-started", "exit e1", "exit c1", "delete"].map(String::from);
    assert_eq!(record.until(expected.len()).await, expected);

    shim.shutdown().await;
    assert!(shim.gone().await, "the shim stays after its last task");
    assert!(!shim.socket().exists(), "the shim left its socket");
    let (ok, _, stderr) = place.call(&bundle, "c1", "delete", b"");
    assert!(ok, "{stderr}");
    assert!(!under_unified().contains(place.cgroup.trim_start_matches('/')), "{}", under_unified());
}

/// What lies below the mount point of the v2 hierarchy of a hybrid host, where nobody would ever look for it.
fn under_unified() -> String {
    let script = "cd /sys/fs/cgroup/unified 2>/dev/null || exit 0; mount --make-private /sys/fs/cgroup; \
                  umount -l /sys/fs/cgroup/unified; ls /sys/fs/cgroup/unified";
    let output = Command::new("unshare").args(["--mount", "sh", "-c", script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_container_lives_and_dies_with_runc() {
    if able("a_container_lives_and_dies_with_runc", "runc") {
        whole_life("runc").await;
    }
}

#[tokio::test]
async fn a_container_lives_and_dies_with_crun() {
    if able("a_container_lives_and_dies_with_crun", "crun") {
        whole_life("crun").await;
    }
}

#[tokio::test]
async fn a_program_that_is_missing_is_named_in_the_runtime_s_words() {
    if !able("a_program_that_is_missing_is_named_in_the_runtime_s_words", "runc") {
        return;
    }
    let place = Place::new("runc");
    let bundle = place.bundle("c1", &["nosuch"], |_| {});
    let shim = place.start(&bundle, "c1").await;
    let error = shim.create(&place, "c1", Stdio3::default()).await.unwrap_err().to_string();
    assert!(error.contains("exec: \\\"nosuch\\\": executable file not found in $PATH"), "{error}");
    assert_eq!(code(shim.state("c1", "").await), Code::NOT_FOUND);
    // The id is free again.
    let bundle = place.path("c1");
    fs::remove_dir_all(&bundle).unwrap();
    place.bundle("c1", &["true"], |_| {});
    shim.create(&place, "c1", Stdio3::default()).await.unwrap();
    shim.delete("c1", "").await.unwrap();
}

#[tokio::test]
async fn both_task_versions_answer_and_unknown_services_are_unimplemented() {
    if !able("both_task_versions_answer_and_unknown_services_are_unimplemented", "runc") {
        return;
    }
    let place = Place::new("runc");
    let bundle = place.bundle("c1", &["true"], |_| {});
    let shim = place.start(&bundle, "c1").await;
    let ask = async |service: &str, method: &str| {
        let mut request = ttrpc::Request::new();
        request.set_service(service.into());
        request.set_method(method.into());
        request.set_timeout_nano(Duration::from_secs(5).as_nanos().try_into().unwrap());
        request.set_metadata(ttrpc::context::to_pb(context().metadata));
        shim.client.request(request).await
    };
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        ask(service, "Connect").await.unwrap();
        assert_eq!(code(ask(service, "State").await), Code::NOT_FOUND);
        assert_eq!(code(ask(service, "Checkpoint").await), Code::UNIMPLEMENTED);
        assert_eq!(code(ask(service, "NoSuchMethod").await), Code::UNIMPLEMENTED);
    }
    assert_eq!(code(ask("containerd.task.v4.Task", "State").await), Code::UNIMPLEMENTED);
}
