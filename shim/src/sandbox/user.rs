//! A pod's namespaces inside a user namespace of its own.
//!
//! A namespace belongs to the user namespace its maker is in, and the shim cannot go there and come back. A child of the
//! shim goes instead: it makes the user namespace, is mapped by the shim, becomes its root, makes the other namespaces
//! and starts the pause process if there is to be one, waits until the shim has opened them all, and ends. The network
//! namespace has to be made here as well, or nobody in the pod may mount sysfs or configure anything.

use std::{
    fmt::Write as _,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::{
    config::{Config, IdRange, Mappings},
    fresh::{Network, settle},
    pins,
};
use crate::{
    error::{At as _, Error, Result},
    sys::{self, Side},
};

/// How long the helper may take for one step; the shim does nothing else meanwhile.
const STEP: Duration = Duration::from_secs(5);
/// The longest answer of a helper.
const ANSWER_MAX_BYTES: usize = 4096;

/// What the helper made.
#[derive(Debug)]
pub struct Made {
    /// The namespaces by their names below `/proc/PID/ns`.
    pub namespaces: Vec<(&'static str, OwnedFd)>,
    /// The pid of the pause process, a child of the shim by now.
    pub pause: Option<i32>,
}

/// Makes the namespaces, with a pid namespace and its pause process if `pid` says so.
pub fn make(config: &Config, mappings: &Mappings, network: Network<'_>, pid: bool) -> Result<Made> {
    let failed = |e: std::io::Error| Error::io("talk to the user namespace's helper", e);
    let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
    ours.set_read_timeout(Some(STEP)).map_err(failed)?;
    let helper = match sys::split()? {
        Side::Parent(helper) => helper,
        Side::Child => {
            drop(ours);
            help(theirs, config, network, pid)
        }
    };
    drop(theirs);
    let made = accompany(&mut ours, helper, config, mappings, network);
    drop(ours);
    if let Some(helper) = Pid::from_raw(helper) {
        if made.is_err() {
            let _ = kill_process(helper, Signal::KILL);
        }
        // It ends as soon as its stream does; no other waiter runs before this returns.
        let _ = waitpid(Some(helper), WaitOptions::empty());
    }
    made
}

fn accompany(
    stream: &mut UnixStream,
    helper: i32,
    config: &Config,
    mappings: &Mappings,
    network: Network<'_>,
) -> Result<Made> {
    hear(stream)?;
    for (file, ranges) in [("uid_map", &mappings.uids), ("gid_map", &mappings.gids)] {
        let path = format!("/proc/{helper}/{file}");
        fs::write(&path, lines(ranges)).at("write", &path)?;
    }
    say(stream, "mapped")?;
    let pause = hear(stream)?;
    let mut namespaces = Vec::new();
    let own = [("user", true), ("ipc", config.own_ipc), ("uts", config.own_uts), ("net", network == Network::New)];
    for (name, _) in own.into_iter().filter(|(_, own)| *own) {
        let path = format!("/proc/{helper}/ns/{name}");
        namespaces.push((name, fs::File::open(&path).at("open", &path)?.into()));
    }
    Ok(Made { namespaces, pause: pause.parse().ok() })
}

/// The helper's life.
fn help(mut stream: UnixStream, config: &Config, network: Network<'_>, pid: bool) -> ! {
    let answer = match inside(&mut stream, config, network, pid) {
        Ok(pause) => pause.map_or_else(|| "ready".to_string(), |pause| pause.to_string()),
        Err(e) => format!("!{e}"),
    };
    let _ = say(&mut stream, &answer);
    // Until the shim has opened what is to stay.
    let _ = stream.read(&mut [0; 1]);
    std::process::exit(0)
}

fn inside(stream: &mut UnixStream, config: &Config, network: Network<'_>, pid: bool) -> Result<Option<i32>> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| Error::io("unshare the user namespace", e))?;
    say(stream, "unmapped")?;
    hear(stream)?;
    let root = |e| Error::io("become the root of the user namespace", e);
    let (gid, uid) = (Gid::from_raw(0), Uid::from_raw(0));
    setgroups(&[]).map_err(root)?;
    setresgid(gid, gid, gid).map_err(root)?;
    setresuid(uid, uid, uid).map_err(root)?;
    settle(config, network, pid)?;
    pid.then(pins::spawn_pause).transpose()
}

fn say(stream: &mut UnixStream, words: &str) -> Result<()> {
    stream.write_all(words.as_bytes()).map_err(|e| Error::io("tell the other side of a user namespace", e))
}

/// One message; each side speaks only after the other, so a read never finds two.
fn hear(stream: &mut UnixStream) -> Result<String> {
    let mut bytes = [0; ANSWER_MAX_BYTES];
    let count = loop {
        match stream.read(&mut bytes) {
            // A child of the shim's ended meanwhile; reads with a timeout are not restarted (signal(7)).
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            read => break read.map_err(|e| Error::io("hear from the other side of a user namespace", e))?,
        }
    };
    let words = String::from_utf8_lossy(&bytes[..count]).into_owned();
    let corrupt = |problem: &str| Error::Corrupt { what: "user namespace".into(), problem: problem.into() };
    match words.strip_prefix('!') {
        Some(error) => Err(corrupt(error)),
        None if words.is_empty() => Err(corrupt("its helper ended without a word")),
        None => Ok(words),
    }
}

/// user_namespaces(7), "User and group ID mappings".
fn lines(ranges: &[IdRange]) -> String {
    let mut text = String::new();
    for IdRange { inside, outside, count } in ranges {
        let _ = writeln!(text, "{inside} {outside} {count}");
    }
    text
}
