//! Pods that come and go leave nothing with the daemon: no descriptor, no process, no file. A process of its own, since
//! it counts what belongs to the process.

#![expect(clippy::expect_used, reason = "a test says what it expected")]

#[path = "cni/lab.rs"]
#[expect(dead_code, reason = "made for the tests of cni, which use all of it")]
mod lab;

use lab::Lab;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("fds").count()
}

fn children() -> String {
    let tasks = std::fs::read_dir("/proc/self/task").expect("tasks").flatten();
    tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default()).collect()
}

#[tokio::test]
async fn a_hundred_pods_leave_nothing() {
    let mut lab = Lab::with("1.0.0", &["first", "second"]);
    lab.config.timeout_secs = 1;
    let cni = lab.open();
    // The runtime's own descriptors come with the first process and the first change.
    let attached = cni.add(&lab.pod()).await.expect("add");
    cni.gc(Vec::new).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let before = descriptors();
    for round in 0..100 {
        let pod = lab.pod();
        if round == 50 {
            lab.plugin("second", "[ $CNI_COMMAND != ADD ] || sleep 100");
            cni.add(&pod).await.expect_err("hangs");
            lab.plugin("second", "[ $CNI_COMMAND != ADD ]");
        } else if round > 50 {
            cni.add(&pod).await.expect_err("refuses");
        } else {
            let added = cni.add(&pod).await.expect("add");
            assert_eq!(added.ips, attached.ips);
            cni.del(&pod, Some(&added)).await.expect("del");
        }
    }
    lab::eventually("no descriptor more", || descriptors() <= before).await;
    lab::eventually("no child", || children().trim().is_empty()).await;
    assert_eq!(lab.intents(), 0);
}
