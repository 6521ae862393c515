//! RuntimeService: one function per RPC. What is not there yet answers UNIMPLEMENTED with its name.

use std::time::Duration;

use cleat_proto::cri::v1::runtime_service_server::RuntimeService;
use cleat_proto::cri::v1::*;
use tonic::{Request, Response, Status};

use super::{Service, alpha, convert, info, owned, sessions, status};
use crate::sandbox::Phase;
use crate::{container, sandbox};

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = tonic::codegen::BoxStream<T>;

/// The answer of an RPC that this version has not got.
pub(super) fn not_there(rpc: &str) -> Status {
    Status::unimplemented(format!("{rpc} is not implemented by cleat {}", env!("CARGO_PKG_VERSION")))
}

/// A number of seconds as CRI sends it; what is negative is none.
fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}

impl Service {
    /// A pod's containers, those in the making left out.
    fn shown(&self, sandbox: &sandbox::Sandbox) -> Vec<std::sync::Arc<container::Container>> {
        let all = self.daemon.pods.containers_of(sandbox.id());
        all.into_iter().filter(|c| c.state() != container::State::Creating).collect()
    }
}

#[tonic::async_trait]
impl RuntimeService for Service {
    type StreamPodSandboxesStream = Stream<StreamPodSandboxesResponse>;
    type StreamContainersStream = Stream<StreamContainersResponse>;
    type StreamContainerStatsStream = Stream<StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Stream<StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Stream<StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Stream<ContainerEventResponse>;

    async fn version(&self, request: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(status::version(alpha::api_version(request.extensions()))))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        Ok(Response::new(status::status(&self.daemon, request.get_ref().verbose)))
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        Ok(Response::new(status::runtime_config(&self.daemon)))
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let (request, daemon) = (request.into_inner(), self.daemon.clone());
        let config = request.config.unwrap_or_default();
        let made = owned(async move { sandbox::run(&daemon, config, request.runtime_handler).await }).await?;
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id: made }))
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        let (id, daemon) = (request.into_inner().pod_sandbox_id, self.daemon.clone());
        owned(async move { sandbox::stop(&daemon, &id).await }).await?;
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        let (id, daemon) = (request.into_inner().pod_sandbox_id, self.daemon.clone());
        owned(async move { sandbox::remove(&daemon, &id).await }).await?;
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        let request = request.into_inner();
        let sandbox = self.daemon.pods.sandbox(&request.pod_sandbox_id)?;
        Ok(Response::new(PodSandboxStatusResponse {
            status: Some(convert::sandbox_status(&sandbox)),
            info: if request.verbose { info::sandbox(&self.daemon, &sandbox) } else { Default::default() },
            containers_statuses: self.shown(&sandbox).iter().map(|c| convert::container_status(c)).collect(),
            timestamp: crate::clock::now(),
        }))
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        let filter = request.into_inner().filter;
        let shown = self.daemon.pods.sandboxes().into_iter().filter(|s| s.state().phase != Phase::Creating);
        let items = shown.filter(|s| convert::sandbox_passes(s, filter.as_ref())).map(|s| convert::sandbox_item(&s));
        Ok(Response::new(ListPodSandboxResponse { items: items.collect() }))
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        let (request, daemon) = (request.into_inner(), self.daemon.clone());
        let config = request.config.unwrap_or_default();
        let made = owned(async move { container::create(&daemon, &request.pod_sandbox_id, config).await }).await?;
        Ok(Response::new(CreateContainerResponse { container_id: made }))
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        let (id, daemon) = (request.into_inner().container_id, self.daemon.clone());
        owned(async move { container::start(&daemon, &id).await }).await?;
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let (request, daemon) = (request.into_inner(), self.daemon.clone());
        owned(async move { container::stop(&daemon, &request.container_id, seconds(request.timeout)).await }).await?;
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        let (id, daemon) = (request.into_inner().container_id, self.daemon.clone());
        owned(async move { container::remove(&daemon, &id).await }).await?;
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        let filter = request.into_inner().filter;
        let shown = self.daemon.pods.containers().into_iter().filter(|c| c.state() != container::State::Creating);
        let passing = shown.filter(|c| convert::container_passes(c, filter.as_ref()));
        Ok(Response::new(ListContainersResponse { containers: passing.map(|c| convert::container_item(&c)).collect() }))
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.daemon.pods.container(&request.container_id)?;
        Ok(Response::new(ContainerStatusResponse {
            status: Some(convert::container_status(&container)),
            info: if request.verbose { info::container(&self.daemon, &container) } else { Default::default() },
        }))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        container::reopen_log(&self.daemon, &request.into_inner().container_id).await?;
        Ok(Response::new(ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let (request, daemon) = (request.into_inner(), self.daemon.clone());
        let done = owned(async move {
            container::exec_sync(&daemon, &request.container_id, request.cmd, seconds(request.timeout)).await
        })
        .await?;
        Ok(Response::new(ExecSyncResponse { stdout: done.stdout, stderr: done.stderr, exit_code: done.code }))
    }

    async fn stream_pod_sandboxes(
        &self,
        _: Request<StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        Err(not_there("StreamPodSandboxes"))
    }

    async fn stream_containers(&self, _: Request<StreamContainersRequest>) -> Answer<Self::StreamContainersStream> {
        Err(not_there("StreamContainers"))
    }

    async fn update_container_resources(
        &self,
        _: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        Err(not_there("UpdateContainerResources"))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        Ok(Response::new(ExecResponse { url: sessions::exec(&self.daemon, request.into_inner())? }))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        Ok(Response::new(AttachResponse { url: sessions::attach(&self.daemon, request.into_inner())? }))
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        Ok(Response::new(PortForwardResponse { url: sessions::port_forward(&self.daemon, request.into_inner())? }))
    }

    async fn container_stats(&self, _: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        Err(not_there("ContainerStats"))
    }

    async fn list_container_stats(&self, _: Request<ListContainerStatsRequest>) -> Answer<ListContainerStatsResponse> {
        Err(not_there("ListContainerStats"))
    }

    async fn stream_container_stats(
        &self,
        _: Request<StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        Err(not_there("StreamContainerStats"))
    }

    async fn pod_sandbox_stats(&self, _: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        Err(not_there("PodSandboxStats"))
    }

    async fn list_pod_sandbox_stats(
        &self,
        _: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        Err(not_there("ListPodSandboxStats"))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        _: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        Err(not_there("StreamPodSandboxStats"))
    }

    async fn update_runtime_config(
        &self,
        _: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        Err(not_there("UpdateRuntimeConfig"))
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        Err(not_there("CheckpointContainer"))
    }

    async fn checkpoint_pod(&self, _: Request<CheckpointPodRequest>) -> Answer<CheckpointPodResponse> {
        Err(not_there("CheckpointPod"))
    }

    async fn restore_pod(&self, _: Request<RestorePodRequest>) -> Answer<RestorePodResponse> {
        Err(not_there("RestorePod"))
    }

    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        Err(not_there("GetContainerEvents"))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        Err(not_there("ListMetricDescriptors"))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        Err(not_there("ListPodSandboxMetrics"))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        Err(not_there("StreamPodSandboxMetrics"))
    }

    async fn update_pod_sandbox_resources(
        &self,
        _: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        Err(not_there("UpdatePodSandboxResources"))
    }
}
