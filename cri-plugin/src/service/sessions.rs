//! Exec, Attach and PortForward: what is asked for is checked now, so that an error is the RPC's; the work begins when the
//! client comes to the URL, and then this is what the streaming server calls.

use std::sync::Arc;

use cleat_proto::cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use tokio::net::TcpStream;

use crate::daemon::Daemon;
use crate::streaming::{Asked, Streams, Workloads};
use crate::{Error, Result, container, sandbox};

/// Exec: the URL of a session to come.
pub fn exec(daemon: &Daemon, request: ExecRequest) -> Result<String> {
    check(request.tty, request.stdin, request.stdout, request.stderr)?;
    if request.cmd.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("cmd", "it names no program"));
    }
    container::expect_running(daemon, &request.container_id)?;
    daemon.streaming.url(Asked::Exec(request))
}

/// Attach: the URL of a session to come.
pub fn attach(daemon: &Daemon, request: AttachRequest) -> Result<String> {
    check(request.tty, request.stdin, request.stdout, request.stderr)?;
    container::expect_running(daemon, &request.container_id)?;
    daemon.streaming.url(Asked::Attach(request))
}

/// PortForward: the URL of a session to come.
pub fn port_forward(daemon: &Daemon, request: PortForwardRequest) -> Result<String> {
    if let Some(port) = request.port.iter().find(|port| !(1..=65535).contains(*port)) {
        return Err(Error::invalid("port", format!("{port} is not between 1 and 65535")));
    }
    sandbox::forwardable(daemon, &request.pod_sandbox_id)?;
    daemon.streaming.url(Asked::PortForward(request))
}

/// CRI api.proto: a terminal has one output, and one stream there must be.
fn check(tty: bool, stdin: bool, stdout: bool, stderr: bool) -> Result<()> {
    if tty && stderr {
        return Err(Error::invalid("stderr", "a terminal has no stderr apart from its stdout"));
    }
    if !(stdin || stdout || stderr) {
        return Err(Error::invalid("stdin, stdout, stderr", "one of them must be asked for"));
    }
    Ok(())
}

/// The daemon, as the streaming server needs it.
pub struct Sessions(pub Arc<Daemon>);

#[tonic::async_trait]
impl Workloads for Sessions {
    async fn exec(&self, request: ExecRequest, streams: &mut Streams) -> Result<i32> {
        container::exec(&self.0, request, streams).await
    }

    async fn attach(&self, request: AttachRequest, streams: &mut Streams) -> Result<()> {
        container::attach(&self.0, request, streams).await
    }

    async fn connect(&self, sandbox: &str, port: u16) -> Result<TcpStream> {
        sandbox::connect(&self.0, sandbox, port).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_must_be_a_stream_and_a_terminal_has_no_stderr() {
        check(true, true, true, false).expect("a shell");
        check(false, false, false, true).expect("stderr alone");
        assert!(check(true, true, true, true).is_err());
        assert!(check(true, false, false, false).is_err());
    }
}
