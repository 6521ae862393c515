//! `containerd.task.v3.Task`, and under its older name v2: each RPC validates, calls one verb and converts.

use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
        DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
        ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse,
        StatsRequest, StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    shim_async::Task,
};
use protobuf::{MessageField, well_known_types::any::Any};
use ttrpc::r#async::TtrpcContext;

use crate::{
    container::{
        create, delete, exec,
        kill::{self, Target},
        life::Life,
        pause, pids,
        process::Process,
        start, update,
    },
    error::{Error, Result},
    shim::Shim,
};

type Reply<T> = ttrpc::Result<T>;

/// The Task service of a shim.
#[derive(Debug)]
pub struct TaskService(pub Arc<Shim>);

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Reply<StateResponse> {
        let container = self.0.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let mut response = state(&process);
        response.id = request.id;
        response.exec_id = request.exec_id;
        response.bundle = container.bundle.path().display().to_string();
        Ok(response)
    }

    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Reply<CreateTaskResponse> {
        let mut response = CreateTaskResponse::new();
        response.pid = create::create(&self.0, request).await?;
        Ok(response)
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Reply<StartResponse> {
        let container = self.0.container(&request.id)?;
        let mut response = StartResponse::new();
        response.pid = start::start(&self.0, &container, &request.exec_id).await?;
        Ok(response)
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Reply<DeleteResponse> {
        let container = self.0.container(&request.id)?;
        let deleted = delete::delete(&self.0, &container, &request.exec_id).await?;
        let mut response = DeleteResponse::new();
        response.pid = deleted.pid;
        if let Some(exit) = deleted.exit {
            response.exit_status = exit.status;
            response.exited_at = MessageField::some(exit.at.into());
        }
        Ok(response)
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Reply<Empty> {
        let container = self.0.container(&request.id)?;
        pause::pause(&self.0, &container).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Reply<Empty> {
        let container = self.0.container(&request.id)?;
        pause::resume(&self.0, &container).await?;
        Ok(Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, request: CheckpointTaskRequest) -> Reply<Empty> {
        Err(Error::Unsupported(format!("checkpoint of {:?}: this shim makes no checkpoints", request.id)).into())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Reply<Empty> {
        let container = self.0.container(&request.id)?;
        let target = if request.all { Target::All } else { Target::One(&request.exec_id) };
        kill::kill(&container, target, request.signal).await?;
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Reply<Empty> {
        let container = self.0.container(&request.id)?;
        exec::exec(&self.0, &container, &request)?;
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Reply<Empty> {
        self.process(&request.id, &request.exec_id)?.resize(request.width, request.height)?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Reply<Empty> {
        let process = self.process(&request.id, &request.exec_id)?;
        if request.stdin {
            process.close_stdin();
        }
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Reply<WaitResponse> {
        let exit = self.process(&request.id, &request.exec_id)?.wait().await;
        let mut response = WaitResponse::new();
        response.exit_status = exit.status;
        response.exited_at = MessageField::some(exit.at.into());
        Ok(response)
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Reply<ConnectResponse> {
        let mut response = ConnectResponse::new();
        response.shim_pid = std::process::id();
        if let Ok(container) = self.0.container(&request.id) {
            response.task_pid = container.init.life().pid().cast_unsigned();
        }
        response.version = env!("CARGO_PKG_VERSION").into();
        Ok(response)
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Reply<PidsResponse> {
        let mut response = PidsResponse::new();
        response.processes = pids::pids(&*self.0.container(&request.id)?)?;
        Ok(response)
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Reply<Empty> {
        let container = self.0.container(&request.id)?;
        update::update(&container, &request.resources).await?;
        Ok(Empty::new())
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Reply<StatsResponse> {
        let stats = self.0.container(&request.id)?.kills.cgroups().stats()?;
        let mut any = Any::new();
        any.type_url = stats.type_url.into();
        any.value = stats.value;
        let mut response = StatsResponse::new();
        response.stats = MessageField::some(any);
        Ok(response)
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Reply<Empty> {
        if self.0.is_idle() && self.0.sandbox.is_none() {
            self.0.stop.notify_one();
        }
        Ok(Empty::new())
    }
}

impl TaskService {
    fn process(&self, id: &str, exec: &str) -> Result<Arc<Process>> {
        self.0.container(id)?.process(exec)
    }
}

fn state(process: &Process) -> StateResponse {
    let life = process.life();
    let stdio = process.stdio();
    let mut response = StateResponse::new();
    response.pid = life.pid().cast_unsigned();
    response.status = status(&life).into();
    response.stdin = stdio.stdin.clone();
    response.stdout = stdio.stdout.clone();
    response.stderr = stdio.stderr.clone();
    response.terminal = stdio.terminal;
    if let Some(exit) = life.exit() {
        response.exit_status = exit.status;
        response.exited_at = MessageField::some(exit.at.into());
    }
    response
}

fn status(life: &Life) -> Status {
    match life {
        Life::Added | Life::Created(_) => Status::CREATED,
        Life::Running(_) => Status::RUNNING,
        Life::Paused(_) => Status::PAUSED,
        Life::Stopped(_) => Status::STOPPED,
        Life::Deleted => Status::UNKNOWN,
    }
}
