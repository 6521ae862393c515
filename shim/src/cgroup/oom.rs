//! Noticing that the kernel killed a process of a container for memory.
//!
//! The cgroup's own counter of kills is the truth; it is read when somebody asks and once more at the container's exit.
//! Watching it live is only for the event: an eventfd on `memory.oom_control` (v1), which also rings for a parent's
//! trouble and at the cgroup's end and therefore counts as a hint, or one inotify instance per shim on `memory.events`
//! (v2; 128 instances are all a user has by default).

use std::{
    collections::HashMap,
    fs,
    io::{self, ErrorKind},
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init, remove_watch},
    io::Errno,
};
use tokio::{io::unix::AsyncFd, sync::Notify, time::sleep};

use super::{Cgroups, Mode};
use crate::{
    error::{At as _, Error, Result},
    sys,
};

/// From a ring of v1 to the count of the kill.
const KILL_DELAY: Duration = Duration::from_millis(20);

/// The kills of one container, remembered after its cgroup is gone.
#[derive(Debug)]
pub struct Kills {
    cgroups: Cgroups,
    /// What the cgroup had counted before the container was started in it.
    before: u64,
    seen: AtomicU64,
}

impl Kills {
    /// Counts from now on.
    pub fn new(cgroups: Cgroups) -> Self {
        let before = cgroups.oom_kills();
        Self { cgroups, before, seen: AtomicU64::new(0) }
    }

    /// The cgroups that are looked at.
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Whether there was one, ever.
    pub fn any(&self) -> bool {
        self.look();
        self.seen.load(Ordering::Relaxed) > 0
    }

    /// Reads the counter; true if it grew since the last time.
    pub fn look(&self) -> bool {
        let now = self.cgroups.oom_kills().saturating_sub(self.before);
        self.seen.fetch_max(now, Ordering::Relaxed) < now
    }
}

/// The one inotify instance of a shim on a v2 host.
#[derive(Debug, Default)]
pub struct Watcher(Mutex<Option<Arc<Inotify>>>);

#[derive(Debug)]
struct Inotify {
    fd: Arc<OwnedFd>,
    watches: Mutex<HashMap<i32, Arc<Notify>>>,
}

impl Inotify {
    fn watches(&self) -> MutexGuard<'_, HashMap<i32, Arc<Notify>>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rings when a container's cgroup may have had a kill.
#[derive(Debug)]
pub enum Bell {
    /// v1.
    Eventfd(AsyncFd<OwnedFd>),
    /// v2.
    Watch(Watch),
    /// Nothing can be watched.
    Silent,
}

/// One file of the inotify instance; given back when dropped.
#[derive(Debug)]
pub struct Watch {
    inotify: Arc<Inotify>,
    descriptor: i32,
    rung: Arc<Notify>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.inotify.watches().remove(&self.descriptor);
        // Fails when the cgroup was removed, which ended the watch.
        let _ = remove_watch(&*self.inotify.fd, self.descriptor);
    }
}

impl Bell {
    /// Waits for the next ring; for ever if there is nothing to ring.
    pub async fn rung(&self) {
        match self {
            Self::Eventfd(fd) => match fd.readable().await {
                Ok(mut ready) => {
                    let _ = rustix::io::read(fd.get_ref(), &mut [0u8; 8]);
                    ready.clear_ready();
                    // v1 rings before it kills and counts.
                    sleep(KILL_DELAY).await;
                }
                Err(_) => std::future::pending().await,
            },
            Self::Watch(watch) => watch.rung.notified().await,
            Self::Silent => std::future::pending().await,
        }
    }
}

impl Watcher {
    /// A bell for a container's memory cgroup.
    pub fn bell(&self, cgroups: &Cgroups) -> Result<Bell> {
        let Some(dir) = cgroups.dir("memory") else { return Ok(Bell::Silent) };
        match cgroups.mode {
            Mode::V1 => Ok(Bell::Eventfd(on_oom_control(dir)?)),
            Mode::V2 => match self.watch(&dir.join(cgroups.oom_file())) {
                Ok(watch) => Ok(Bell::Watch(watch)),
                // The root and hosts without the memory controller have no such file.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(Bell::Silent),
                Err(e) => Err(e),
            },
        }
    }

    fn watch(&self, file: &Path) -> Result<Watch> {
        let inotify = self.instance()?;
        let descriptor = add_watch(&*inotify.fd, file, WatchFlags::MODIFY).at("watch", file)?;
        let rung = Arc::new(Notify::new());
        inotify.watches().insert(descriptor, rung.clone());
        Ok(Watch { inotify, descriptor, rung })
    }

    fn instance(&self) -> Result<Arc<Inotify>> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inotify) = &*place {
            return Ok(inotify.clone());
        }
        let failed = |e: io::Error| Error::io("make an inotify instance", e);
        let fd = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let watched = sys::readable(fd.try_clone().map_err(failed)?).map_err(failed)?;
        let inotify = Arc::new(Inotify { fd: Arc::new(fd), watches: Mutex::default() });
        tokio::spawn(ring(watched, inotify.clone()));
        *place = Some(inotify.clone());
        Ok(inotify)
    }
}

async fn ring(fd: AsyncFd<OwnedFd>, inotify: Arc<Inotify>) {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    while let Ok(mut ready) = fd.readable().await {
        let mut reader = Reader::new(fd.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    if let Some(rung) = inotify.watches().get(&event.wd()) {
                        rung.notify_one();
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(_) => return,
            }
        }
        ready.clear_ready();
    }
}

/// cgroup v1, `Documentation/admin-guide/cgroup-v1/memory.rst`, "OOM Control".
fn on_oom_control(dir: &Path) -> Result<AsyncFd<OwnedFd>> {
    let control = dir.join("memory.oom_control");
    let file = fs::File::open(&control).at("open", &control)?;
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| Error::io("eventfd", e))?;
    let register = dir.join("cgroup.event_control");
    fs::write(&register, format!("{} {}", fd.as_raw_fd(), file.as_raw_fd())).at("write", &register)?;
    sys::readable(fd).map_err(|e| Error::io("watch an eventfd", e))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn v2(dir: &Path, kills: u64) -> Cgroups {
        fs::write(dir.join("memory.events"), format!("oom 9\noom_kill {kills}\n")).unwrap();
        Cgroups::parse("0::/\n", Mode::V2, dir)
    }

    #[test]
    fn kills_count_from_the_start_and_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let kills = Kills::new(v2(dir.path(), 3));
        assert!(!kills.any() && !kills.look());
        v2(dir.path(), 4);
        assert!(kills.look());
        assert!(!kills.look());
        fs::remove_file(dir.path().join("memory.events")).unwrap();
        assert!(kills.any());
    }

    #[tokio::test]
    async fn one_inotify_instance_rings_for_the_right_container() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let watcher = Watcher::default();
        let (first, second) = (watcher.bell(&v2(a.path(), 0)).unwrap(), watcher.bell(&v2(b.path(), 0)).unwrap());
        let inotify = watcher.instance().unwrap();
        assert_eq!(inotify.watches().len(), 2);
        v2(b.path(), 1);
        timeout(SOON, second.rung()).await.unwrap();
        assert!(timeout(Duration::from_millis(50), first.rung()).await.is_err());
        drop((first, second));
        assert!(inotify.watches().is_empty());
    }

    #[tokio::test]
    async fn a_host_without_the_controller_stays_silent() {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::parse("0::/\n", Mode::V2, dir.path());
        assert!(matches!(Watcher::default().bell(&cgroups).unwrap(), Bell::Silent));
        assert!(matches!(Watcher::default().bell(&Cgroups::parse("", Mode::V1, dir.path())).unwrap(), Bell::Silent));
    }
}
