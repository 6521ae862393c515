//! DEL after crashes, restarts and changes of the configuration.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use cleatd::cni::{Attached, Attachment, Cni};
use serde_json::json;

use crate::lab::{Lab, eventually, lives};

#[tokio::test]
async fn del_uses_what_add_was_made_with_whatever_the_folder_holds() {
    let lab = Lab::with("1.0.0", &["old"]);
    let pod = lab.pod();
    let attached = lab.open().add(&pod).await.expect("add");
    let stored = serde_json::to_string(&attached).expect("store");
    lab.calls();
    lab.plugin("new", "");
    for conf in [r#"{"name": "other", "plugins": [{"type": "new"}]}"#, "{", ""] {
        lab.write("net.d/10.conflist", conf);
        let attached: Attached = serde_json::from_str(&stored).expect("read again");
        lab.open().del(&pod, Some(&attached)).await.expect("del");
        assert_eq!(lab.calls(), ["DEL old"], "{conf:?}");
        assert_eq!(lab.request("old", "DEL")["prevResult"], attached.result);
    }
}

#[tokio::test]
async fn del_without_a_result_uses_what_add_began_with() {
    let lab = Lab::with("1.0.0", &["old"]);
    let pod = lab.pod();
    lab.open().add(&pod).await.expect("add");
    lab.calls();
    std::fs::remove_file(lab.path("net.d/10.conflist")).expect("remove");
    let cni = lab.open();
    cni.del(&pod, None).await.expect("del");
    assert_eq!(lab.calls(), ["DEL old"]);
    assert_eq!(lab.intents(), 0);
    cni.del(&pod, None).await.expect("nothing left to go by");
    assert!(lab.calls().is_empty());
}

#[tokio::test]
async fn del_of_what_was_never_begun_asks_the_present_network() {
    let lab = Lab::with("1.0.0", &["present"]);
    lab.open().del(&lab.pod(), None).await.expect("del");
    assert_eq!(lab.calls(), ["DEL present"]);
}

#[tokio::test]
async fn a_failing_del_is_an_error_only_if_something_was_added() {
    let lab = Lab::with("1.0.0", &["first", "stuck", "last"]);
    let (cni, pod) = (lab.open(), lab.pod());
    let attached = cni.add(&pod).await.expect("add");
    lab.calls();
    lab.plugin("stuck", "echo busy >&2; exit 1");
    let error = cni.del(&pod, Some(&attached)).await.expect_err("stuck").to_string();
    assert!(error.contains("CNI stuck DEL") && error.contains("busy"), "{error}");
    assert_eq!(lab.calls(), ["DEL last", "DEL stuck"], "the address is not freed under rules that still stand");
    assert_eq!(lab.intents(), 1);
    cni.del(&pod, None).await.expect("only logged");
    lab.plugin("stuck", "");
    cni.del(&pod, Some(&attached)).await.expect("a retry works");
    cni.del(&pod, Some(&attached)).await.expect("and again");
    assert_eq!(lab.intents(), 0);
}

#[tokio::test]
async fn del_with_a_namespace_that_is_gone_is_still_called() {
    let lab = Lab::with("1.0.0", &["only"]);
    let (cni, pod) = (lab.open(), lab.pod());
    let attached = cni.add(&pod).await.expect("add");
    assert!(lab.read("only.ADD.env").contains(&format!("CNI_NETNS={}\n", pod.netns.display())));
    // The mount went, the file under it stayed.
    std::fs::write(&pod.netns, "").expect("write");
    cni.del(&pod, Some(&attached)).await.expect("del");
    assert!(lab.read("only.DEL.env").contains("CNI_NETNS=\n"));
}

#[tokio::test]
async fn a_damaged_record_falls_back() {
    let lab = Lab::with("1.0.0", &["only"]);
    let (cni, pod) = (lab.open(), lab.pod());
    let attached = cni.add(&pod).await.expect("add");
    std::fs::write(lab.path("cache").join(format!("{}.json", pod.id)), "{").expect("damage the intent too");
    lab.calls();
    cni.del(&pod, Some(&Attached { config: json!("damaged"), ..attached })).await.expect("del");
    assert_eq!(lab.calls(), ["DEL only"]);
}

#[tokio::test]
async fn gc_deletes_what_belongs_to_no_sandbox() {
    let lab = Lab::with("1.1.0", &["first", "second"]);
    let (kept, lost) = (lab.pod(), lab.pod());
    let cni = lab.open();
    cni.add(&kept).await.expect("add");
    cni.add(&lost).await.expect("add");
    lab.calls();
    cni.gc(|| vec![kept.id.clone()]).await;
    assert_eq!(lab.calls(), ["DEL second", "DEL first", "GC first", "GC second"]);
    assert!(lab.read("first.DEL.env").contains(lost.id.as_str()));
    let valid = json!([{"containerID": kept.id.as_str(), "ifname": "eth0"}]);
    assert_eq!(lab.request("second", "GC")["cni.dev/valid-attachments"], valid);
    assert_eq!(lab.intents(), 1);
    disabled_gc(&lab, &cni, &kept).await;
}

async fn disabled_gc(lab: &Lab, cni: &Cni, kept: &Attachment) {
    let list = json!({"name": "still", "cniVersion": "1.1.0", "disableGC": true, "plugins": [{"type": "first"}]});
    lab.write("net.d/10.conflist", &list.to_string());
    eventually("reload", || cni.describe()["Networks"][0]["Config"]["Name"] == "still").await;
    cni.gc(|| vec![kept.id.clone()]).await;
    assert!(lab.calls().is_empty());
}

/// A plugin as a killed daemon leaves it, with a child: in a group of its own, which goes with the test.
struct Stray(Child);

impl Stray {
    fn of(pod: &Attachment) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & wait"]).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("CNI_CONTAINERID", pod.id.as_str()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.process_group(0).spawn().expect("spawn"))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn child(&self) -> String {
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).expect("children")
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", "--", &format!("-{}", self.pid())]).output();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn del_ends_the_plugin_that_a_killed_daemon_left_running() {
    let lab = Lab::with("1.0.0", &["only"]);
    let (cni, pod, other) = (lab.open(), lab.pod(), lab.pod());
    let (stray, neighbour) = (Stray::of(&pod), Stray::of(&other));
    eventually("both have their child", || !stray.child().is_empty() && !neighbour.child().is_empty()).await;
    let (stray_child, neighbour_child) = (stray.child(), neighbour.child());
    cni.del(&pod, None).await.expect("del");
    assert!(!lives(&stray.pid()) && !lives(&stray_child));
    assert!(lives(&neighbour.pid()) && lives(&neighbour_child));
}
