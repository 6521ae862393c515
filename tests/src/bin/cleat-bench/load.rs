//! What is done to a runtime: one pod's life, many pods at once, and a daemon's death.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cleat_proto::cri::v1::runtime_service_client::RuntimeServiceClient;
use cleat_proto::cri::v1::*;
use tonic::transport::Channel;

use crate::target::Target;

/// The operations in the order of a pod's life.
pub const OPERATIONS: [&str; 9] =
    ["runp", "create", "start", "exec", "stop", "rm", "stopp", "rmp", "runp+create+start"];

/// Measured times by operation.
#[derive(Default)]
pub struct Samples(pub BTreeMap<&'static str, Vec<Duration>>);

impl Samples {
    fn add(&mut self, operation: &'static str, took: Duration) {
        self.0.entry(operation).or_default().push(took);
    }

    /// Runs one call and keeps its time.
    async fn time<T>(
        &mut self,
        operation: &'static str,
        call: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<T> {
        let began = Instant::now();
        let answer = call.await.with_context(|| operation)?;
        self.add(operation, began.elapsed());
        Ok(answer)
    }
}

/// One pod from runp to rmp, each call timed. The first round warms up and is not kept.
pub async fn lifecycle(target: &Target, round: usize, samples: &mut Samples) -> Result<()> {
    if round == 0 {
        target.pull().await?;
    }
    let mut cold = Samples::default();
    let samples = if round == 0 { &mut cold } else { samples };
    let mut client = target.runtime().await?;
    let pod = pod(&format!("serial-{round}"));
    let began = Instant::now();
    let run = RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: target.handler.clone() };
    let sandbox = samples.time("runp", client.run_pod_sandbox(run)).await?.into_inner().pod_sandbox_id;
    let create = create(&sandbox, &pod, target);
    let id = samples.time("create", client.create_container(create)).await?.into_inner().container_id;
    samples.time("start", client.start_container(StartContainerRequest { container_id: id.clone() })).await?;
    samples.add("runp+create+start", began.elapsed());
    let exec = ExecSyncRequest { container_id: id.clone(), cmd: vec!["true".into()], timeout: 10 };
    let code = samples.time("exec", client.exec_sync(exec)).await?.into_inner().exit_code;
    if code != 0 {
        bail!("exec true ended with {code}");
    }
    samples.time("stop", client.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 0 })).await?;
    samples.time("rm", client.remove_container(RemoveContainerRequest { container_id: id })).await?;
    let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    samples.time("stopp", client.stop_pod_sandbox(stop)).await?;
    samples.time("rmp", client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox })).await?;
    Ok(())
}

/// Pods per second from the first runp to the last start, `at_once` at a time; they are removed after.
pub async fn rate(target: &Target, pods: usize, at_once: usize) -> Result<f64> {
    target.pull().await?;
    let began = Instant::now();
    let sandboxes = many(pods, at_once, |n| up(target.clone(), format!("rate-{n}"))).await?;
    let took = began.elapsed();
    down(target, sandboxes).await?;
    Ok(pods as f64 / took.as_secs_f64())
}

/// From the daemon's SIGKILL to its first whole list of pods, and of that the part after its program was started.
pub async fn recovery(target: &Target, pods: usize) -> Result<Duration> {
    target.pull().await?;
    let sandboxes = many(pods, 10, |n| up(target.clone(), format!("recover-{n}"))).await?;
    let pid = nix::unistd::Pid::from_raw(target.pid()?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    while nix::sys::signal::kill(pid, None).is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let began = Instant::now();
    let (program, args) = target.restart.split_first().context("no restart command")?;
    let mut restart = tokio::process::Command::new(program).args(args).stdout(std::process::Stdio::null()).spawn()?;
    target.until_listed(pods, began + Duration::from_secs(60)).await?;
    let took = began.elapsed();
    restart.wait().await?;
    down(target, sandboxes).await?;
    Ok(took)
}

/// Sandboxes alone, with a container each if `start`.
pub async fn up(target: Target, name: String) -> Result<String> {
    let mut client = target.runtime().await?;
    let pod = pod(&name);
    let run = RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: target.handler.clone() };
    let sandbox = client.run_pod_sandbox(run).await.context("runp")?.into_inner().pod_sandbox_id;
    let create = create(&sandbox, &pod, &target);
    let container_id = client.create_container(create).await.context("create")?.into_inner().container_id;
    client.start_container(StartContainerRequest { container_id }).await.context("start")?;
    Ok(sandbox)
}

/// Stops and removes sandboxes, ten at a time.
pub async fn down(target: &Target, sandboxes: Vec<String>) -> Result<()> {
    many(sandboxes.len(), 10, |n| remove(target.clone(), sandboxes[n].clone())).await.map(drop)
}

async fn remove(target: Target, sandbox: String) -> Result<()> {
    let mut client: RuntimeServiceClient<Channel> = target.runtime().await?;
    client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await.context("stopp")?;
    client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.context("rmp")?;
    Ok(())
}

/// Runs `make` for 0..n, `at_once` at a time, and gathers the results.
pub async fn many<T, F>(n: usize, at_once: usize, make: impl Fn(usize) -> F) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (mut running, mut results, mut next) = (tokio::task::JoinSet::new(), Vec::new(), 0);
    while next < n || !running.is_empty() {
        while next < n && running.len() < at_once {
            running.spawn(make(next));
            next += 1;
        }
        if let Some(done) = running.join_next().await {
            results.push(done??);
        }
    }
    Ok(results)
}

fn pod(name: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            namespace: "bench".into(),
            uid: format!("{name}-{}", std::process::id()),
            attempt: 0,
        }),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

fn create(sandbox: &str, pod: &PodSandboxConfig, target: &Target) -> CreateContainerRequest {
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(ImageSpec { image: target.image.clone(), ..ImageSpec::default() }),
        command: vec!["sleep".into(), "3600".into()],
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                ..LinuxContainerSecurityContext::default()
            }),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    };
    CreateContainerRequest { pod_sandbox_id: sandbox.into(), config: Some(config), sandbox_config: Some(pod.clone()) }
}

/// What kubelet sends for an ordinary pod: a pid namespace for each container. The zero of the API is a shared one.
fn namespaces() -> NamespaceOption {
    NamespaceOption { pid: NamespaceMode::Container.into(), ..NamespaceOption::default() }
}
