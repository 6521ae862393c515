//! Pods and containers from run to remove, by a client that speaks what kubelet speaks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cleat_tests::v1::{ContainerFilter, ContainerState, ContainerStateValue, PodSandboxState};
use cleat_tests::{Cri, Node, container, node, pod, wait_for_line};

#[tokio::test]
async fn a_pod_from_run_to_remove() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    let image = cri.pull("busybox").await?;
    let config = pod("sequence", &node.path("logs"));
    let sandbox = cri.run_pod(&config, "").await?;
    ensure!(sandbox.len() == 64, "{sandbox}");
    let status = cri.pod_status(&sandbox).await?;
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    assert_eq!(status.metadata, config.metadata);
    ensure!(!status.network.context("no network")?.ip.is_empty());

    let script = "echo out; echo err >&2; while :; do sleep 0.1; done";
    let wanted = container("main", "busybox", &["sh", "-c", script]);
    let id = cri.create(&sandbox, &wanted, &config).await?;
    assert_eq!(cri.status(&id).await?.state(), ContainerState::ContainerCreated);
    cri.start(&id).await?;
    let status = cri.status(&id).await?;
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert_eq!(status.metadata, wanted.metadata);
    assert_eq!(status.image_id, image);
    ensure!(status.created_at > 0 && status.started_at >= status.created_at, "{status:?}");
    assert_eq!(cri.output(&id, &["hostname"]).await?, "sequence");

    let lines = wait_for_line(&node.path("logs/sequence/main.log"), "err").await?;
    let found: Vec<_> = lines.iter().map(|l| (l.stream.as_str(), l.tag.as_str(), l.text.as_str())).collect();
    ensure!(found.contains(&("stdout", "F", "out")) && found.contains(&("stderr", "F", "err")), "{found:?}");
    assert_eq!(status.log_path, node.path("logs/sequence/main.log").to_string_lossy());

    cri.stop(&id, 0).await?;
    let status = cri.status(&id).await?;
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 137));
    ensure!(status.finished_at >= status.started_at, "{status:?}");
    cri.remove(&id).await?;
    cri.stop_pod(&sandbox).await?;
    assert_eq!(cri.pod_status(&sandbox).await?.state(), PodSandboxState::SandboxNotready);
    cri.remove_pod(&sandbox).await?;
    assert_eq!(cri.list_pods().await?, []);
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn removing_a_running_pod_takes_its_containers_along() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let config = pod("whole", &node.path("logs"));
    let sandbox = cri.run_pod(&config, "").await?;
    for name in ["one", "two"] {
        cri.launch(&sandbox, &container(name, "busybox", &["sleep", "1000"]), &config).await?;
    }
    cri.create(&sandbox, &container("unstarted", "busybox", &["true"]), &config).await?;
    cri.stop_pod(&sandbox).await?;
    for left in cri.list(ContainerFilter::default()).await? {
        ensure!(left.state() != ContainerState::ContainerRunning, "{left:?}");
    }
    cri.remove_pod(&sandbox).await?;
    assert_eq!(cri.list(ContainerFilter::default()).await?, []);
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}

/// One pod of the ten: its address.
async fn one_of_ten(node: &Node, cri: &Cri, number: usize) -> Result<String> {
    let config = pod(&format!("ten-{number}"), &node.path("logs"));
    let sandbox = cri.run_pod(&config, "").await?;
    let script = format!("echo number {number}; sleep 1000");
    let id = cri.launch(&sandbox, &container("main", "busybox", &["sh", "-c", &script]), &config).await?;
    let log = node.path(&format!("logs/ten-{number}/main.log"));
    wait_for_line(&log, &format!("number {number}")).await?;
    let seen = cri.output(&id, &["sh", "-c", "ip -4 -o addr show eth0 | awk '{print $4}'"]).await?;
    let ip = cri.pod_status(&sandbox).await?.network.context("no network")?.ip;
    ensure!(seen.starts_with(&format!("{ip}/")), "the status says {ip}, the container sees {seen}");
    Ok(ip)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_pods_at_once_twice() -> Result<()> {
    let node = std::sync::Arc::new(node!());
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    for _ in 0..2 {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..10 {
            let (node, cri) = (node.clone(), cri.clone());
            tasks.spawn(async move { one_of_ten(&node, &cri, number).await });
        }
        let mut ips = std::collections::BTreeSet::new();
        while let Some(ip) = tasks.join_next().await {
            ips.insert(ip??);
        }
        assert_eq!(ips.len(), 10, "an address was given twice: {ips:?}");
        let mut tasks = tokio::task::JoinSet::new();
        for pod in cri.list_pods().await? {
            let cri = cri.clone();
            tasks.spawn(async move {
                cri.stop_pod(&pod.id).await?;
                cri.remove_pod(&pod.id).await
            });
        }
        while let Some(removed) = tasks.join_next().await {
            removed??;
        }
        assert_eq!(node.residue(), [] as [String; 0]);
        std::fs::remove_dir_all(node.path("logs"))?;
    }
    Ok(())
}

/// kubelet makes it, a person with crictl does not.
#[tokio::test]
async fn a_log_directory_that_is_not_there_is_made() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let mut config = pod("logless", &node.path("logs"));
    config.log_directory = node.path("logs/not/there").to_string_lossy().into_owned();
    let sandbox = cri.run_pod(&config, "").await?;
    cri.launch(&sandbox, &container("main", "busybox", &["echo", "here"]), &config).await?;
    wait_for_line(&node.path("logs/not/there/main.log"), "here").await?;
    Ok(())
}

#[tokio::test]
async fn exit_codes_and_reasons() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let config = pod("exits", &node.path("logs"));
    let sandbox = cri.run_pod(&config, "").await?;
    for (name, script, code, reason) in [
        ("zero", "true", 0, "Completed"),
        ("three", "exit 3", 3, "Error"),
        ("killed", "kill -9 $$; sleep 5", 137, "Error"),
        ("last-words", "echo a; echo b; exit 255", 255, "Error"),
    ] {
        // init ignores signals it sends itself, so the shell that kills itself is its child.
        let nested = format!("sh -c '{script}'; exit $?");
        let id = cri.launch(&sandbox, &container(name, "busybox", &["sh", "-c", &nested]), &config).await?;
        let status = cri.wait_exit(&id).await.context(name)?;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{name}");
        ensure!(status.finished_at >= status.started_at && status.started_at >= status.created_at, "{status:?}");
    }
    let lines = wait_for_line(&node.path("logs/exits/last-words.log"), "b").await?;
    assert_eq!(lines.len(), 2);
    Ok(())
}

#[tokio::test]
async fn stopping_asks_first_and_kills_after_the_grace_period() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let config = pod("stops", &node.path("logs"));
    let sandbox = cri.run_pod(&config, "").await?;
    let loop_with = |trap: &str| format!("trap {trap} TERM; echo ready; while :; do sleep 0.05; done");

    let polite = container("polite", "busybox", &["sh", "-c", &loop_with("'exit 9'")]);
    let id = cri.launch(&sandbox, &polite, &config).await?;
    wait_for_line(&node.path("logs/stops/polite.log"), "ready").await?;
    let start = Instant::now();
    cri.stop(&id, 20).await?;
    ensure!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    assert_eq!(cri.status(&id).await?.exit_code, 9);

    let deaf = container("deaf", "busybox", &["sh", "-c", &loop_with("''")]);
    let id = cri.launch(&sandbox, &deaf, &config).await?;
    wait_for_line(&node.path("logs/stops/deaf.log"), "ready").await?;
    let start = Instant::now();
    cri.stop(&id, 2).await?;
    let took = start.elapsed();
    ensure!(took > Duration::from_millis(1900) && took < Duration::from_secs(7), "took {took:?}");
    assert_eq!(cri.status(&id).await?.exit_code, 137);
    Ok(())
}

#[tokio::test]
async fn stop_and_remove_can_be_asked_again() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let config = pod("again", &node.path("logs"));
    let sandbox = cri.run_pod(&config, "").await?;
    let id = cri.launch(&sandbox, &container("main", "busybox", &["sleep", "1000"]), &config).await?;
    for _ in 0..2 {
        cri.stop(&id, 0).await?;
    }
    for _ in 0..2 {
        cri.remove(&id).await?;
    }
    for _ in 0..2 {
        cri.stop_pod(&sandbox).await?;
    }
    for _ in 0..2 {
        cri.remove_pod(&sandbox).await?;
    }
    let unknown = "0123456789abcdef".repeat(4);
    cri.stop_pod(&unknown).await?;
    cri.remove_pod(&unknown).await?;
    cri.stop(&unknown, 0).await?;
    cri.remove(&unknown).await?;
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn lists_pass_through_their_filters() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let mut config = pod("lists", &node.path("logs"));
    config.labels.insert("app".into(), "lists".into());
    let sandbox = cri.run_pod(&config, "").await?;
    let mut wanted = container("labelled", "busybox", &["sleep", "1000"]);
    wanted.labels.insert("tier".into(), "front".into());
    let labelled = cri.launch(&sandbox, &wanted, &config).await?;
    let other = cri.create(&sandbox, &container("other", "busybox", &["true"]), &config).await?;

    let found = async |filter: ContainerFilter| -> Result<Vec<String>> {
        let mut ids: Vec<String> = cri.list(filter).await?.into_iter().map(|c| c.id).collect();
        ids.sort();
        Ok(ids)
    };
    let mut both = vec![labelled.clone(), other.clone()];
    both.sort();
    let none: [String; 0] = [];
    let by_label = |value: &str| ContainerFilter {
        label_selector: [("tier".to_string(), value.to_string())].into(),
        ..Default::default()
    };
    let by_state = |state: ContainerState| ContainerFilter {
        state: Some(ContainerStateValue { state: state.into() }),
        ..Default::default()
    };
    assert_eq!(found(ContainerFilter { pod_sandbox_id: sandbox.clone(), ..Default::default() }).await?, both);
    assert_eq!(found(ContainerFilter { id: other.clone(), ..Default::default() }).await?, [other.as_str()]);
    assert_eq!(found(by_label("front")).await?, [labelled.as_str()]);
    assert_eq!(found(by_label("back")).await?, none);
    assert_eq!(found(by_state(ContainerState::ContainerCreated)).await?, [other.as_str()]);
    assert_eq!(found(by_state(ContainerState::ContainerRunning)).await?, [labelled.as_str()]);
    assert_eq!(found(by_state(ContainerState::ContainerExited)).await?, none);
    Ok(())
}

#[tokio::test]
async fn what_the_container_config_asks_for() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("test/config").await?;
    let config = pod("asks", &node.path("logs"));
    let sandbox = cri.run_pod(&config, "").await?;
    std::fs::create_dir(node.path("volume"))?;
    std::fs::write(node.path("volume/file"), "from the host\n")?;
    let mut wanted = container("main", "test/config", &["sh", "-c", "echo up; sleep 1000"]);
    wanted.working_dir = "/tmp".into();
    for (key, value) in [("OVERRIDDEN", "request"), ("SPACES", "a  b")] {
        wanted.envs.push(cleat_tests::v1::KeyValue { key: key.into(), value: value.into() });
    }
    for (path, readonly) in [("/rw", false), ("/ro", true)] {
        wanted.mounts.push(cleat_tests::v1::Mount {
            container_path: path.into(),
            host_path: node.path("volume").to_string_lossy().into_owned(),
            readonly,
            ..Default::default()
        });
    }
    let id = cri.launch(&sandbox, &wanted, &config).await?;
    let sh = async |script: &str| cri.output(&id, &["sh", "-c", script]).await;
    assert_eq!(sh("pwd").await?, "/tmp");
    assert_eq!(sh("echo \"$FROM_IMAGE $OVERRIDDEN $SPACES\"").await?, "yes request a  b");
    assert_eq!(sh("cat /ro/file").await?, "from the host");
    sh("echo changed > /rw/file").await?;
    assert_eq!(std::fs::read_to_string(node.path("volume/file"))?, "changed\n");
    let refused = sh("echo no > /ro/file").await.expect_err("a read-only mount was written");
    ensure!(refused.message().contains("Read-only"), "{refused}");
    // Entrypoint and command come from the image where the request names none.
    let id = cri.launch(&sandbox, &container("plain", "test/config", &[]), &config).await?;
    cri.wait_exit(&id).await?;
    assert_eq!(wait_for_line(&node.path("logs/asks/plain.log"), "entrypoint cmd").await?.len(), 1);
    Ok(())
}
