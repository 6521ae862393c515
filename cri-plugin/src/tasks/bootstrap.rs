//! Starting a shim: its `start` command, what goes in, what comes out, and `delete` when it is gone.
//!
//! The three forms of an answer (protobuf, JSON, a plain address) and who gives which stand in containerd's history of
//! the protocol; a shim of ours answers protobuf to protobuf.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::NAMESPACE;
use crate::{Error, Result};

/// The longest path a unix socket can have, less its closing zero.
const SOCKET_PATH_MAX_BYTES: usize = 107;

/// Everything about one shim that its command line holds.
pub struct Launch<'a> {
    /// The shim.
    pub binary: &'a Path,
    /// The sandbox, or for `delete` the container too.
    pub id: &'a str,
    /// Its working directory.
    pub bundle: &'a Path,
    /// The daemon's socket, part of the shim's own address.
    pub socket: &'a Path,
    /// Where the shim makes its socket.
    pub socket_dir: &'a Path,
    /// How long it may take.
    pub deadline: Duration,
}

impl Launch<'_> {
    /// Runs `start`; returns the address the shim serves on. The shim is a daemon of its own from then on.
    ///
    /// # Errors
    /// `Failed` with the shim's words, `TimedOut`, or `Corrupt` for an answer of no known form.
    pub async fn start(&self, options: Any) -> Result<String> {
        let params = BootstrapParams {
            instance_id: self.id.into(),
            namespace: NAMESPACE.into(),
            containerd_version: env!("CARGO_PKG_VERSION").into(),
            containerd_grpc_address: self.socket.display().to_string(),
            socket_dir: Some(self.socket_dir.display().to_string()),
            extensions: vec![Extension { value: MessageField::some(options), ..Default::default() }],
            ..Default::default()
        };
        let stdin = params.write_to_bytes().map_err(|e| Error::corrupt("bootstrap parameters", e))?;
        let output = self.run("start", &stdin).await?;
        if !output.status.success() {
            return Err(self.refused("start", &output));
        }
        let address = address(&output.stdout).ok_or_else(|| self.refused("start", &output))?;
        if address.trim_start_matches("unix://").len() > SOCKET_PATH_MAX_BYTES {
            return Err(Error::corrupt(format!("the address of shim {}", self.id), "longer than a socket path"));
        }
        Ok(address)
    }

    /// Runs `delete`, which ends what is left of a task whose shim is gone. Idempotent.
    ///
    /// # Errors
    /// `Failed`, `TimedOut`.
    pub async fn delete(&self) -> Result<()> {
        let output = self.run("delete", &[]).await?;
        if output.status.success() { Ok(()) } else { Err(self.refused("delete", &output)) }
    }

    async fn run(&self, command: &str, stdin: &[u8]) -> Result<Output> {
        let what = || format!("{} {command} for {}", self.binary.display(), self.id);
        let mut child = Command::new(self.binary)
            .args([OsStr::new("-namespace"), OsStr::new(NAMESPACE), OsStr::new("-id"), OsStr::new(self.id)])
            .args([OsStr::new("-address"), self.socket.as_os_str(), OsStr::new("-bundle"), self.bundle.as_os_str()])
            .arg(command)
            .current_dir(self.bundle)
            .env("NAMESPACE", NAMESPACE)
            .env("GRPC_ADDRESS", self.socket)
            .env("MAX_SHIM_VERSION", "2")
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io("start", self.binary))?;
        // A shim that does not read its stdin and one that reads all of it both end here: the pipe is closed after.
        if let Some(mut pipe) = child.stdin.take() {
            let _ = pipe.write_all(stdin).await;
        }
        tokio::time::timeout(self.deadline, child.wait_with_output())
            .await
            .map_err(|_| Error::TimedOut { what: what(), after: self.deadline })?
            .map_err(Error::io("wait for", self.binary))
    }

    fn refused(&self, command: &str, output: &Output) -> Error {
        let words: Vec<_> =
            [&output.stderr, &output.stdout].iter().map(|b| String::from_utf8_lossy(b).trim().to_string()).collect();
        let what = format!("{} {command} for {}", self.binary.display(), self.id);
        Error::failed(what, format!("{}: {}", output.status, words.join(" ").trim()))
    }
}

/// The address in a shim's answer: protobuf, else JSON, else the address itself.
fn address(stdout: &[u8]) -> Option<String> {
    if let Ok(result) = BootstrapResult::parse_from_bytes(stdout)
        && matches!(result.version, 2 | 3)
        && result.address.starts_with("unix://")
    {
        return Some(result.address);
    }
    let text = std::str::from_utf8(stdout).ok()?.trim();
    if text.starts_with("unix://") {
        return Some(text.to_string());
    }
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let address = json.get("address")?.as_str()?;
    address.starts_with("unix://").then(|| address.to_string())
}

/// The shim binary of a runtime type: its last two dot components name it; it is looked for beside this program and
/// then in PATH. A type that is an absolute path is the binary itself.
///
/// # Errors
/// `Invalid` for a type of no such form, `NotFound` with the name that was looked for.
pub fn find_binary(kind: &str) -> Result<PathBuf> {
    if kind.starts_with('/') {
        return Ok(PathBuf::from(kind));
    }
    let parts: Vec<&str> = kind.split('.').collect();
    let [.., name, version] = parts.as_slice() else {
        return Err(Error::invalid(format!("runtime type {kind:?}"), "a form like io.containerd.runc.v2 is needed"));
    };
    let file = format!("containerd-shim-{name}-{version}");
    if kind.contains('/') || name.is_empty() || version.is_empty() {
        return Err(Error::invalid(format!("runtime type {kind:?}"), "only an absolute path may hold a /"));
    }
    let own = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let path = std::env::var_os("PATH").unwrap_or_default();
    own.into_iter()
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(&file))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Error::not_found("shim", file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_of_an_answer_are_read() {
        let proto = BootstrapResult { version: 3, address: "unix:///a".into(), ..Default::default() };
        let proto = proto.write_to_bytes().expect("encode");
        for (answer, want) in [
            (proto.as_slice(), Some("unix:///a")),
            (b"unix:///run/s/abc\n", Some("unix:///run/s/abc")),
            (br#"{"version":3,"address":"unix:///b","protocol":"ttrpc"}"#, Some("unix:///b")),
            (br#"{"version":3,"address":"tcp://b"}"#, None),
            (b"", None),
            (b"oops: no runtime", None),
            (&[0xff, 0xfe, 0], None),
        ] {
            assert_eq!(address(answer).as_deref(), want, "{}", String::from_utf8_lossy(answer));
        }
    }

    #[test]
    fn runtime_types_that_are_none_are_refused() {
        for bad in ["", "runc", "io.containerd/../x.v2", "io.containerd..", "a/b.c.v2"] {
            assert!(find_binary(bad).is_err(), "{bad:?}");
        }
        assert_eq!(find_binary("/opt/shim").expect("a path"), PathBuf::from("/opt/shim"));
    }
}
