//! PortForward: a connection to a port of the pod, as from inside it.
//!
//! A socket belongs to the network namespace of the thread that made it, for good. So a thread enters the pod's, connects, and
//! hands the socket back; no helper program, and no process in the pod.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::{Phase, Sandbox};
use crate::daemon::Daemon;
use crate::{Error, Result, netns};

/// To an address of the loopback interface: only a full backlog makes it wait.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The sandbox, if its ports can be reached.
///
/// # Errors
/// `NotFound`; `WrongState` for one that is not ready.
pub fn forwardable(daemon: &Daemon, id: &str) -> Result<Arc<Sandbox>> {
    let sandbox = daemon.pods.sandbox(id)?;
    let state = sandbox.state();
    match state.phase {
        Phase::Ready => Ok(sandbox),
        Phase::Creating | Phase::NotReady => Err(state.wrong(sandbox.id(), "ready")),
    }
}

/// Connects to a port on 127.0.0.1 of the pod, or where nobody listens there, on `::1`.
///
/// # Errors
/// As [`forwardable`]; `Failed` with the kernel's words. Source: CRI api.proto, PortForward.
pub async fn connect(daemon: &Daemon, id: &str, port: u16) -> Result<TcpStream> {
    let sandbox = forwardable(daemon, id)?;
    let pinned = sandbox.netns(&daemon.config.state);
    crate::blocking(move || {
        let failed = |e| Error::failed(format!("connect to port {port}"), e);
        let dial = move || dial(port);
        let dialled = match pinned {
            Some(pinned) => netns::within(&pinned, dial)?,
            None => dial(),
        };
        dialled.map_err(failed)
    })
    .await
    .and_then(|tcp| TcpStream::from_std(tcp).map_err(|e| Error::failed("take over a pod's connection", e)))
}

fn dial(port: u16) -> io::Result<std::net::TcpStream> {
    let connect = |address| std::net::TcpStream::connect_timeout(&address, CONNECT_DEADLINE);
    let first = connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let connected = first.or_else(|e| connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).map_err(|_| e))?;
    connected.set_nonblocking(true)?;
    Ok(connected)
}
