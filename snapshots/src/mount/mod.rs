//! Mounts as containerd's API writes them, made and undone.
//!
//! The shim links only this module: it keeps no state, takes no lock and pulls in no dependency beyond the system
//! call crates. Both a single-threaded caller (the shim) and a multi-threaded one (the daemon) may use it: nothing
//! changes the caller's own working directory or namespaces, and nothing forks but the making of an id map.
//!
//! Deliberately absent: loop devices and `mkfs` (a block-backed snapshotter hands over what the kernel can mount), and
//! anything that creates a mount point.

mod detached;
mod idmap;
mod options;
mod overlay;
mod private;
mod read;
mod sys;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use crate::error::{Error, Result};
use options::Options;

pub use detached::open_detached;
pub use read::read_in_root;

/// How many mounts may lie on one target before [`unmount_all`] gives up; nothing of ours stacks more than two.
const STACKED_MAX: usize = 256;

/// One mount, in the shape of containerd's `types.Mount`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// The filesystem: "overlay", "erofs", "bind", ... For a bind the options say `bind` or `rbind` too.
    pub kind: String,
    /// The device or folder, or the filesystem's name where it has neither.
    pub source: String,
    /// Where, relative to the root filesystem and resolved inside it; normally none, the root filesystem itself.
    pub target: Option<String>,
    /// As fstab(5) writes them, one an element.
    pub options: Vec<String>,
}

/// Makes `mounts` in order, the first on `target`; undoes what it made if one fails.
///
/// `target` has to exist and is not followed if it is a symbolic link. Blocks for as long as the kernel takes
/// (an overlay: about 0.2 ms).
///
/// # Errors
/// `Invalid` for options no kernel takes, `Io` with the mount's own words otherwise.
pub fn mount_all(mounts: &[Mount], target: &Path) -> Result<()> {
    let target = absolute(target)?;
    let mut made: Vec<PathBuf> = Vec::with_capacity(mounts.len());
    for m in mounts {
        let result = place(m, &target).and_then(|place| {
            mount_one(m, place.path())?;
            made.push(m.target.as_ref().map_or_else(|| target.clone(), |t| target.join(t.trim_start_matches('/'))));
            Ok(())
        });
        if let Err(error) = result {
            for path in made.iter().rev() {
                // The first error is the one worth telling; a mount that stays is found again by `unmount_all`.
                let _ = umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Unmounts everything that lies on `target`, however many mounts are stacked there, and what is mounted below.
///
/// Succeeds when `target` is not a mount point or is absent. A mount that is busy is detached: it goes when its last
/// user does.
///
/// # Errors
/// `Io` when the kernel refuses for any other reason.
pub fn unmount_all(target: &Path) -> Result<()> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    for _ in 0..STACKED_MAX {
        match umount2(target, flags) {
            Ok(()) => {}
            // Not a mount point, or nothing there at all.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(Errno::EBUSY) if !flags.contains(MntFlags::MNT_DETACH) => flags |= MntFlags::MNT_DETACH,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::io("umount", target, e)),
        }
    }
    Err(Error::io("umount", target, Errno::EBUSY))
}

/// Where a mount goes: the target itself, or a descriptor of a place inside it.
enum Place {
    Target(PathBuf),
    /// The descriptor has to live until the mount is made; the path names it.
    Inside(#[expect(dead_code, reason = "held open for the path beside it")] OwnedFd, PathBuf),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Place::Target(path) | Place::Inside(_, path) => path,
        }
    }
}

/// Resolves a mount's own target inside the root filesystem: a symbolic link in an image must not lead out of it.
fn place(m: &Mount, target: &Path) -> Result<Place> {
    let Some(inside) = &m.target else {
        return Ok(Place::Target(target.to_owned()));
    };
    let root = open_path(target)?;
    let fd = openat2(
        root.as_fd(),
        inside.as_str(),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(|e| Error::io("open mount target", target.join(inside.trim_start_matches('/')), e))?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    Ok(Place::Inside(fd, path))
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|e| Error::io("open", path, e))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io("resolve", path, e))
}

fn mount_one(m: &Mount, target: &Path) -> Result<()> {
    let options = Options::parse(&m.options)?;
    if options.flags.contains(MsFlags::MS_BIND) || m.kind == "bind" || m.kind == "rbind" {
        bind(m, target, &options)?;
    } else if m.kind == "overlay" {
        overlay::mount_overlay(&m.source, target, &options)?;
    } else if options.ids.is_some() {
        return Err(Error::invalid(format!("id maps of a {} mount", m.kind), "only binds and overlays are mapped"));
    } else {
        let data = options.data();
        mount(Some(m.source.as_str()), target, Some(m.kind.as_str()), options.flags, Some(data.as_str()))
            .map_err(|e| Error::io("mount", &m.source, e))?;
    }
    for change in &options.propagation {
        mount(None::<&str>, target, None::<&str>, *change, None::<&str>).map_err(|e| {
            let _ = umount2(target, MntFlags::MNT_DETACH);
            Error::io("set propagation", target, e)
        })?;
    }
    Ok(())
}

/// A bind mount ignores every flag but `MS_REC`; the others take a second call (mount(2), "Bind mounts").
fn bind(m: &Mount, target: &Path, options: &Options<'_>) -> Result<()> {
    let recursive = if m.kind == "rbind" { MsFlags::MS_REC } else { options.flags & MsFlags::MS_REC };
    if !options.data.is_empty() {
        return Err(Error::invalid(format!("bind of {}", m.source), format!("unknown options {}", options.data())));
    }
    match &options.ids {
        Some(ids) => idmap::bind(Path::new(&m.source), target, ids, !recursive.is_empty())?,
        None => mount(Some(m.source.as_str()), target, None::<&str>, MsFlags::MS_BIND | recursive, None::<&str>)
            .map_err(|e| Error::io("bind", &m.source, e))?,
    }
    let flags = options.flags - MsFlags::MS_BIND - MsFlags::MS_REC;
    if flags.is_empty() {
        return Ok(());
    }
    let flags = flags | locked(target);
    mount(None::<&str>, target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags, None::<&str>).map_err(
        |e| {
            let _ = umount2(target, MntFlags::MNT_DETACH);
            Error::io("remount bind of", &m.source, e)
        },
    )
}

/// The flags the source has already: a remount that leaves one out clears it, or fails where it is locked.
fn locked(target: &Path) -> MsFlags {
    use rustix::fs::StatVfsMountFlags as S;
    let Ok(stat) = rustix::fs::statvfs(target) else {
        return MsFlags::empty();
    };
    let pairs = [
        (S::NOSUID, MsFlags::MS_NOSUID),
        (S::NODEV, MsFlags::MS_NODEV),
        (S::NOEXEC, MsFlags::MS_NOEXEC),
        (S::RDONLY, MsFlags::MS_RDONLY),
        (S::NOATIME, MsFlags::MS_NOATIME),
        (S::NODIRATIME, MsFlags::MS_NODIRATIME),
        (S::RELATIME, MsFlags::MS_RELATIME),
    ];
    pairs.into_iter().filter(|(s, _)| stat.f_flag.contains(*s)).map(|(_, m)| m).fold(MsFlags::empty(), |a, b| a | b)
}

#[cfg(test)]
mod tests;
