//! Plugins that fail, hang, lie and shout.

use std::time::{Duration, Instant};

use cleatd::Error;
use serde_json::json;

use crate::lab::{Lab, eventually, lives, result};

#[tokio::test]
async fn a_failed_add_is_followed_by_del_of_the_whole_chain() {
    let lab = Lab::with("1.0.0", &["first", "second"]);
    let refusal = json!({"cniVersion": "1.0.0", "code": 11, "msg": "no addresses left", "details": "in 10.0.0.0/24"});
    // Its DEL fails too: that must neither hide the first error nor keep `first` from its DEL.
    lab.plugin("second", &format!("echo '{refusal}'; echo 'W: pool' >&2; exit 1"));
    let (cni, pod) = (lab.open(), lab.pod());
    let error = cni.add(&pod).await.expect_err("second refuses").to_string();
    for part in ["CNI second ADD", "no addresses left", "code 11", "in 10.0.0.0/24", "W: pool"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    assert_eq!(lab.calls(), ["ADD first", "ADD second", "DEL second", "DEL first"]);
    assert_eq!(lab.intents(), 1, "what could not be undone is kept for gc");

    lab.plugin("second", &format!("[ $CNI_COMMAND != ADD ] || echo '{}'", result("1.0.0", 9)));
    cni.add(&pod).await.expect("the same pod again");
}

#[tokio::test]
async fn a_hung_plugin_is_killed_with_its_children_at_the_deadline() {
    let mut lab = Lab::with("1.0.0", &["hang"]);
    lab.config.timeout_secs = 1;
    let hang = "[ $CNI_COMMAND = ADD ] || exit 0; echo half; echo waiting for the moon >&2\n\
                sleep 60 & echo $! > LAB/child; echo $$ > LAB/self; wait";
    lab.plugin("hang", hang);
    let (cni, pod) = (lab.open(), lab.pod());
    let start = Instant::now();
    let error = cni.add(&pod).await.expect_err("hangs");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    let error = error.to_string();
    for part in ["CNI hang ADD", "within 1s", "half", "waiting for the moon"] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let (own, child) = (lab.read("self"), lab.read("child"));
    eventually("plugin and child are gone", || !lives(&own) && !lives(&child)).await;
    assert_eq!(lab.calls(), ["ADD hang", "DEL hang"]);
}

#[tokio::test]
async fn a_dropped_call_leaves_no_plugin_running() {
    let lab = Lab::with("1.0.0", &["hang"]);
    lab.plugin("hang", "sleep 60 & echo $! > LAB/child; echo $$ > LAB/self; wait");
    let (cni, pod) = (lab.open(), lab.pod());
    let task = tokio::spawn(async move { cni.add(&pod).await });
    eventually("the plugin runs", || !lab.read("self").is_empty()).await;
    let (own, child) = (lab.read("self"), lab.read("child"));
    assert!(lives(&own) && lives(&child));
    task.abort();
    eventually("plugin and child are gone", || !lives(&own) && !lives(&child)).await;
}

#[tokio::test]
async fn answers_that_are_none_fail_the_add_and_are_undone() {
    let table = [
        ("echo hello", "hello"),
        ("true", "not JSON"),
        ("echo '[]'", "not an object"),
        ("echo '{\"cniVersion\": \"1.0.0\"}'", "no address for eth0"),
        ("echo '{\"cniVersion\": \"1.0.0\", \"ips\": [{\"address\": \"127.0.0.1/8\"}]}'", "127.0.0.1"),
        ("yes", "more than 1048576 bytes"),
        ("kill -9 $$", "SIGKILL"),
        ("echo broken >&2; exit 3", "exit status: 3; stderr: broken"),
    ];
    for (answer, expected) in table {
        let lab = Lab::with("1.0.0", &["odd"]);
        lab.plugin("odd", &format!("[ $CNI_COMMAND = ADD ] || exit 0; {answer}"));
        let error = lab.open().add(&lab.pod()).await.expect_err(answer).to_string();
        assert!(error.contains(expected) && error.len() < 3000, "{answer}: {error}");
        assert_eq!(lab.calls(), ["ADD odd", "DEL odd"], "{answer}");
        assert_eq!(lab.intents(), 0, "{answer}");
    }
}

#[tokio::test]
async fn a_flood_of_diagnostics_is_read_and_dropped() {
    let lab = Lab::with("1.0.0", &["loud"]);
    lab.plugin(
        "loud",
        &format!("[ $CNI_COMMAND = ADD ] || exit 0; head -c 5000000 /dev/zero >&2; echo '{}'", result("1.0.0", 2)),
    );
    lab.open().add(&lab.pod()).await.expect("add");
}

#[tokio::test]
async fn a_child_that_keeps_the_output_open_holds_nothing_up() {
    let lab = Lab::with("1.0.0", &["forks"]);
    let answer = result("1.0.0", 2);
    lab.plugin("forks", &format!("[ $CNI_COMMAND = ADD ] || exit 0; sleep 100 & echo $! > LAB/child; echo '{answer}'"));
    let start = Instant::now();
    let attached = lab.open().add(&lab.pod()).await;
    let child = lab.read("child");
    let killed = std::process::Command::new("kill").arg(child.trim()).status().expect("kill");
    assert_eq!(attached.expect("add").result, answer);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(killed.success(), "a daemon that a plugin started is left alone");
}

#[tokio::test]
async fn input_that_nobody_reads_blocks_nothing() {
    let lab = Lab::with("1.0.0", &["deaf"]);
    lab.script("deaf", &format!("#!/bin/sh\n[ $CNI_COMMAND != ADD ] || echo '{}'\n", result("1.0.0", 2)));
    let list =
        json!({"name": "lab", "cniVersion": "1.0.0", "plugins": [{"type": "deaf", "padding": "x".repeat(900_000)}]});
    lab.write("net.d/10.conflist", &list.to_string());
    let (cni, pod) = (lab.open(), lab.pod());
    let attached = cni.add(&pod).await.expect("add");
    cni.del(&pod, Some(&attached)).await.expect("del");
}

#[tokio::test]
async fn a_plugin_that_is_not_installed_is_named() {
    let lab = Lab::with("1.0.0", &["here"]);
    lab.write("net.d/10.conflist", r#"{"name": "lab", "plugins": [{"type": "here"}, {"type": "elsewhere"}]}"#);
    let error = lab.open().add(&lab.pod()).await.expect_err("not installed");
    // NOT_FOUND would tell kubelet that a DEL had nothing to do.
    assert!(matches!(error, Error::Failed { .. }), "{error:?}");
    assert!(error.to_string().contains("elsewhere") && error.to_string().contains("/bin"), "{error}");
}
