//! Fresh namespaces for the process that calls, set up as the pod wants them.

use std::{fs, path::Path};

use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::sethostname,
};

use super::{config::Config, sys};
use crate::error::{At as _, Error, Result};

/// Where the pod's network namespace comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network<'a> {
    /// The node's.
    Nodes,
    /// Made by somebody else.
    At(&'a Path),
    /// To be made, with `lo` up.
    New,
}

/// Moves into fresh namespaces and sets them up. With `pid`, the next child is the first of a new pid namespace.
pub fn settle(config: &Config, network: Network<'_>, pid: bool) -> Result<()> {
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWIPC, config.own_ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, config.own_uts);
    flags.set(CloneFlags::CLONE_NEWPID, pid);
    flags.set(CloneFlags::CLONE_NEWNET, network == Network::New);
    unshare(flags).map_err(|e| Error::io(format!("unshare {flags:?}"), e))?;
    if config.own_uts && !config.hostname.is_empty() {
        let what = || format!("set the host name {:?}", config.hostname);
        sethostname(&config.hostname).map_err(|e| Error::io(what(), e))?;
    }
    match network {
        Network::Nodes => {}
        Network::At(path) => {
            let file = fs::File::open(path).at("open", path)?;
            let entered = setns(file, CloneFlags::CLONE_NEWNET);
            entered.map_err(|e| Error::io(format!("enter {}", path.display()), e))?;
        }
        Network::New => sys::bring_up_loopback().map_err(|e| Error::io("bring up lo", e))?,
    }
    for (name, value) in &config.sysctls {
        let file = Path::new("/proc/sys").join(name);
        fs::write(&file, value).at("write", &file)?;
    }
    Ok(())
}
