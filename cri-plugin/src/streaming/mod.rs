//! The streaming server: what Exec, Attach and PortForward of CRI answer is a URL, and here is what serves it, over SPDY/3.1
//! and WebSocket, to kubelet, crictl and kubectl.
//!
//! ```text
//! RPC -> url() -> requests            a token, once, within a minute
//! client -> server: origin, token, handshake -> 101
//!   -> spdy | websocket (tunnel: both) -> streams -> remote | forward -> Workloads
//! ```
//! Each session is a task with bounded queues: a client that stalls, floods or vanishes costs itself alone.
//!
//! Deliberately absent: TLS. The server binds loopback addresses only, where kubelet is; a token is the authority.

mod forward;
mod handshake;
mod line;
mod origin;
mod remote;
mod requests;
mod server;
mod spdy;
mod status;
pub mod streams;
#[cfg(test)]
mod tests;
mod websocket;

use std::net::{SocketAddr, TcpListener};

use cleat_proto::cri::v1::{AttachRequest, ExecRequest};
use tokio::net::TcpStream;

pub use requests::Asked;
pub use server::serve;
pub use streams::Streams;

use crate::config;
use crate::{Error, Result};

/// What sessions are about: containers and pods, as the server needs them.
#[async_trait::async_trait]
pub trait Workloads: Send + Sync {
    /// Runs a command, and returns its exit code after its output has been handed on.
    async fn exec(&self, request: ExecRequest, streams: &mut Streams) -> Result<i32>;
    /// Joins a container's streams until they end or the client goes.
    async fn attach(&self, request: AttachRequest, streams: &mut Streams) -> Result<()>;
    /// Connects to a port on a pod's loopback interface.
    async fn connect(&self, sandbox: &str, port: u16) -> Result<TcpStream>;
}

/// The server's socket, and the requests that wait for their clients.
#[derive(Debug)]
pub struct Streaming {
    listener: TcpListener,
    address: SocketAddr,
    requests: requests::Requests,
    config: config::Streaming,
}

impl Streaming {
    /// Binds. Nothing is served before [`serve`]; who connects earlier waits.
    ///
    /// # Errors
    /// `Failed` with the address.
    pub fn open(config: &config::Streaming) -> Result<Self> {
        let wanted = SocketAddr::new(config.address, config.port);
        let failed =
            |e: std::io::Error| Error::failed(format!("listen on {wanted} for exec, attach and port-forward"), e);
        let listener = TcpListener::bind(wanted).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, requests: requests::Requests::default(), config: config.clone() })
    }

    /// The URL under which a request is served, once, within a minute.
    ///
    /// # Errors
    /// `Failed` where too many requests wait.
    pub fn url(&self, asked: Asked) -> Result<String> {
        Ok(format!("http://{}{}", self.address, self.requests.insert(asked)?))
    }
}
