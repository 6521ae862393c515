//! CreateContainer: everything that can be refused is refused first, then the record, the snapshot and the bundle.

use std::path::Path;
use std::sync::Arc;

use cleat_proto::cri::v1::ContainerConfig;
use oci_spec::runtime::Spec;
use prost::Message;

use super::{Container, Fixed, Image, State, User, discard, name, rootfs, volumes};
use crate::daemon::Daemon;
use crate::id::ContainerId;
use crate::images;
use crate::sandbox::{Files, Phase, Sandbox};
use crate::spec::{self, Input};
use crate::{Error, Result, tasks};

/// Creates a container in a ready sandbox and returns its id. A second request for the same container joins the first,
/// or gets its id if that container is still as it was created.
///
/// # Errors
/// `NotFound` for the sandbox or the image, `WrongState`, `Invalid` with the field's path, `AlreadyExists` for a name
/// in use by a different request. Source: CRI api.proto, CreateContainer.
pub async fn create(daemon: &Arc<Daemon>, sandbox: &str, config: ContainerConfig) -> Result<String, Arc<Error>> {
    let sandbox = daemon.pods.sandbox(sandbox)?;
    spec::validate::container_config(&config, &sandbox.fixed.config)?;
    let (owner, name) = (daemon.clone(), name(sandbox.id(), &config));
    daemon
        .claims
        .join(&name, config.encode_to_vec(), async move {
            let _pod = sandbox.op.clone().read_owned().await;
            if sandbox.state().phase != Phase::Ready {
                return Err(sandbox.state().wrong(sandbox.id(), "ready"));
            }
            match existing(&owner, &sandbox, &config)? {
                Some(id) => Ok(id),
                None => make(&owner, &sandbox, config).await,
            }
        })
        .await
}

/// The container of that name, if this is the request that made it and it has not been started.
fn existing(daemon: &Daemon, sandbox: &Sandbox, config: &ContainerConfig) -> Result<Option<String>> {
    let name = name(sandbox.id(), config);
    let mut others = daemon.pods.containers_of(sandbox.id()).into_iter();
    let Some(first) = others.find(|c| self::name(sandbox.id(), &c.fixed.config) == name) else { return Ok(None) };
    if first.fixed.config == *config && first.state() == State::Created {
        return Ok(Some(first.id().to_string()));
    }
    Err(Error::AlreadyExists { kind: "container", id: format!("{name} (held by {})", first.id()) })
}

async fn make(daemon: &Arc<Daemon>, sandbox: &Sandbox, config: ContainerConfig) -> Result<String> {
    let (image, root) = image(daemon, &config).await?;
    let id = ContainerId::random()?;
    let found = volumes::Found::look(daemon, &id, sandbox, &config, &root.config).await?;
    let spec = write_spec(daemon, sandbox, &id, &config, &root, &found)?;
    let fixed = Fixed {
        sandbox: sandbox.id().clone(),
        image: Image {
            id: image.id.to_string(),
            digest: image.repo_digests.first().cloned().unwrap_or_default(),
            stop_signal: root.config.config().as_ref().and_then(|c| c.stop_signal().clone()).unwrap_or_default(),
        },
        created_at: crate::clock::now(),
        log_path: log_path(sandbox, &config),
        user: user(&spec),
        config,
        id,
    };
    let container = Container::new(fixed, State::Creating);
    container.advance(&daemon.store, |s, _| Ok(s)).await?;
    daemon.pods.insert_container(container.clone());
    match fill(daemon, &container, &root, &found, &spec).await {
        Ok(()) => Ok(container.id().to_string()),
        Err(e) => {
            if let Err(left) = discard(daemon, &container).await {
                tracing::error!(container = %container.id(), error = %left, "a failed container could not be undone");
            }
            Err(e)
        }
    }
}

async fn image(daemon: &Daemon, config: &ContainerConfig) -> Result<(images::Image, images::Rootfs)> {
    let name = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
    let image = daemon.images.get(&name).await?.ok_or_else(|| Error::not_found("image", &name))?;
    let root = daemon.images.rootfs(&image.id).await?;
    Ok((image, root))
}

/// The side effects: from here on a failure is undone by removing the container.
async fn fill(
    daemon: &Daemon,
    container: &Container,
    root: &images::Rootfs,
    found: &volumes::Found,
    spec: &Spec,
) -> Result<()> {
    rootfs::prepare(daemon, container.id(), root.chain_id.clone()).await?;
    found.fill_anonymous(daemon, root.chain_id.clone()).await?;
    let bundle = tasks::bundle(&daemon.config.state, container.id().as_str());
    let json = serde_json::to_vec(spec).map_err(|e| Error::corrupt("the runtime spec", e))?;
    write_bundle(&bundle, &json)?;
    container.advance(&daemon.store, |s, id| s.created(id)).await
}

fn write_bundle(bundle: &Path, spec: &[u8]) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let rootfs = bundle.join("rootfs");
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(&rootfs).map_err(Error::io("mkdir", &rootfs))?;
    let file = bundle.join("config.json");
    std::fs::write(&file, spec).map_err(Error::io("write", &file))
}

fn write_spec(
    daemon: &Daemon,
    sandbox: &Sandbox,
    id: &ContainerId,
    config: &ContainerConfig,
    root: &images::Rootfs,
    found: &volumes::Found,
) -> Result<Spec> {
    let handler = daemon
        .config
        .runtimes
        .get(&sandbox.fixed.handler)
        .ok_or_else(|| Error::not_found("runtime handler", &sandbox.fixed.handler))?;
    let accounts = spec::Accounts::new(root.accounts.passwd.clone(), root.accounts.group.clone())?;
    let files = Files::of(&daemon.config, sandbox.id());
    let shared = spec::Volumes {
        hosts: Some(&files.hosts()),
        resolv_conf: Some(&files.resolv_conf()),
        hostname: Some(&files.hostname()),
        shm: Some(&found.shm),
        resolved: Some(&found.sources),
        anonymous: Some(&found.anonymous),
    };
    check_propagation(config, &shared)?;
    spec::container(&Input {
        id,
        sandbox: spec::Sandbox {
            id: sandbox.id(),
            config: &sandbox.fixed.config,
            namespaces: &namespaces(daemon, sandbox, config)?,
        },
        config,
        image: &root.config,
        image_name: &config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
        accounts: &accounts,
        probed: &spec::Probed::read(config, handler)?,
        host: &daemon.host,
        features: daemon.features(&sandbox.fixed.handler),
        handler,
        containers: &daemon.config.containers,
        cgroup: &cgroup(daemon, sandbox, handler)?,
        volumes: shared,
    })
}

/// The machine's mounts are read only where a mount wants more than its own.
fn check_propagation(config: &ContainerConfig, volumes: &spec::Volumes<'_>) -> Result<()> {
    if config.mounts.iter().all(|m| m.propagation == 0) {
        return Ok(());
    }
    let path = "/proc/self/mountinfo";
    let mounts = std::fs::read(path).map_err(Error::io("read", path))?;
    spec::mounts::check_propagation(config, volumes, &mounts)
}

fn cgroup(daemon: &Daemon, sandbox: &Sandbox, handler: &crate::config::Runtime) -> Result<spec::cgroup::Parent> {
    let asked = sandbox.fixed.config.linux.as_ref().map(|l| l.cgroup_parent.as_str()).unwrap_or_default();
    let path = if asked.is_empty() { daemon.config.cgroup.pods.as_str() } else { asked };
    let driver = if handler.systemd_cgroup { spec::cgroup::Driver::Systemd } else { spec::cgroup::Driver::Cgroupfs };
    spec::cgroup::Parent::new(path, driver)
}

/// Where the shim pins the pod's namespaces; the host's where the pod has none of its own.
fn namespaces(daemon: &Daemon, sandbox: &Sandbox, config: &ContainerConfig) -> Result<spec::Namespaces> {
    let pod = &sandbox.fixed.config;
    let pinned = tasks::bundle(&daemon.config.state, sandbox.id().as_str()).join("ns");
    Ok(spec::Namespaces {
        net: sandbox.netns(&daemon.config.state),
        uts: (!sandbox.host_network()).then(|| pinned.join("uts")),
        ipc: (!spec::namespaces::host_ipc(pod)).then(|| pinned.join("ipc")),
        pid: (sandbox.state().pid > 0).then(|| pinned.join("pid")),
        user: None,
        target_pid: target(daemon, sandbox, config)?,
    })
}

/// The pid namespace of the container that `target_id` names: one of the same pod that runs.
fn target(daemon: &Daemon, sandbox: &Sandbox, config: &ContainerConfig) -> Result<Option<std::path::PathBuf>> {
    use cleat_proto::cri::v1::NamespaceMode;
    let security = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
    let Some(options) = security.and_then(|s| s.namespace_options.as_ref()) else { return Ok(None) };
    if options.pid() != NamespaceMode::Target {
        return Ok(None);
    }
    let field = "linux.security_context.namespace_options.target_id";
    let target = daemon.pods.container(&options.target_id)?;
    if target.fixed.sandbox != *sandbox.id() {
        return Err(Error::invalid(field, format!("container {} is in another pod", target.id())));
    }
    let pid = target.state().pid().ok_or_else(|| Error::invalid(field, "the target does not run"))?;
    Ok(Some(format!("/proc/{pid}/ns/pid").into()))
}

fn log_path(sandbox: &Sandbox, config: &ContainerConfig) -> String {
    let directory = &sandbox.fixed.config.log_directory;
    if directory.is_empty() || config.log_path.is_empty() {
        return String::new();
    }
    Path::new(directory).join(&config.log_path).display().to_string()
}

fn user(spec: &Spec) -> Option<User> {
    let user = spec.process().as_ref()?.user();
    Some(User { uid: user.uid(), gid: user.gid(), groups: user.additional_gids().clone().unwrap_or_default() })
}
