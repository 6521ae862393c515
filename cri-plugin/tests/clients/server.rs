//! A tonic server on a socket of its own that answers Version, and nothing else.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use cleat_proto::cri::v1::{VersionRequest, VersionResponse};
use cleatd::service::{alpha, authority};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

/// What it says its own version is.
pub const VERSION: &str = "1.2.3";

/// Whether the server is as cleatd's, or tonic alone.
pub enum Layers {
    Both,
    None,
}

/// A server, for as long as this lives.
pub struct Running {
    _dir: TempDir,
    socket: String,
    task: JoinHandle<()>,
}

impl Running {
    pub fn socket(&self) -> &str {
        &self.socket
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub async fn start(layers: Layers) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("cri.sock").to_str().unwrap().to_owned();
    let listener = UnixListener::bind(&socket).unwrap();
    let task = tokio::spawn(async move {
        let served = match layers {
            Layers::Both => {
                let server = Server::builder().layer(alpha::layer()).add_service(VersionOnly);
                server.serve_with_incoming(authority::incoming(listener)).await
            }
            Layers::None => {
                let server = Server::builder().add_service(VersionOnly);
                server.serve_with_incoming(UnixListenerStream::new(listener)).await
            }
        };
        served.unwrap();
    });
    Running { _dir: dir, socket, task }
}

/// The service as the code generator writes it, for one call.
#[derive(Clone)]
struct VersionOnly;

impl NamedService for VersionOnly {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl UnaryService<VersionRequest> for VersionOnly {
    type Response = VersionResponse;
    type Future = Ready<Result<Response<VersionResponse>, Status>>;

    fn call(&mut self, request: Request<VersionRequest>) -> Self::Future {
        ready(Ok(Response::new(answer(alpha::api_version(request.extensions())))))
    }
}

/// What Version answers to a client of that interface version.
pub fn answer(api_version: &str) -> VersionResponse {
    VersionResponse {
        version: "0.1.0".into(),
        runtime_name: "cleat".into(),
        runtime_version: VERSION.into(),
        runtime_api_version: api_version.into(),
    }
}

impl Service<http::Request<Body>> for VersionOnly {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        async move {
            if request.uri().path() != "/runtime.v1.RuntimeService/Version" {
                return Ok(Status::unimplemented("").into_http());
            }
            Ok(Grpc::new(ProstCodec::default()).unary(VersionOnly, request).await)
        }
        .boxed()
    }
}
