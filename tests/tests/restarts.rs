//! A workload outlives its daemon: killed, ended and started anew at every bad moment.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use cleat_tests::v1::{ContainerState, PodSandboxConfig, PodSandboxState};
use cleat_tests::{Cri, Node, container, hack, node, pod, read_log, wait_for_line};

const COUNT: &str = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.01; done";

/// A pod whose container counts, and what must not change about it.
struct Counter {
    name: String,
    config: PodSandboxConfig,
    sandbox: String,
    id: String,
    pid: i64,
    ip: String,
}

impl Counter {
    async fn start(node: &Node, cri: &Cri, name: &str, handler: &str) -> Result<Self> {
        let config = pod(name, &node.path("logs"));
        let sandbox = cri.run_pod(&config, handler).await?;
        let id = cri.launch(&sandbox, &container("main", "busybox", &["sh", "-c", COUNT]), &config).await?;
        let pid = cri.container_pid(&id).await?;
        let ip = cri.pod_status(&sandbox).await?.network.context("no network")?.ip;
        Ok(Self { name: name.into(), config, sandbox, id, pid, ip })
    }

    /// The daemon tells of it what it told before, and its process is the one it was.
    async fn unchanged(&self, cri: &Cri) -> Result<()> {
        let pod = cri.pod_status(&self.sandbox).await?;
        assert_eq!(pod.state(), PodSandboxState::SandboxReady, "{}", self.name);
        assert_eq!(pod.metadata, self.config.metadata);
        assert_eq!(pod.network.context("no network")?.ip, self.ip, "{}", self.name);
        let status = cri.status(&self.id).await?;
        assert_eq!(status.state(), ContainerState::ContainerRunning, "{}: {status:?}", self.name);
        assert_eq!(cri.container_pid(&self.id).await?, self.pid, "{}", self.name);
        ensure!(std::path::Path::new(&format!("/proc/{}", self.pid)).exists());
        assert_eq!(cri.output(&self.id, &["hostname"]).await?, self.name);
        Ok(())
    }

    /// Every number from 0 on is in the log, once, in order, and it still grows.
    async fn no_line_lost(&self, node: &Node) -> Result<()> {
        let log = node.path(&format!("logs/{}/main.log", self.name));
        let lines = read_log(&log)?.len();
        let lines = wait_for_line(&log, &(lines + 20).to_string()).await?;
        for (number, line) in lines.iter().enumerate() {
            ensure!(line.text == number.to_string(), "{}: line {number} is {line:?}", self.name);
        }
        Ok(())
    }
}

fn now_nanos() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

#[tokio::test]
async fn a_killed_daemon_loses_nothing() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let counters =
        [Counter::start(&node, &cri, "one", "runc").await?, Counter::start(&node, &cri, "two", "crun").await?];
    node.kill9()?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    node.restart()?;
    let cri = node.cri().await?;
    for counter in &counters {
        counter.unchanged(&cri).await?;
        counter.no_line_lost(&node).await?;
        cri.stop(&counter.id, 0).await?;
        assert_eq!(cri.status(&counter.id).await?.exit_code, 137);
    }
    assert_eq!(cri.list_images().await?.len(), 1);
    cri.remove_all_pods().await?;
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn an_upgrade_loses_nothing() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let counter = Counter::start(&node, &cri, "kept", "").await?;
    for round in 0..3 {
        let before = node.pid()?;
        if round == 0 {
            node.terminate()?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        node.restart()?;
        assert_ne!(before, node.pid()?);
        counter.unchanged(&node.cri().await?).await?;
        counter.no_line_lost(&node).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_exit_while_the_daemon_is_down_keeps_its_code_and_time() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let config = pod("leaving", &node.path("logs"));
    let sandbox = cri.run_pod(&config, "").await?;
    let script = "while [ ! -e /host/go ]; do sleep 0.02; done; echo last words; exit 5";
    let mut wanted = container("main", "busybox", &["sh", "-c", script]);
    std::fs::create_dir(node.path("host"))?;
    wanted.mounts.push(cleat_tests::v1::Mount {
        container_path: "/host".into(),
        host_path: node.path("host").to_string_lossy().into_owned(),
        ..Default::default()
    });
    let id = cri.launch(&sandbox, &wanted, &config).await?;
    node.kill9()?;
    let killed = now_nanos()?;
    std::fs::write(node.path("host/go"), "")?;
    wait_for_line(&node.path("logs/leaving/main.log"), "last words").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let restarted = now_nanos()?;
    node.restart()?;
    let cri = node.cri().await?;
    let status = cri.wait_exit(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (5, "Error"));
    ensure!(
        (killed..restarted - 500_000_000).contains(&status.finished_at),
        "finished at {}, killed at {killed}, started again at {restarted}",
        status.finished_at
    );
    // And it stays so.
    node.kill9()?;
    node.restart()?;
    let again = node.cri().await?.status(&id).await?;
    assert_eq!((again.exit_code, again.finished_at), (5, status.finished_at));
    Ok(())
}

#[tokio::test]
async fn a_half_made_sandbox_is_unwound() -> Result<()> {
    let node = node!();
    for round in 0..12 {
        let cri = node.cri().await?;
        let config = pod(&format!("half-{round}"), &node.path("logs"));
        let (caller, wanted) = (cri.clone(), config.clone());
        let call = tokio::spawn(async move { caller.run_pod(&wanted, "").await });
        tokio::time::sleep(Duration::from_millis(4 * round)).await;
        node.kill9()?;
        let answered = call.await?;
        node.restart()?;
        let cri = node.cri().await?;
        let pods = cri.list_pods().await?;
        ensure!(pods.len() <= 1, "{pods:?}");
        if let Ok(id) = &answered {
            ensure!(pods.iter().any(|pod| pod.id == *id), "{id} was answered, then lost");
        }
        // kubelet's next try, whatever became of the first.
        cri.remove_all_pods().await?;
        let id = cri.run_pod(&config, "").await.with_context(|| format!("round {round}"))?;
        cri.remove_pod(&id).await?;
        assert_eq!(node.residue(), [] as [String; 0], "round {round}");
    }
    Ok(())
}

#[tokio::test]
async fn a_half_made_container_is_unwound() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let config = pod("parts", &node.path("logs"));
    let sandbox = cri.run_pod(&config, "").await?;
    for round in 0..12 {
        let cri = node.cri().await?;
        let wanted = container(&format!("c{round}"), "busybox", &["sleep", "1000"]);
        let (caller, owner, request, pod) = (cri.clone(), sandbox.clone(), wanted.clone(), config.clone());
        let call = tokio::spawn(async move { caller.launch(&owner, &request, &pod).await });
        tokio::time::sleep(Duration::from_millis(6 * round)).await;
        node.kill9()?;
        let answered = call.await?;
        node.restart()?;
        let cri = node.cri().await?;
        let all = cri.list(Default::default()).await?;
        ensure!(all.len() <= 1, "{all:?}");
        if let Ok(id) = &answered {
            assert_eq!(cri.status(id).await?.state(), ContainerState::ContainerRunning);
        }
        for one in all {
            // Started at most once: where it was created only, it can still be started.
            if one.state() == ContainerState::ContainerCreated {
                cri.start(&one.id).await.with_context(|| format!("round {round}"))?;
            }
            cri.stop(&one.id, 0).await?;
            cri.remove(&one.id).await?;
        }
        let id = cri.launch(&sandbox, &wanted, &config).await.with_context(|| format!("round {round}"))?;
        cri.stop(&id, 0).await?;
        cri.remove(&id).await?;
    }
    node.cri().await?.remove_all_pods().await?;
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn a_corrupt_record_is_set_aside() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let whole = Counter::start(&node, &cri, "whole", "").await?;
    let torn = Counter::start(&node, &cri, "torn", "").await?;
    node.kill9()?;
    let store = node.path("root/pods.db");
    let sql = format!("UPDATE objects SET state = '{{\"half' WHERE id = '{}'", torn.id);
    let status = std::process::Command::new("sqlite3").arg(&store).arg(&sql).status()?;
    ensure!(status.success());
    node.restart()?;
    let cri = node.cri().await?;
    whole.unchanged(&cri).await?;
    whole.no_line_lost(&node).await?;
    ensure!(cri.status(&torn.id).await.is_err(), "the torn record is still served");
    let log = node.log();
    ensure!(log.lines().any(|line| line.contains(&torn.id)), "the log does not name {}: {log}", torn.id);
    // Its pod can still be taken away, and all of it goes.
    cri.remove_all_pods().await?;
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn two_nodes_side_by_side() -> Result<()> {
    let (left, right) = (node!(), node!());
    let (left_cri, right_cri) = (left.cri().await?, right.cri().await?);
    for cri in [&left_cri, &right_cri] {
        cri.pull("busybox").await?;
    }
    let one = Counter::start(&left, &left_cri, "same", "").await?;
    let two = Counter::start(&right, &right_cri, "same", "").await?;
    assert_ne!(one.ip, two.ip);
    left.kill9()?;
    hack("down", &[&left.dir().to_string_lossy()])?;
    ensure!(!std::path::Path::new(&format!("/proc/{}", one.pid)).exists(), "hack/down left the container");
    two.unchanged(&right_cri).await?;
    two.no_line_lost(&right).await
}
