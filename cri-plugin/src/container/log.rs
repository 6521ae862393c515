//! A container's log: where it is, as the shim is told, and ReopenContainerLog.

use crate::daemon::Daemon;
use crate::{Error, Result};

use super::State;

/// Opens the log file of a running container anew; kubelet has just renamed it.
///
/// # Errors
/// `NotFound`; `WrongState` for a container that does not run, and then no file is made. Source: CRI api.proto,
/// ReopenContainerLog.
pub async fn reopen_log(daemon: &Daemon, id: &str) -> Result<()> {
    let container = daemon.pods.container(id)?;
    let state = container.state();
    if !matches!(state, State::Running { .. }) {
        let id = container.id().to_string();
        return Err(Error::WrongState { kind: "container", id, state: state.name(), wanted: "running" });
    }
    let sandbox = daemon.pods.sandbox(container.fixed.sandbox.as_str())?;
    sandbox.shim()?.reopen_log(container.id().as_str()).await
}

/// The shim's name of a CRI log file, or of nowhere for a container without one: output is then read and dropped, so
/// that clients can still attach. Bytes that a URL's path cannot hold go as `%XX`.
pub(super) fn url(path: &str, max_line_bytes: u32) -> String {
    if path.is_empty() {
        return "cri-discard:".into();
    }
    let mut url = String::from("cri://");
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("{url}?max_line={max_line_bytes}")
}

/// The shim's name of a stdin that clients feed when they attach.
pub(super) fn stdin_url(once: bool) -> String {
    if once { "cri-stdin:?once=true" } else { "cri-stdin:" }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_path_becomes_a_url_that_holds_every_byte() {
        assert_eq!(url("/var/log/a b?/0.log", 16384), "cri:///var/log/a%20b%3F/0.log?max_line=16384");
        assert_eq!(url("", 16384), "cri-discard:");
    }
}
