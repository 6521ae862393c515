//! The client side of shim v2: starting a shim, and asking it about sandboxes, tasks and their I/O.
//!
//! A concrete client, not a trait: its double is a fake shim on a socket. Every call has a deadline but the two waits,
//! which end with the connection at the latest. Nothing here knows about CRI's states; callers translate.

mod bootstrap;

use std::path::{Path, PathBuf};
use std::time::Duration;

use cleat_proto::shim::{AttachRequest, IoClient, KilledRequest, OomClient, ReopenRequest};
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
use containerd_shim_protos::sandbox_api;
use containerd_shim_protos::sandbox_async::SandboxClient;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use ttrpc::context::Context;

pub use bootstrap::{Launch, find_binary};

use crate::{Error, Result};

/// The namespace of everything Kubernetes, here as in containerd: tools look for it.
pub const NAMESPACE: &str = "k8s.io";

/// What an OCI process is called on the wire.
const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const POD_CONFIG_URL: &str = "runtime.v1.PodSandboxConfig";

/// One shim, connected.
pub struct Shim {
    task: TaskClient,
    sandbox: SandboxClient,
    io: IoClient,
    oom: OomClient,
    name: String,
    deadline: Duration,
}

/// A task's exit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exit {
    /// The code, 128 + n after signal n.
    pub code: u32,
    /// Nanoseconds since 1970.
    pub at: i64,
}

/// What the shim says of a task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TaskState {
    /// Made, not started.
    Created,
    /// Running or paused, as this pid.
    Running(u32),
    /// Ended.
    Stopped(Exit),
}

/// What a new task needs.
pub struct NewTask<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Holds `config.json`.
    pub bundle: &'a Path,
    /// The root filesystem's mounts, made by the shim.
    pub rootfs: &'a [cleat_snapshots::mount::Mount],
    /// Where its streams go.
    pub stdio: Stdio,
    /// `containerd.runc.v1.Options`.
    pub options: Any,
}

/// The three streams of a process, as shim v2 names them; empty is none.
#[derive(Debug, Clone, Default)]
pub struct Stdio {
    /// Where it reads.
    pub stdin: String,
    /// Where it writes.
    pub stdout: String,
    /// And complains.
    pub stderr: String,
    /// One pseudo terminal for all three.
    pub terminal: bool,
}

impl Shim {
    /// Connects to a shim's address, `unix://PATH`.
    ///
    /// # Errors
    /// `Unreachable`, `TimedOut`.
    pub async fn connect(address: &str, name: String, deadline: Duration) -> Result<Self> {
        let unreachable = |why: String| Error::Unreachable { peer: name.clone(), why };
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let socket = tokio::time::timeout(deadline, tokio::net::UnixStream::connect(path))
            .await
            .map_err(|_| Error::TimedOut { what: format!("connecting to the {name}"), after: deadline })?
            .map_err(|e| unreachable(format!("connect {path}: {e}")))?;
        let client = Client::new(ttrpc::r#async::transport::Socket::new(socket));
        Ok(Self {
            task: TaskClient::new(client.clone()),
            sandbox: SandboxClient::new(client.clone()),
            io: IoClient::new(client.clone()),
            oom: OomClient::new(client),
            name,
            deadline,
        })
    }

    /// Makes and starts the sandbox in the shim; returns the pid of its pause process, zero where it needs none.
    ///
    /// # Errors
    /// `Failed` with the shim's words; `Unreachable`; `TimedOut`. The same holds for every call below.
    pub async fn start_sandbox(&self, id: &str, bundle: &Path, netns: Option<&Path>, config: Vec<u8>) -> Result<u32> {
        let create = sandbox_api::CreateSandboxRequest {
            sandbox_id: id.into(),
            bundle_path: text(bundle),
            netns_path: netns.map(text).unwrap_or_default(),
            options: MessageField::some(Any { type_url: POD_CONFIG_URL.into(), value: config, ..Any::default() }),
            ..Default::default()
        };
        self.sandbox.create_sandbox(self.within(), &create).await.map_err(|e| self.error("create the sandbox", e))?;
        let start = sandbox_api::StartSandboxRequest { sandbox_id: id.into(), ..Default::default() };
        let started = self.sandbox.start_sandbox(self.within(), &start).await;
        Ok(started.map_err(|e| self.error("start the sandbox", e))?.pid)
    }

    /// Returns when the sandbox has ended; an error means that the shim has.
    pub async fn wait_sandbox(&self, id: &str) -> Result<()> {
        let wait = sandbox_api::WaitSandboxRequest { sandbox_id: id.into(), ..Default::default() };
        self.sandbox.wait_sandbox(forever(), &wait).await.map(drop).map_err(|e| self.error("wait for the sandbox", e))
    }

    /// Ends the sandbox and the shim itself. A shim that is gone counts as ended.
    pub async fn shutdown(&self, id: &str) -> Result<()> {
        let stop = sandbox_api::StopSandboxRequest { sandbox_id: id.into(), ..Default::default() };
        match self.sandbox.stop_sandbox(self.within(), &stop).await.map_err(|e| self.error("stop the sandbox", e)) {
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(Error::Unreachable { .. }) => return Ok(()),
            Err(e) => return Err(e),
        }
        let end = sandbox_api::ShutdownSandboxRequest { sandbox_id: id.into(), ..Default::default() };
        match self.sandbox.shutdown_sandbox(self.within(), &end).await.map_err(|e| self.error("shut down", e)) {
            Ok(_) | Err(Error::Unreachable { .. } | Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Makes a task; returns the pid of its first process, which waits.
    pub async fn create(&self, new: NewTask<'_>) -> Result<u32> {
        let request = api::CreateTaskRequest {
            id: new.id.into(),
            bundle: text(new.bundle),
            rootfs: new.rootfs.iter().map(mount).collect(),
            terminal: new.stdio.terminal,
            stdin: new.stdio.stdin,
            stdout: new.stdio.stdout,
            stderr: new.stdio.stderr,
            options: MessageField::some(new.options),
            ..Default::default()
        };
        let created = self.task.create(self.within(), &request).await;
        Ok(created.map_err(|e| self.error("create", e))?.pid)
    }

    /// Starts a task, or a process that `exec` announced; `exec` is empty for the task itself.
    pub async fn start(&self, id: &str, exec: &str) -> Result<u32> {
        let request = api::StartRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        Ok(self.task.start(self.within(), &request).await.map_err(|e| self.error("start", e))?.pid)
    }

    /// Announces another process in a task; `process` is OCI JSON.
    pub async fn exec(&self, id: &str, exec: &str, process: Vec<u8>, stdio: Stdio) -> Result<()> {
        let request = api::ExecProcessRequest {
            id: id.into(),
            exec_id: exec.into(),
            terminal: stdio.terminal,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            spec: MessageField::some(Any { type_url: PROCESS_URL.into(), value: process, ..Any::default() }),
            ..Default::default()
        };
        self.task.exec(self.within(), &request).await.map(drop).map_err(|e| self.error("exec", e))
    }

    /// Closes a process's stdin once everything written to it has been read; `exec` is empty for the task itself.
    pub async fn close_stdin(&self, id: &str, exec: &str) -> Result<()> {
        let request = api::CloseIORequest { id: id.into(), exec_id: exec.into(), stdin: true, ..Default::default() };
        self.task.close_io(self.within(), &request).await.map(drop).map_err(|e| self.error("close stdin", e))
    }

    /// Sets the size of a process's terminal, in characters.
    pub async fn resize(&self, id: &str, exec: &str, width: u16, height: u16) -> Result<()> {
        let request = api::ResizePtyRequest {
            id: id.into(),
            exec_id: exec.into(),
            width: width.into(),
            height: height.into(),
            ..Default::default()
        };
        self.task.resize_pty(self.within(), &request).await.map(drop).map_err(|e| self.error("resize", e))
    }

    /// Returns when the process has ended. No deadline: the connection's end is an error.
    pub async fn wait(&self, id: &str, exec: &str) -> Result<Exit> {
        let request = api::WaitRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        let done = self.task.wait(forever(), &request).await.map_err(|e| self.error("wait", e))?;
        Ok(Exit { code: done.exit_status, at: nanos(&done.exited_at) })
    }

    /// Sends a signal to a process, or with `Target::All` to all of the container.
    pub async fn kill(&self, id: &str, exec: &str, signal: i32, target: Target) -> Result<()> {
        let request = api::KillRequest {
            id: id.into(),
            exec_id: exec.into(),
            signal: signal.unsigned_abs(),
            all: target == Target::All,
            ..Default::default()
        };
        self.task.kill(self.within(), &request).await.map(drop).map_err(|e| self.error("kill", e))
    }

    /// Forgets an ended process and frees what it held. One that is not there counts as forgotten.
    pub async fn delete(&self, id: &str, exec: &str) -> Result<()> {
        let request = api::DeleteRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        match self.task.delete(self.within(), &request).await.map_err(|e| self.error("delete", e)) {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Where a task is; None for one the shim does not know.
    pub async fn state(&self, id: &str) -> Result<Option<TaskState>> {
        let request = api::StateRequest { id: id.into(), ..Default::default() };
        let state = match self.task.state(self.within(), &request).await.map_err(|e| self.error("state", e)) {
            Ok(state) => state,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        match state.status.enum_value_or_default() {
            api::Status::CREATED => Ok(Some(TaskState::Created)),
            api::Status::RUNNING | api::Status::PAUSED | api::Status::PAUSING => {
                Ok(Some(TaskState::Running(state.pid)))
            }
            api::Status::STOPPED => {
                Ok(Some(TaskState::Stopped(Exit { code: state.exit_status, at: nanos(&state.exited_at) })))
            }
            api::Status::UNKNOWN => Err(Error::corrupt(format!("the state of {id}"), status_word(&state.status))),
        }
    }

    /// Opens the task's log file anew, after a rename.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = ReopenRequest { container_id: id.into(), ..Default::default() };
        self.io.reopen(self.within(), &request).await.map(drop).map_err(|e| self.error("reopen the log", e))
    }

    /// Joins the task's streams by fifos, until it or the fifos' other ends close.
    pub async fn attach(&self, id: &str, stdio: Stdio) -> Result<()> {
        let request = AttachRequest {
            container_id: id.into(),
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            terminal: stdio.terminal,
            ..Default::default()
        };
        self.io.attach(self.within(), &request).await.map(drop).map_err(|e| self.error("attach", e))
    }

    /// Whether the kernel killed a process of the task for want of memory.
    pub async fn oom_killed(&self, id: &str) -> Result<bool> {
        let request = KilledRequest { container_id: id.into(), ..Default::default() };
        Ok(self.oom.killed(self.within(), &request).await.map_err(|e| self.error("ask about OOM", e))?.killed)
    }

    fn within(&self) -> Context {
        let mut context = ttrpc::context::with_duration(self.deadline);
        context.add("containerd-namespace-ttrpc".into(), NAMESPACE.into());
        context
    }

    fn error(&self, what: &'static str, e: ttrpc::Error) -> Error {
        let ttrpc::Error::RpcStatus(status) = &e else {
            return Error::Unreachable { peer: self.name.clone(), why: e.to_string() };
        };
        match status.code.enum_value_or_default() {
            ttrpc::Code::NOT_FOUND => Error::not_found("task", status.message.clone()),
            ttrpc::Code::ALREADY_EXISTS => Error::AlreadyExists { kind: "task", id: status.message.clone() },
            ttrpc::Code::DEADLINE_EXCEEDED => {
                Error::TimedOut { what: format!("{}: {what}", self.name), after: self.deadline }
            }
            ttrpc::Code::UNIMPLEMENTED => Error::Unsupported { what: format!("{}: {what}", self.name) },
            _ => Error::failed(format!("{}: {what}", self.name), &status.message),
        }
    }
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// One process.
    Process,
    /// All processes of the container.
    All,
}

/// `containerd.runc.v1.Options`, which our shim and runc's read.
///
/// # Errors
/// None in practice: the message is encoded in memory.
pub fn runc_options(runtime: &crate::config::Runtime, shim_cgroup: String) -> Result<Any> {
    use containerd_shim_protos::protobuf::Message;
    let options = containerd_shim_protos::shim::oci::Options {
        binary_name: runtime.binary.clone(),
        root: text(&runtime.root),
        systemd_cgroup: runtime.systemd_cgroup,
        shim_cgroup,
        ..Default::default()
    };
    let value = options.write_to_bytes().map_err(|e| Error::corrupt("runtime options", e))?;
    Ok(Any { type_url: "containerd.runc.v1.Options".into(), value, ..Any::default() })
}

/// The bundle of a sandbox or container, where every shim v2 daemon keeps it.
pub fn bundle(state: &Path, id: &str) -> PathBuf {
    state.join("io.containerd.runtime.v2.task").join(NAMESPACE).join(id)
}

fn forever() -> Context {
    let mut context = Context::default();
    context.add("containerd-namespace-ttrpc".into(), NAMESPACE.into());
    context
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn mount(m: &cleat_snapshots::mount::Mount) -> api::Mount {
    api::Mount {
        type_: m.kind.clone(),
        source: m.source.clone(),
        target: m.target.clone().unwrap_or_default(),
        options: m.options.clone(),
        ..Default::default()
    }
}

fn nanos(at: &MessageField<Timestamp>) -> i64 {
    at.as_ref().map_or(0, |t| t.seconds.saturating_mul(1_000_000_000).saturating_add(t.nanos.into()))
}

fn status_word(status: &EnumOrUnknown<api::Status>) -> String {
    format!("the shim says {:?}", status.value())
}
