//! The daemon killed with -9 at random moments of a running load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cleat_tests::v1::{ContainerState, PodSandboxState};
use cleat_tests::{Cri, Node, container, node, pod, read_log};
use tonic::Code;

const KILLS: usize = 20;
const WORKERS: usize = 4;
const LINES: usize = 20;

/// What the load shares.
struct Load {
    node: Node,
    over: AtomicBool,
    pods_done: AtomicUsize,
}

/// Whether a call failed only because the daemon died under it, so that kubelet would ask again.
fn cut_off(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled) || is_transport_error(status)
}

fn is_transport_error(status: &tonic::Status) -> bool {
    status.code() == Code::Unknown && std::error::Error::source(status).is_some()
}

impl Load {
    /// Asks until the daemon answers, as kubelet does; a daemon that is down for a minute is a failure.
    async fn insist<T>(&self, what: &str, call: impl AsyncFn(&Cri) -> cleat_tests::Reply<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            let failure = match self.node.cri().await {
                Err(e) => e,
                Ok(cri) => match call(&cri).await {
                    Ok(answer) => return Ok(answer),
                    Err(status) if cut_off(&status) => status.into(),
                    Err(status) => return Err(anyhow::Error::from(status).context(what.to_string())),
                },
            };
            ensure!(start.elapsed() < Duration::from_secs(60), "{what}: {failure:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// One pod's whole life: its container says twenty lines and exits with a code of its own.
    async fn short_life(&self, name: &str, code: i32) -> Result<()> {
        let config = pod(name, &self.node.path("logs"));
        let sandbox = self.insist("run", async |cri| cri.run_pod(&config, "").await).await?;
        let script = format!("for n in $(seq {LINES}); do echo $n; sleep 0.01; done; exit {code}");
        let wanted = container("main", "busybox", &["sh", "-c", &script]);
        let id = self.insist("create", async |cri| cri.create(&sandbox, &wanted, &config).await).await?;
        // A start that was cut off may have happened: then it is FAILED_PRECONDITION, and the container no longer CREATED.
        let started = self.insist("start", async |cri| cri.start(&id).await).await;
        let status = self.insist("status", async |cri| cri.status(&id).await).await?;
        ensure!(started.is_ok() || status.state() != ContainerState::ContainerCreated, "{started:?} {status:?}");
        let exit = self.insist("wait", async |cri| cri.wait_exit(&id).await).await?;
        ensure!(exit.exit_code == code, "{name}: wanted exit code {code}, found {exit:?}");
        let log = read_log(&self.node.path(&format!("logs/{name}/main.log")))?;
        let texts: Vec<_> = log.iter().map(|line| line.text.clone()).collect();
        ensure!(texts == (1..=LINES).map(|n| n.to_string()).collect::<Vec<_>>(), "{name}: {texts:?}");
        self.insist("stop pod", async |cri| cri.stop_pod(&sandbox).await).await?;
        self.insist("remove pod", async |cri| cri.remove_pod(&sandbox).await).await?;
        self.pods_done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn work(&self, worker: usize) -> Result<()> {
        let mut round = 0;
        while !self.over.load(Ordering::Relaxed) {
            let code = i32::try_from((worker * 31 + round) % 100)?;
            let name = format!("w{worker}-{round}");
            self.short_life(&name, code).await.with_context(|| name.clone())?;
            round += 1;
        }
        Ok(())
    }
}

/// A pod that lives through all of it.
struct Witness {
    name: String,
    sandbox: String,
    id: String,
    pid: i64,
    ip: String,
}

async fn witness(node: &Node, cri: &Cri, name: &str, handler: &str) -> Result<Witness> {
    let config = pod(name, &node.path("logs"));
    let sandbox = cri.run_pod(&config, handler).await?;
    let script = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.01; done";
    let id = cri.launch(&sandbox, &container("main", "busybox", &["sh", "-c", script]), &config).await?;
    let ip = cri.pod_status(&sandbox).await?.network.context("no network")?.ip;
    Ok(Witness { name: name.into(), pid: cri.container_pid(&id).await?, sandbox, id, ip })
}

impl Witness {
    async fn testify(&self, node: &Node, cri: &Cri) -> Result<()> {
        let sandbox = cri.pod_status(&self.sandbox).await?;
        assert_eq!(sandbox.state(), PodSandboxState::SandboxReady, "{}", self.name);
        assert_eq!(sandbox.network.context("no network")?.ip, self.ip, "{}", self.name);
        assert_eq!(cri.status(&self.id).await?.state(), ContainerState::ContainerRunning, "{}", self.name);
        assert_eq!(cri.container_pid(&self.id).await?, self.pid, "{}", self.name);
        assert_eq!(cri.output(&self.id, &["hostname"]).await?, self.name);
        cri.stop(&self.id, 0).await?;
        let lines = read_log(&node.path(&format!("logs/{}/main.log", self.name)))?;
        for (number, line) in lines.iter().enumerate() {
            ensure!(line.text == number.to_string(), "{}: line {number} is {line:?}", self.name);
        }
        ensure!(lines.len() > 100, "{}: only {} lines", self.name, lines.len());
        Ok(())
    }
}

/// Kills at moments that a seed decides; the seed is printed, so that a failure can be tried again.
async fn kill_and_restart(load: &Arc<Load>) -> Result<()> {
    let seed = match std::env::var("CLEAT_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => u64::from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.subsec_nanos()),
    };
    println!("CLEAT_SEED={seed}");
    let mut random = seed | 1;
    for _ in 0..KILLS {
        // xorshift: any spread of moments will do.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        tokio::time::sleep(Duration::from_millis(random % 700)).await;
        let load = load.clone();
        tokio::task::spawn_blocking(move || load.node.kill9().and_then(|()| load.node.restart())).await??;
    }
    Ok(())
}

#[tokio::test]
async fn twenty_kills_lose_nothing() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let witnesses = [witness(&node, &cri, "alice", "runc").await?, witness(&node, &cri, "bob", "crun").await?];
    let load = Arc::new(Load { node, over: AtomicBool::new(false), pods_done: AtomicUsize::new(0) });
    let all = tokio::task::LocalSet::new();
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let load = load.clone();
            all.spawn_local(async move { load.work(worker).await })
        })
        .collect();
    let kills = all.run_until(kill_and_restart(&load)).await;
    load.over.store(true, Ordering::Relaxed);
    all.await;
    kills?;
    for worker in workers {
        worker.await??;
    }
    println!("{} pods lived and ended during {KILLS} kills", load.pods_done.load(Ordering::Relaxed));
    let cri = load.node.cri().await?;
    for witness in &witnesses {
        witness.testify(&load.node, &cri).await?;
    }
    assert_eq!(cri.list_pods().await?.len(), witnesses.len(), "a pod was left that nobody asked for");
    cri.remove_all_pods().await?;
    assert_eq!(load.node.residue(), [] as [String; 0]);
    Ok(())
}
