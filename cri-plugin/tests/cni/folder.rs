//! The configuration folder while the daemon runs.

use cleatd::Error;

use crate::lab::{Lab, eventually, lives};

const CONF: &str = r#"{"name": "NAME", "cniVersion": "1.0.0", "plugins": [{"type": "only"}]}"#;

fn name(cni: &cleatd::cni::Cni) -> String {
    cni.describe()["Networks"][0]["Config"]["Name"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn changes_are_seen_as_they_happen() {
    let lab = Lab::with("1.0.0", &["only"]);
    let (cni, pod) = (lab.open(), lab.pod());
    let attached = cni.add(&pod).await.expect("add");

    lab.write("net.d/10.conflist", "{\"name\":");
    eventually("broken", || cni.status().is_err()).await;
    let why = cni.status().expect_err("broken");
    assert!(why.contains("10.conflist") && why.contains("cni plugin not initialized"), "{why}");
    assert!(cni.load_status().contains("10.conflist"));
    assert!(matches!(cni.add(&lab.pod()).await, Err(Error::Failed { .. })));
    cni.del(&pod, Some(&attached)).await.expect("pods that are there are fine");

    lab.write("net.d/10.conflist", &CONF.replace("NAME", "mended"));
    eventually("mended", || name(&cni) == "mended").await;
    lab.write("next", &CONF.replace("NAME", "renamed"));
    std::fs::rename(lab.path("next"), lab.path("net.d/10.conflist")).expect("rename");
    eventually("renamed", || name(&cni) == "renamed").await;
    std::fs::remove_file(lab.path("net.d/10.conflist")).expect("remove");
    eventually("removed", || cni.status().is_err()).await;
    assert!(cni.status().expect_err("none").contains(lab.path("net.d").to_str().expect("utf-8")));
    assert_eq!(cni.describe()["Networks"], serde_json::json!([]));

    lab.write("target", &CONF.replace("NAME", "linked"));
    std::os::unix::fs::symlink(lab.path("target"), lab.path("net.d/20.conflist")).expect("symlink");
    eventually("a link", || name(&cni) == "linked").await;
}

#[tokio::test]
async fn the_folder_may_come_late_and_go() {
    let mut lab = Lab::with("1.0.0", &["only"]);
    lab.config.conf_dir = lab.path("etc/cni/net.d");
    let cni = lab.open();
    for round in ["one", "two"] {
        assert!(cni.status().expect_err("absent").contains("etc/cni/net.d"));
        std::fs::create_dir_all(&lab.config.conf_dir).expect("mkdir");
        lab.write("etc/cni/net.d/10.conflist", &CONF.replace("NAME", round));
        eventually(round, || name(&cni) == round).await;
        std::fs::remove_dir_all(lab.path("etc")).expect("remove");
        eventually("gone", || cni.status().is_err()).await;
    }
}

#[tokio::test]
async fn a_plugin_that_is_not_ready_is_told() {
    let lab = Lab::with("1.1.0", &["first", "second"]);
    lab.plugin(
        "second",
        r#"[ $CNI_COMMAND != STATUS ] || { echo '{"code": 50, "msg": "no route to the controller"}'; exit 1; }"#,
    );
    let cni = lab.open();
    eventually("asked", || cni.status().is_err()).await;
    let why = cni.status().expect_err("not ready");
    assert!(why.contains("CNI second STATUS") && why.contains("no route to the controller"), "{why}");
    assert_eq!(lab.read("calls"), "STATUS first\nSTATUS second\n");
    std::fs::remove_file(lab.path("calls")).expect("remove");

    lab.plugin("second", "");
    // Asked again after 5 s; a change of the configuration asks at once.
    lab.write("net.d/10.conflist", &CONF.replace("NAME", "ready").replace("1.0.0", "1.1.0").replace("only", "second"));
    eventually("ready", || cni.status().is_ok() && lab.read("calls").contains("STATUS second")).await;
}

#[tokio::test]
async fn a_plugin_that_hangs_over_its_status_delays_no_change() {
    let lab = Lab::with("1.1.0", &["hang"]);
    lab.plugin("hang", "sleep 60 & echo $! > LAB/child; wait");
    let cni = lab.open();
    eventually("asked", || !lab.read("child").is_empty()).await;
    lab.write("net.d/10.conflist", &CONF.replace("NAME", "next"));
    eventually("taken into use", || name(&cni) == "next").await;
    let child = lab.read("child");
    eventually("the hung plugin is gone", || !lives(&child)).await;
}

#[tokio::test]
async fn the_watch_ends_with_its_owner() {
    let lab = Lab::with("1.0.0", &["only"]);
    let cni = lab.open();
    let weak = std::sync::Arc::downgrade(&cni);
    drop(cni);
    eventually("dropped", || weak.upgrade().is_none()).await;
}
