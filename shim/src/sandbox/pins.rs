//! A pod's namespaces, made and held by the shim itself instead of by a pause container.
//!
//! The shim has one thread. In one stretch without an await it moves into fresh namespaces, sets them up, opens them, and
//! moves back; whatever fails on the way, [`Home`] moves it back. The open descriptors are what keeps the namespaces; other
//! processes reach them through symlinks in the bundle, `ns/ipc -> /proc/SHIM/fd/N`, so that nothing has to be unmounted
//! and nothing is left when the shim is gone. A pid namespace needs a first process: the shim's own binary as `pause`,
//! born in there and a member of all the others.

use std::{
    fs,
    io::ErrorKind,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sched::{CloneFlags, setns, unshare};

use super::config::Config;
use crate::{
    bundle::Bundle,
    error::{At as _, Error, Result},
    reaper::{Child, Reaper},
};

/// The binary that is running, even after an upgrade has replaced it.
const SELF: &str = "/proc/self/exe";

/// The namespaces of one pod.
#[derive(Debug)]
pub struct Pins {
    /// Held open, and named in the bundle.
    _held: Vec<OwnedFd>,
    dir: PathBuf,
}

/// The pins and the first process of the shared pid namespace, if there is one.
#[derive(Debug)]
pub struct Pinned {
    /// The namespaces.
    pub pins: Pins,
    /// The pause process.
    pub pause: Option<Child>,
}

/// What to pin.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The pod's namespaces.
    pub config: &'a Config,
    /// The pod's network namespace; empty for the node's.
    pub netns: &'a Path,
    /// Whether the pod needs a process of its own, whatever its configuration says.
    pub process: bool,
    /// Where the namespaces are named.
    pub bundle: &'a Bundle,
}

impl Pins {
    /// Makes the namespaces. Blocks the shim for about a third of a millisecond.
    pub fn make(wanted: &Wanted<'_>, reaper: &Reaper) -> Result<Pinned> {
        let dir = wanted.bundle.join("ns");
        fs::create_dir_all(&dir).at("create", &dir)?;
        let mut pins = Self { _held: Vec::new(), dir };
        let home = Home::open()?;
        let away = pins.settle(wanted, reaper);
        let back = home.back();
        let pause = match (away, back) {
            (Ok(pause), Ok(())) => pause,
            (Ok(pause), Err(e)) => {
                end(pause.as_ref());
                return Err(e);
            }
            (Err(e), _) => return Err(e),
        };
        if let Some(pause) = &pause
            && let Err(e) = pins.name_of("pid", &format!("/proc/{}/ns/pid", pause.process.pid()))
        {
            end(Some(pause));
            return Err(e);
        }
        Ok(Pinned { pins, pause })
    }

    fn settle(&mut self, wanted: &Wanted<'_>, reaper: &Reaper) -> Result<Option<Child>> {
        let config = wanted.config;
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWIPC, config.own_ipc);
        flags.set(CloneFlags::CLONE_NEWUTS, config.own_uts);
        let own_pid = config.shared_pid || wanted.process;
        flags.set(CloneFlags::CLONE_NEWPID, own_pid);
        unshare(flags).map_err(|e| Error::io(format!("unshare {flags:?}"), e))?;
        if config.own_uts && !config.hostname.is_empty() {
            let what = || format!("set the host name {:?}", config.hostname);
            nix::unistd::sethostname(&config.hostname).map_err(|e| Error::io(what(), e))?;
        }
        if !wanted.netns.as_os_str().is_empty() {
            enter(wanted.netns, CloneFlags::CLONE_NEWNET)?;
        }
        for (name, value) in &config.sysctls {
            let file = Path::new("/proc/sys").join(name);
            fs::write(&file, value).at("write", &file)?;
        }
        for (own, name) in [(config.own_ipc, "ipc"), (config.own_uts, "uts")] {
            if own {
                let fd = OwnedFd::from(open(&format!("/proc/self/ns/{name}"))?);
                self.name_of(name, &format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()))?;
                self._held.push(fd);
            }
        }
        own_pid.then(|| pause(reaper)).transpose()
    }

    fn name_of(&self, name: &str, target: &str) -> Result<()> {
        let link = self.dir.join(name);
        match fs::remove_file(&link) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e).at("remove", &link),
            _ => symlink(target, &link).at("symlink", &link),
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Ends a pause process that nobody is going to use.
fn end(pause: Option<&Child>) {
    if let Some(pause) = pause {
        let _ = pause.process.signal(libc::SIGKILL);
    }
}

/// Starts the pause process in the namespaces the shim is in at this moment.
fn pause(reaper: &Reaper) -> Result<Child> {
    let child = Command::new(SELF)
        .arg("pause")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Error::io("start the pause process", e))?;
    reaper.watch(child.id().cast_signed())
}

/// The shim's own namespaces, to come back to.
struct Home(Vec<(fs::File, CloneFlags)>);

impl Home {
    fn open() -> Result<Self> {
        let own = [
            ("ipc", CloneFlags::CLONE_NEWIPC),
            ("uts", CloneFlags::CLONE_NEWUTS),
            ("net", CloneFlags::CLONE_NEWNET),
            ("pid", CloneFlags::CLONE_NEWPID),
        ];
        own.into_iter()
            .map(|(name, flag)| Ok((open(&format!("/proc/self/ns/{name}"))?, flag)))
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Goes back to every one of them. A shim that cannot is lost: its next container would land in a pod's namespaces.
    fn back(self) -> Result<()> {
        for (file, flag) in &self.0 {
            setns(file, *flag).map_err(|e| Error::io(format!("return to the shim's own namespace ({flag:?})"), e))?;
        }
        Ok(())
    }
}

fn enter(path: &Path, kind: CloneFlags) -> Result<()> {
    let file = open(&path.display().to_string())?;
    setns(file, kind).map_err(|e| Error::io(format!("enter {}", path.display()), e))
}

fn open(path: &str) -> Result<fs::File> {
    fs::File::open(path).at("open", path)
}
