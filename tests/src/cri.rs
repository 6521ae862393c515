//! A client of CRI, and the shortest requests that do something.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cleat_proto::cri::v1;
use cleat_proto::cri::v1::image_service_client::ImageServiceClient;
use cleat_proto::cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// What a call gives: the answer's essence or the status, whose code and words are part of what is tested.
pub type Reply<T> = Result<T, Status>;

/// A call that takes longer has failed: DEADLINE_EXCEEDED.
const DEADLINE: Duration = Duration::from_secs(60);

/// A connection to one daemon. Clones share it.
#[derive(Debug, Clone)]
pub struct Cri {
    /// RuntimeService, for what has no short form here.
    pub runtime: RuntimeServiceClient<Channel>,
    /// ImageService, likewise.
    pub images: ImageServiceClient<Channel>,
}

/// A pod of that name in the namespace `test`; its containers log to `logs/NAME`, which is made, as kubelet makes it.
pub fn pod(name: &str, logs: &Path) -> v1::PodSandboxConfig {
    let logs = logs.join(name);
    if let Err(e) = std::fs::create_dir_all(&logs) {
        eprintln!("{}: {e}", logs.display());
    }
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "test".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: logs.to_string_lossy().into_owned(),
        linux: Some(v1::LinuxPodSandboxConfig::default()),
        ..Default::default()
    }
}

/// A container of that name which runs a command of the image and logs to `NAME.log`.
pub fn container(name: &str, image: &str, command: &[&str]) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: image.into(), ..Default::default() }),
        command: command.iter().map(ToString::to_string).collect(),
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig::default()),
        ..Default::default()
    }
}

fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

impl Cri {
    /// Connects to a socket.
    ///
    /// # Errors
    /// When nothing listens there.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let address = format!("unix://{}", socket.display());
        let channel = Endpoint::from_shared(address.clone())?.connect().await.with_context(|| address)?;
        Ok(Self { runtime: RuntimeServiceClient::new(channel.clone()), images: ImageServiceClient::new(channel) })
    }

    /// PullImage: the image's id.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn pull(&self, image: &str) -> Reply<String> {
        let image = Some(v1::ImageSpec { image: image.into(), ..Default::default() });
        let message = v1::PullImageRequest { image, ..Default::default() };
        Ok(self.images.clone().pull_image(request(message)).await?.into_inner().image_ref)
    }

    /// ImageStatus: the image, if it is there.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn image(&self, image: &str) -> Reply<Option<v1::Image>> {
        let image = Some(v1::ImageSpec { image: image.into(), ..Default::default() });
        let message = v1::ImageStatusRequest { image, verbose: false };
        Ok(self.images.clone().image_status(request(message)).await?.into_inner().image)
    }

    /// ListImages, all of them.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn list_images(&self) -> Reply<Vec<v1::Image>> {
        Ok(self.images.clone().list_images(request(v1::ListImagesRequest::default())).await?.into_inner().images)
    }

    /// RemoveImage.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn remove_image(&self, image: &str) -> Reply<()> {
        let image = Some(v1::ImageSpec { image: image.into(), ..Default::default() });
        self.images.clone().remove_image(request(v1::RemoveImageRequest { image })).await.map(drop)
    }

    /// RunPodSandbox under a handler: the sandbox's id.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn run_pod(&self, pod: &v1::PodSandboxConfig, handler: &str) -> Reply<String> {
        let message = v1::RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: handler.into() };
        Ok(self.runtime.clone().run_pod_sandbox(request(message)).await?.into_inner().pod_sandbox_id)
    }

    /// StopPodSandbox.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn stop_pod(&self, id: &str) -> Reply<()> {
        let message = v1::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime.clone().stop_pod_sandbox(request(message)).await.map(drop)
    }

    /// RemovePodSandbox.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn remove_pod(&self, id: &str) -> Reply<()> {
        let message = v1::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime.clone().remove_pod_sandbox(request(message)).await.map(drop)
    }

    /// StopPodSandbox and RemovePodSandbox of every sandbox there is.
    ///
    /// # Errors
    /// The first status that is none of success.
    pub async fn remove_all_pods(&self) -> Reply<()> {
        for pod in self.list_pods().await? {
            self.stop_pod(&pod.id).await?;
            self.remove_pod(&pod.id).await?;
        }
        Ok(())
    }

    /// PodSandboxStatus, not verbose.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn pod_status(&self, id: &str) -> Reply<v1::PodSandboxStatus> {
        let message = v1::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        let answer = self.runtime.clone().pod_sandbox_status(request(message)).await?.into_inner();
        answer.status.ok_or_else(|| Status::data_loss("a PodSandboxStatusResponse without status"))
    }

    /// ListPodSandbox, all of them.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn list_pods(&self) -> Reply<Vec<v1::PodSandbox>> {
        let message = v1::ListPodSandboxRequest::default();
        Ok(self.runtime.clone().list_pod_sandbox(request(message)).await?.into_inner().items)
    }

    /// CreateContainer in a sandbox: the container's id.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn create(
        &self,
        sandbox: &str,
        container: &v1::ContainerConfig,
        pod: &v1::PodSandboxConfig,
    ) -> Reply<String> {
        let message = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(container.clone()),
            sandbox_config: Some(pod.clone()),
        };
        Ok(self.runtime.clone().create_container(request(message)).await?.into_inner().container_id)
    }

    /// StartContainer.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn start(&self, id: &str) -> Reply<()> {
        let message = v1::StartContainerRequest { container_id: id.into() };
        self.runtime.clone().start_container(request(message)).await.map(drop)
    }

    /// CreateContainer and StartContainer.
    ///
    /// # Errors
    /// The daemon's status of the first that fails.
    pub async fn launch(
        &self,
        sandbox: &str,
        container: &v1::ContainerConfig,
        pod: &v1::PodSandboxConfig,
    ) -> Reply<String> {
        let id = self.create(sandbox, container, pod).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// StopContainer with a grace period.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn stop(&self, id: &str, grace_secs: i64) -> Reply<()> {
        let message = v1::StopContainerRequest { container_id: id.into(), timeout: grace_secs };
        self.runtime.clone().stop_container(request(message)).await.map(drop)
    }

    /// RemoveContainer.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn remove(&self, id: &str) -> Reply<()> {
        let message = v1::RemoveContainerRequest { container_id: id.into() };
        self.runtime.clone().remove_container(request(message)).await.map(drop)
    }

    /// ContainerStatus, not verbose.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn status(&self, id: &str) -> Reply<v1::ContainerStatus> {
        Ok(self.verbose_status(id, false).await?.0)
    }

    /// The pid of a container's init, from the verbose status as crictl shows it.
    ///
    /// # Errors
    /// The daemon's status, or DATA_LOSS where the info holds no pid.
    pub async fn container_pid(&self, id: &str) -> Reply<i64> {
        let info = self.verbose_status(id, true).await?.1;
        let info: serde_json::Value =
            serde_json::from_str(info.get("info").map_or("", String::as_str)).unwrap_or_default();
        info["pid"].as_i64().ok_or_else(|| Status::data_loss(format!("no pid in the info of {id}: {info}")))
    }

    async fn verbose_status(&self, id: &str, verbose: bool) -> Reply<(v1::ContainerStatus, BTreeMap<String, String>)> {
        let message = v1::ContainerStatusRequest { container_id: id.into(), verbose };
        let answer = self.runtime.clone().container_status(request(message)).await?.into_inner();
        let status = answer.status.ok_or_else(|| Status::data_loss("a ContainerStatusResponse without status"))?;
        Ok((status, answer.info))
    }

    /// ListContainers that pass a filter.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn list(&self, filter: v1::ContainerFilter) -> Reply<Vec<v1::Container>> {
        let message = v1::ListContainersRequest { filter: Some(filter) };
        Ok(self.runtime.clone().list_containers(request(message)).await?.into_inner().containers)
    }

    /// ExecSync; `timeout_secs` 0 is no timeout.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn exec(&self, id: &str, command: &[&str], timeout_secs: i64) -> Reply<v1::ExecSyncResponse> {
        let cmd = command.iter().map(ToString::to_string).collect();
        let message = v1::ExecSyncRequest { container_id: id.into(), cmd, timeout: timeout_secs };
        Ok(self.runtime.clone().exec_sync(request(message)).await?.into_inner())
    }

    /// The stdout of an exec, as text, without the last line's end.
    ///
    /// # Errors
    /// The daemon's status; ABORTED with all it said where the command fails.
    pub async fn output(&self, id: &str, command: &[&str]) -> Reply<String> {
        let answer = self.exec(id, command, 30).await?;
        if answer.exit_code != 0 {
            let err = String::from_utf8_lossy(&answer.stderr).into_owned();
            return Err(Status::aborted(format!("{command:?} exited with {}: {err}", answer.exit_code)));
        }
        Ok(String::from_utf8_lossy(&answer.stdout).trim_end().to_string())
    }

    /// ReopenContainerLog.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn reopen_log(&self, id: &str) -> Reply<()> {
        let message = v1::ReopenContainerLogRequest { container_id: id.into() };
        self.runtime.clone().reopen_container_log(request(message)).await.map(drop)
    }

    /// Waits up to twenty seconds until a container has exited, and returns its status.
    ///
    /// # Errors
    /// The daemon's status; DEADLINE_EXCEEDED with the state it is in.
    pub async fn wait_exit(&self, id: &str) -> Reply<v1::ContainerStatus> {
        let start = Instant::now();
        loop {
            let status = self.status(id).await?;
            if status.state() == v1::ContainerState::ContainerExited {
                return Ok(status);
            }
            if start.elapsed() > Duration::from_secs(20) {
                return Err(Status::deadline_exceeded(format!("{id} is {:?} after 20 s", status.state())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
