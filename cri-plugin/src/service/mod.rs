//! The CRI server: sockets, and one function per RPC that validates, calls and converts.
//!
//! A call that changes something runs in a task of the daemon's, so that a client that hangs up does not cut it in
//! half. No logic lives here; `sandbox`, `container` and `images` know nothing of gRPC.

pub mod alpha;
pub mod authority;
mod convert;
mod image;
mod info;
mod runtime;
mod sessions;
mod status;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use cleat_proto::cri::v1::image_service_server::ImageServiceServer;
use cleat_proto::cri::v1::runtime_service_server::RuntimeServiceServer;
use tokio::net::UnixListener;
use tonic::Status;

use crate::daemon::Daemon;
use crate::{Error, Result};

/// The largest message taken or sent: lists of a full node, as kubelet and containerd set it.
const MESSAGE_MAX_BYTES: usize = 16 << 20;

/// Both services over one daemon.
#[derive(Clone)]
pub struct Service {
    daemon: Arc<Daemon>,
}

/// Serves CRI on a socket until `end` resolves.
///
/// # Errors
/// `Io` for a socket that cannot be made; `Failed` for a server that ends by itself.
pub async fn serve(daemon: Arc<Daemon>, end: impl Future<Output = ()>) -> Result<()> {
    let listener = listen(&daemon.config.socket)?;
    let sessions = Arc::new(sessions::Sessions(daemon.clone()));
    let streaming = crate::streaming::serve(daemon.streaming.clone(), sessions);
    let service = Service { daemon };
    let runtime = RuntimeServiceServer::new(service.clone())
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let image = ImageServiceServer::new(service)
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let cri = tonic::transport::Server::builder()
        .layer(alpha::layer())
        .add_service(runtime)
        .add_service(image)
        .serve_with_incoming_shutdown(authority::incoming(listener), end);
    tokio::select! {
        served = cri => served.map_err(|e| Error::failed("serve CRI", e)),
        failed = streaming => failed,
    }
}

/// A socket that an earlier daemon left is replaced; the state's lock says that it no longer runs.
fn listen(path: &Path) -> Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(Error::io("mkdir", dir))?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", path)(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(Error::io("bind", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(Error::io("chmod", path))?;
    Ok(listener)
}

/// Runs work that must not end with its client; a panic in it is that call's error alone.
async fn owned<T: Send + 'static, E: IntoStatus + Send + 'static>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(done) => done.map_err(IntoStatus::status),
        Err(e) => Err(Status::internal(format!("the call ended abnormally: {e}"))),
    }
}

/// Errors as they are and errors that several callers share.
trait IntoStatus {
    fn status(self) -> Status;
}

impl IntoStatus for Error {
    fn status(self) -> Status {
        self.into()
    }
}

impl IntoStatus for Arc<Error> {
    fn status(self) -> Status {
        Status::from(self.as_ref())
    }
}
