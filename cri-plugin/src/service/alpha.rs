//! `runtime.v1alpha2`, the name CRI had before v1: kubelet to 1.22 and tools of that time know no other.
//!
//! What both versions have is the same on the wire, call for call and field for field (compared with k8s.io/cri-api
//! v0.25, the last that had it), so one server answers both: a layer in front of it turns the old path into the new one
//! and marks the request. Calls the old version never had keep their path, find no service and get UNIMPLEMENTED.
//!
//! Deliberately absent: any conversion of messages.

use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use http::{Extensions, Request, Uri};
use tower::{Layer, Service};

/// The calls of `runtime.v1alpha2.RuntimeService`.
const RUNTIME: [&str; 24] = [
    "Attach",
    "ContainerStats",
    "ContainerStatus",
    "CreateContainer",
    "Exec",
    "ExecSync",
    "ListContainerStats",
    "ListContainers",
    "ListPodSandbox",
    "ListPodSandboxStats",
    "PodSandboxStats",
    "PodSandboxStatus",
    "PortForward",
    "RemoveContainer",
    "RemovePodSandbox",
    "ReopenContainerLog",
    "RunPodSandbox",
    "StartContainer",
    "Status",
    "StopContainer",
    "StopPodSandbox",
    "UpdateContainerResources",
    "UpdateRuntimeConfig",
    "Version",
];

/// The calls of `runtime.v1alpha2.ImageService`.
const IMAGE: [&str; 5] = ["ImageFsInfo", "ImageStatus", "ListImages", "PullImage", "RemoveImage"];

/// Stands in the extensions of a request that came for v1alpha2.
#[derive(Clone, Copy, Debug)]
struct CameForAlpha;

/// The interface version a request came for: what `Version` answers as `runtime_api_version`.
pub fn api_version(extensions: &Extensions) -> &'static str {
    if extensions.get::<CameForAlpha>().is_some() { "v1alpha2" } else { "v1" }
}

/// The layer for a server of the v1 services.
pub fn layer() -> AlphaLayer {
    AlphaLayer
}

/// See [`layer`].
#[derive(Clone, Copy, Debug)]
pub struct AlphaLayer;

impl<S> Layer<S> for AlphaLayer {
    type Service = Alpha<S>;

    fn layer(&self, inner: S) -> Alpha<S> {
        Alpha { inner }
    }
}

/// A service of v1 that answers v1alpha2 too.
#[derive(Clone, Debug)]
pub struct Alpha<S> {
    inner: S,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Alpha<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(uri) = v1_uri(request.uri()) {
            *request.uri_mut() = uri;
            request.extensions_mut().insert(CameForAlpha);
        }
        self.inner.call(request)
    }
}

/// The same URI with the path of v1, or nothing if the path is no call of v1alpha2.
fn v1_uri(uri: &Uri) -> Option<Uri> {
    let path = v1_path(uri.path())?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

fn v1_path(path: &str) -> Option<String> {
    let (service, method) = path.strip_prefix("/runtime.v1alpha2.")?.split_once('/')?;
    let known = match service {
        "RuntimeService" => RUNTIME.contains(&method),
        "ImageService" => IMAGE.contains(&method),
        _ => false,
    };
    known.then(|| format!("/runtime.v1.{service}/{method}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_of_the_old_version_change_their_path() {
        let cases = [
            ("/runtime.v1alpha2.RuntimeService/Version", Some("/runtime.v1.RuntimeService/Version")),
            ("/runtime.v1alpha2.ImageService/PullImage", Some("/runtime.v1.ImageService/PullImage")),
            ("/runtime.v1.RuntimeService/Version", None),
            ("/runtime.v1alpha2.RuntimeService/PullImage", None),
            ("/runtime.v1alpha2.ImageService/Version", None),
            ("/runtime.v1alpha2.RuntimeService/GetContainerEvents", None),
            ("/runtime.v1alpha2.RuntimeService/RuntimeConfig", None),
            ("/runtime.v1alpha2.RuntimeService/CheckpointContainer", None),
            ("/runtime.v1alpha2.ImageService/StreamImages", None),
            ("/runtime.v1alpha2.OtherService/Version", None),
            ("/runtime.v1alpha2.RuntimeService/Version/", None),
            ("/runtime.v1alpha2.RuntimeService", None),
            ("/runtime.v1alpha2.", None),
            ("/", None),
        ];
        for (path, expected) in cases {
            assert_eq!(v1_path(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn scheme_and_authority_stay() {
        let uri = Uri::from_static("http://localhost/runtime.v1alpha2.RuntimeService/Status");
        assert_eq!(v1_uri(&uri).unwrap(), "http://localhost/runtime.v1.RuntimeService/Status");
    }

    /// Answers with the path and the version it sees.
    struct Echo;

    impl Service<Request<()>> for Echo {
        type Response = (String, &'static str);
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<()>) -> Self::Future {
            std::future::ready(Ok((request.uri().path().to_owned(), api_version(request.extensions()))))
        }
    }

    #[tokio::test]
    async fn a_request_is_marked_where_its_path_changed() {
        let mut service = layer().layer(Echo);
        for (path, expected) in [
            ("/runtime.v1alpha2.RuntimeService/Version", ("/runtime.v1.RuntimeService/Version", "v1alpha2")),
            ("/runtime.v1.RuntimeService/Version", ("/runtime.v1.RuntimeService/Version", "v1")),
        ] {
            let (seen, version) = service.call(Request::get(path).body(()).unwrap()).await.unwrap();
            assert_eq!((&*seen, version), expected);
        }
    }
}
