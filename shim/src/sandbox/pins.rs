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

use nix::sched::{CloneFlags, setns};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    config::{Config, Mappings},
    fresh::{Network, settle},
    orphan, user,
};
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
    /// Named in the bundle for as long as they are open.
    held: Vec<OwnedFd>,
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
    /// The pod's network namespace; empty for the node's, and for one that is to be made in a user namespace.
    pub netns: &'a Path,
    /// Whether the pod needs a process of its own, whatever its configuration says.
    pub process: bool,
    /// Where the namespaces are named.
    pub bundle: &'a Bundle,
}

impl<'a> Wanted<'a> {
    fn network(&self) -> Result<Network<'a>> {
        let given = !self.netns.as_os_str().is_empty();
        match (self.config.own_uts, given, &self.config.user) {
            (false, _, _) => Ok(Network::Nodes),
            (true, true, None) => Ok(Network::At(self.netns)),
            (true, false, Some(_)) => Ok(Network::New),
            // The pod's sysctls would be written into the node's.
            (true, false, None) => Err(Error::Invalid("a pod with a network of its own needs its netns_path".into())),
            (true, true, Some(_)) => Err(Error::Invalid(
                "a pod with a user namespace gets its network namespace from the shim: netns_path must be empty".into(),
            )),
        }
    }
}

impl Pins {
    /// Makes the namespaces. Blocks the shim for about a third of a millisecond, with a user namespace for two.
    pub fn make(wanted: &Wanted<'_>, reaper: &Reaper) -> Result<Pinned> {
        let dir = wanted.bundle.join("ns");
        fs::create_dir_all(&dir).at("create", &dir)?;
        let mut pins = Self { held: Vec::new(), dir };
        let network = wanted.network()?;
        let own_pid = wanted.config.shared_pid || wanted.process;
        let pause = match &wanted.config.user {
            Some(mappings) => pins.make_elsewhere(wanted.config, mappings, network, own_pid)?,
            None => pins.make_here(wanted.config, network, own_pid)?,
        };
        let pause = pause.map(|pid| reaper.watch(pid)).transpose()?;
        if let Some(pause) = &pause {
            let pid = pause.process.pid();
            let named = pins.name("pid", &format!("/proc/{pid}/ns/pid"));
            named.and_then(|()| orphan::note(wanted.bundle, pid)).inspect_err(|_| end(pause))?;
        }
        Ok(Pinned { pins, pause })
    }

    /// Goes to the namespaces and comes back.
    fn make_here(&mut self, config: &Config, network: Network<'_>, pid: bool) -> Result<Option<i32>> {
        let home = Home::open()?;
        let away = settle(config, network, pid).and_then(|()| {
            for (name, _) in [("ipc", config.own_ipc), ("uts", config.own_uts)].into_iter().filter(|(_, own)| *own) {
                self.hold(name, open(&format!("/proc/self/ns/{name}"))?.into())?;
            }
            pid.then(spawn_pause).transpose()
        });
        let back = home.back();
        if let (Ok(Some(pause)), Err(_)) = (&away, &back) {
            kill(*pause);
        }
        back.and(away)
    }

    /// Has the namespaces made in a user namespace.
    fn make_elsewhere(
        &mut self,
        config: &Config,
        mappings: &Mappings,
        network: Network<'_>,
        pid: bool,
    ) -> Result<Option<i32>> {
        let made = user::make(config, mappings, network, pid)?;
        for (name, namespace) in made.namespaces {
            if let Err(e) = self.hold(name, namespace) {
                made.pause.into_iter().for_each(kill);
                return Err(e);
            }
        }
        Ok(made.pause)
    }

    fn hold(&mut self, name: &str, namespace: OwnedFd) -> Result<()> {
        self.name(name, &format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()))?;
        self.held.push(namespace);
        Ok(())
    }

    fn name(&self, name: &str, target: &str) -> Result<()> {
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
fn end(pause: &Child) {
    let _ = pause.process.signal(libc::SIGKILL);
}

/// The same before it is watched: a child that was not collected keeps its pid.
fn kill(pause: i32) {
    if let Some(pid) = Pid::from_raw(pause) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Starts the pause process in the namespaces this process is in at this moment.
pub(super) fn spawn_pause() -> Result<i32> {
    let child = Command::new(SELF)
        .arg("pause")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Error::io("start the pause process", e))?;
    Ok(child.id().cast_signed())
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

fn open(path: &str) -> Result<fs::File> {
    fs::File::open(path).at("open", path)
}
