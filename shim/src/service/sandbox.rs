//! `containerd.runtime.sandbox.v1.Sandbox`: each RPC validates, calls one verb and converts.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use containerd_shim_protos::{
    sandbox_api::{
        CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest, PlatformResponse,
        SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest, SandboxStatusResponse,
        ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest, StartSandboxResponse, StopSandboxRequest,
        StopSandboxResponse, WaitSandboxRequest, WaitSandboxResponse,
    },
    sandbox_async::Sandbox,
    types::platform::Platform,
};
use protobuf::MessageField;
use ttrpc::r#async::TtrpcContext;

use crate::{
    error::Error,
    sandbox::{create, stop},
    shim::Shim,
};

type Reply<T> = ttrpc::Result<T>;

/// The Sandbox service of a shim.
#[derive(Debug)]
pub struct SandboxService(pub Arc<Shim>);

#[async_trait]
impl Sandbox for SandboxService {
    async fn create_sandbox(&self, _: &TtrpcContext, request: CreateSandboxRequest) -> Reply<CreateSandboxResponse> {
        create::create(&self.0, &request)?;
        Ok(CreateSandboxResponse::new())
    }

    async fn start_sandbox(&self, _: &TtrpcContext, request: StartSandboxRequest) -> Reply<StartSandboxResponse> {
        self.0.sandbox.check(&request.sandbox_id)?;
        let status = self.0.sandbox.start()?;
        let mut response = StartSandboxResponse::new();
        response.pid = status.pid;
        response.created_at = MessageField::some(status.created_at.into());
        Ok(response)
    }

    async fn platform(&self, _: &TtrpcContext, _: PlatformRequest) -> Reply<PlatformResponse> {
        let mut platform = Platform::new();
        platform.os = "linux".into();
        platform.architecture = architecture().into();
        let mut response = PlatformResponse::new();
        response.platform = MessageField::some(platform);
        Ok(response)
    }

    async fn stop_sandbox(&self, _: &TtrpcContext, request: StopSandboxRequest) -> Reply<StopSandboxResponse> {
        self.0.sandbox.check(&request.sandbox_id)?;
        stop::stop(&self.0, Duration::from_secs(request.timeout_secs.into())).await?;
        Ok(StopSandboxResponse::new())
    }

    async fn wait_sandbox(&self, _: &TtrpcContext, request: WaitSandboxRequest) -> Reply<WaitSandboxResponse> {
        self.0.sandbox.check(&request.sandbox_id)?;
        let ended = self.0.sandbox.wait().await;
        let mut response = WaitSandboxResponse::new();
        response.exit_status = ended.status;
        response.exited_at = MessageField::some(ended.at.into());
        Ok(response)
    }

    async fn sandbox_status(&self, _: &TtrpcContext, request: SandboxStatusRequest) -> Reply<SandboxStatusResponse> {
        self.0.sandbox.check(&request.sandbox_id)?;
        let status = self.0.sandbox.status()?;
        let mut response = SandboxStatusResponse::new();
        response.sandbox_id = request.sandbox_id;
        response.pid = status.pid;
        response.state = if status.ready { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" }.into();
        response.created_at = MessageField::some(status.created_at.into());
        response.exited_at = status.ended.map(|ended| ended.at.into()).into();
        Ok(response)
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> Reply<PingResponse> {
        self.0.sandbox.check(&request.sandbox_id)?;
        Ok(PingResponse::new())
    }

    async fn shutdown_sandbox(&self, _: &TtrpcContext, _: ShutdownSandboxRequest) -> Reply<ShutdownSandboxResponse> {
        // Whatever the id, and whether there ever was a sandbox: this call is how a shim ends.
        stop::shutdown(&self.0).await?;
        Ok(ShutdownSandboxResponse::new())
    }

    async fn sandbox_metrics(&self, _: &TtrpcContext, _: SandboxMetricsRequest) -> Reply<SandboxMetricsResponse> {
        Err(Error::Unsupported("a sandbox has no metrics but those of its containers".into()).into())
    }
}

/// The architecture as Go and OCI name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
