//! Everything the daemon's verbs share, opened once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cleat_snapshots::Snapshotter;
use tokio::task::JoinSet;

use crate::claims::Claims;
use crate::cni::Cni;
use crate::config::Config;
use crate::features::Asked;
use crate::images::{Images, embedded::Embedded};
use crate::pods::Pods;
use crate::spec::{Features, Host};
use crate::store::Store;
use crate::streaming::Streaming;
use crate::{Error, Result};

/// How long a lock that another daemon holds is tried for.
const LOCK_DEADLINE: Duration = Duration::from_secs(3);

/// The daemon's parts.
pub struct Daemon {
    /// As it was read at start.
    pub config: Config,
    /// What this machine can do.
    pub host: Host,
    /// Tells one boot of the machine from the next.
    pub boot_id: String,
    /// Pods and containers on disk.
    pub store: Store,
    /// Pods and containers in memory.
    pub pods: Pods,
    /// Names in the making.
    pub claims: Arc<Claims>,
    /// Images and their layers.
    pub images: Arc<dyn Images>,
    /// Root filesystems.
    pub snapshotter: Arc<dyn Snapshotter>,
    /// Pod networks.
    pub cni: Arc<Cni>,
    /// Where exec, attach and port-forward are served.
    pub streaming: Arc<Streaming>,
    features: Asked,
    tasks: Mutex<JoinSet<()>>,
    _lock: fs::File,
}

impl Daemon {
    /// Makes the folders, opens stores and watchers. Nothing is recovered yet. Blocks.
    ///
    /// # Errors
    /// `WrongState` where another daemon has this state folder; `Io` and `Corrupt` with the path.
    pub fn open(config: Config) -> Result<Arc<Self>> {
        make_dir(&config.root, 0o700)?;
        make_dir(&config.state, 0o711)?;
        make_dir(&config.state.join("s"), 0o700)?;
        make_dir(&config.state.join("netns"), 0o711)?;
        let lock = lock(&config.state)?;
        // Fifos of commands that the last daemon was executing: their readers died with it.
        crate::sandbox::remove_dir(&config.state.join("exec"))?;
        let snapshotter = snapshotter(&config)?;
        let images = Embedded::open(&config, snapshotter.clone())?;
        Ok(Arc::new(Self {
            host: Host::detect()?,
            boot_id: read("/proc/sys/kernel/random/boot_id")?,
            store: Store::open(&config.root.join("pods.db"))?,
            pods: Pods::default(),
            claims: Arc::default(),
            images,
            snapshotter,
            cni: Cni::open(&config.cni)?,
            streaming: Arc::new(Streaming::open(&config.streaming)?),
            features: Asked::new(&config),
            tasks: Mutex::default(),
            _lock: lock,
            config,
        }))
    }

    /// What a handler's OCI runtime can do; empty is the default handler.
    pub fn features(&self, handler: &str) -> Features {
        self.config.handler(handler).map(|name| self.features.of(name)).unwrap_or_default()
    }

    /// Runs a task that the daemon owns: it ends with the daemon at the latest.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

fn snapshotter(config: &Config) -> Result<Arc<dyn Snapshotter>> {
    let kind = config.images.snapshotter.as_str();
    let root = config.root.join("snapshots").join(kind);
    make_dir(&root, 0o700)?;
    let failed = |e| Error::failed(format!("open the {kind} snapshotter"), e);
    match kind {
        "overlay" => Ok(Arc::new(cleat_snapshots::overlay::Overlay::open(&root).map_err(failed)?)),
        "native" => Ok(Arc::new(cleat_snapshots::native::Native::open(&root).map_err(failed)?)),
        _ => Err(Error::invalid("images.snapshotter", format!("{kind:?} is neither overlay nor native"))),
    }
}

fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io("mkdir", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(Error::io("chmod", dir))
}

/// Two daemons over one state would undo each other's pods. One that was just killed holds the lock until its last
/// thread has gone, so a held lock is tried again for a while.
fn lock(state: &Path) -> Result<fs::File> {
    let path = state.join("cleatd.lock");
    let file = fs::File::create(&path).map_err(Error::io("open", &path))?;
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::WrongState {
                    kind: "state folder",
                    id: state.display().to_string(),
                    state: "in use by another cleatd",
                    wanted: "free",
                });
            }
            Err(e) => return Err(Error::io("lock", path)(e)),
        }
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map(|text| text.trim().to_string()).map_err(Error::io("read", path))
}
