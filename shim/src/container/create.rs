//! Create: mount the root filesystem, open the streams, let the runtime make the container.

use std::{fs, sync::Arc, time::Duration};

use cleat_snapshots::mount::{Mount, mount_all, unmount_all};
use containerd_shim_protos::{
    api::CreateTaskRequest,
    events::task::{TaskCreate, TaskIO},
};
use protobuf::MessageField;

use super::{Container, exit, life::Life, process::Process};
use crate::{
    bundle::{Bundle, check_id},
    cgroup::{
        Cgroups,
        oom::{Bell, Kills},
    },
    error::{At as _, Error, Result},
    io::{ChildEnds, Io, Owner, Stdio, console},
    options::Options,
    runtime::{Launch, Oci, Streams},
    shim::Shim,
};

/// A runtime that has answered has sent its terminal before.
pub(super) const CONSOLE_DEADLINE: Duration = Duration::from_secs(10);

/// Creates a container and returns its init's pid.
pub async fn create(shim: &Arc<Shim>, request: CreateTaskRequest) -> Result<u32> {
    check_id("container id", &request.id)?;
    if !request.checkpoint.is_empty() {
        return Err(Error::Unsupported("restoring a container from a checkpoint is not supported".into()));
    }
    let reservation = shim.reserve(&request.id)?;
    let bundle = Bundle::new(&request.bundle)?;
    let config = bundle.config()?;
    let options = options(shim, &request)?;
    let runtime = Oci::new(options.clone(), &shim.place.namespace, shim.reaper.clone());
    bundle.save_options(&options, &runtime.binary().to_string_lossy())?;
    mount(&request, &bundle)?;
    // Until the container is known its init's exit belongs to nobody.
    let expecting = shim.reaper.expect();
    let made = make(shim, &request, &bundle, &runtime, &options).await;
    let (io, child) = match made {
        Ok(made) => made,
        Err(e) => {
            let _ = unmount_all(&bundle.rootfs());
            return Err(e);
        }
    };
    drop(expecting);
    let pid = child.process.pid().cast_unsigned();
    let kills = Kills::new(Cgroups::of(child.process.pid()).unwrap_or_default());
    // The event of a memory kill is a hint; who asks reads the counter.
    let bell = if shim.events.wanted() { shim.oom.bell(kills.cgroups()).unwrap_or(Bell::Silent) } else { Bell::Silent };
    let init = Process::new(&request.id, stdio(&request), Life::Created(child.process), Some(io));
    let container = Arc::new(Container {
        id: request.id.clone(),
        bundle,
        runtime,
        options,
        init: Arc::new(init),
        owns_pid_namespace: config.owns_pid_namespace(),
        kills,
        execs: std::sync::Mutex::default(),
    });
    shim.events.publish(event(&request, pid));
    tokio::spawn(exit::of_init(shim.clone(), container.clone(), bell, child.exit));
    reservation.fill(container);
    Ok(pid)
}

fn options(shim: &Shim, request: &CreateTaskRequest) -> Result<Options> {
    let own = request.options.as_ref().map(Options::from_any).transpose()?.flatten();
    Ok(own.unwrap_or_else(|| shim.options.clone()))
}

fn stdio(request: &CreateTaskRequest) -> Stdio {
    Stdio {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    }
}

fn mount(request: &CreateTaskRequest, bundle: &Bundle) -> Result<()> {
    if request.rootfs.is_empty() {
        return Ok(());
    }
    let mounts: Vec<Mount> = request
        .rootfs
        .iter()
        .map(|m| Mount {
            kind: m.type_.clone(),
            source: m.source.clone(),
            target: (!m.target.is_empty()).then(|| m.target.clone()),
            options: m.options.clone(),
        })
        .collect();
    fs::create_dir_all(bundle.rootfs()).at("create", bundle.rootfs())?;
    Ok(mount_all(&mounts, &bundle.rootfs())?)
}

async fn make(
    shim: &Shim,
    request: &CreateTaskRequest,
    bundle: &Bundle,
    runtime: &Oci,
    options: &Options,
) -> Result<(Io, crate::reaper::Child)> {
    let (io, ends) = open(shim, &request.id, &stdio(request), options).await?;
    let console = console(shim, request.terminal)?;
    let launch = Launch {
        id: &request.id,
        bundle,
        streams: handed(ends),
        console: console.as_ref().map(|s| s.path().to_path_buf()),
    };
    let created = async {
        runtime.create(launch).await?;
        if let Some(socket) = console {
            io.attach_console(socket.receive(CONSOLE_DEADLINE).await?)?;
        }
        shim.reaper.watch(bundle.read_pid(None)?)
    };
    match created.await {
        Ok(child) => Ok((io, child)),
        Err(e) => {
            // A runtime that was cut short may have left a container behind; its own error is the one that counts.
            let _ = runtime.delete_force(&request.id, bundle).await;
            Err(e)
        }
    }
}

/// Opens a process's streams.
pub(super) async fn open(shim: &Shim, id: &str, stdio: &Stdio, options: &Options) -> Result<(Io, ChildEnds)> {
    let owner = Owner { uid: options.io_uid, gid: options.io_gid, namespace: &shim.place.namespace, id };
    let (io, ends) = Io::open_for(stdio, &owner)?;
    io.ready().await?;
    Ok((io, ends))
}

/// A socket for the terminal, if there is to be one.
pub(super) fn console(shim: &Shim, terminal: bool) -> Result<Option<console::Socket>> {
    Ok(terminal.then(|| console::Socket::bind(&shim.place.dir)).transpose()?)
}

/// The process's ends as a runtime takes them.
pub(super) fn handed(ends: ChildEnds) -> Streams {
    Streams::Handed { fds: [ends.stdin, ends.stdout, ends.stderr] }
}

fn event(request: &CreateTaskRequest, pid: u32) -> TaskCreate {
    let mut io = TaskIO::new();
    io.stdin = request.stdin.clone();
    io.stdout = request.stdout.clone();
    io.stderr = request.stderr.clone();
    io.terminal = request.terminal;
    let mut event = TaskCreate::new();
    event.container_id = request.id.clone();
    event.bundle = request.bundle.clone();
    event.io = MessageField::some(io);
    event.pid = pid;
    event
}
