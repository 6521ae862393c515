//! What a container mounts from the host: sources looked up and made, and a folder for each volume of its image.
//!
//! A stat on a dead network file system never returns, so the look has a deadline and names the path; the thread that
//! hangs is lost until the file system answers, the name is free at once.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cleat_proto::cri::v1::ContainerConfig;
use oci_spec::image::ImageConfiguration;

use super::rootfs;
use crate::daemon::Daemon;
use crate::id::ContainerId;
use crate::sandbox::{Files, Sandbox};
use crate::{Error, Result, spec};

/// How long a look at a host path may take.
const LOOK_DEADLINE: Duration = Duration::from_secs(20);

/// Everything outside the image that the spec mounts.
pub(super) struct Found {
    /// /dev/shm of the pod, or the host's.
    pub shm: PathBuf,
    /// Mount sources with links followed, by index.
    pub sources: BTreeMap<usize, PathBuf>,
    /// A folder of ours for each volume of the image, by its place in the container.
    pub anonymous: BTreeMap<PathBuf, PathBuf>,
}

impl Found {
    /// Looks up what the configuration and the image name; makes host folders that are missing, as docker does.
    ///
    /// # Errors
    /// `Invalid` with the mount's path for a source that cannot be; `TimedOut` for one that does not answer.
    pub(super) async fn look(
        daemon: &Daemon,
        id: &ContainerId,
        sandbox: &Sandbox,
        config: &ContainerConfig,
        image: &ImageConfiguration,
    ) -> Result<Self> {
        if let Some((i, image, _)) = spec::mounts::image_sources(config).next() {
            return Err(Error::Unsupported { what: format!("mounts[{i}].image ({}): an image volume", image.image) });
        }
        let wanted: Vec<(usize, PathBuf)> =
            spec::mounts::host_sources(config).map(|(i, path)| (i, path.to_path_buf())).collect();
        let mut sources = BTreeMap::new();
        for (index, path) in wanted {
            let what = format!("a look at mounts[{index}].host_path {}", path.display());
            let looked = crate::blocking(move || source(index, &path));
            let found = tokio::time::timeout(LOOK_DEADLINE, looked);
            sources.insert(index, found.await.map_err(|_| Error::TimedOut { what, after: LOOK_DEADLINE })??);
        }
        let dir = rootfs::dir(daemon, id).join("volumes");
        let places = spec::mounts::image_volumes(config, image)?;
        let anonymous = places.into_iter().enumerate().map(|(n, place)| (place, dir.join(n.to_string()))).collect();
        let host_ipc = spec::namespaces::host_ipc(&sandbox.fixed.config);
        let shm = if host_ipc { "/dev/shm".into() } else { Files::of(&daemon.config, sandbox.id()).shm };
        Ok(Self { shm, sources, anonymous })
    }

    /// Makes the folders of the image's volumes, with what the image has at those places.
    ///
    /// # Errors
    /// `Io`; `Failed` for an image whose snapshot cannot be read.
    pub(super) async fn fill_anonymous(&self, daemon: &Daemon, parent: Option<String>) -> Result<()> {
        for (place, folder) in self.anonymous.clone() {
            let (snapshotter, parent) = (daemon.snapshotter.clone(), parent.clone());
            crate::blocking(move || {
                std::fs::create_dir_all(&folder).map_err(Error::io("mkdir", &folder))?;
                match parent {
                    Some(parent) => copy_up(snapshotter.as_ref(), &parent, &place, &folder),
                    None => Ok(()),
                }
            })
            .await?;
        }
        Ok(())
    }
}

fn source(index: usize, path: &Path) -> Result<PathBuf> {
    let wrong =
        |e: std::io::Error| Error::invalid(format!("mounts[{index}].host_path"), format!("{}: {e}", path.display()));
    match std::fs::canonicalize(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).map_err(wrong)?;
            std::fs::canonicalize(path).map_err(wrong)
        }
        other => other.map_err(wrong),
    }
}

/// Copies a folder of the image, seen through a mount that is nowhere attached, and looked up so that no link leads
/// out of it (CVE-2022-23648).
fn copy_up(snapshotter: &dyn cleat_snapshots::Snapshotter, parent: &str, place: &Path, folder: &Path) -> Result<()> {
    let key = format!("volumes-{}", folder.display());
    let failed = |e: cleat_snapshots::Error| Error::failed(format!("read {} of the image", place.display()), e);
    let mounts = snapshotter.view(&key, Some(parent)).map_err(failed)?;
    let copied = cleat_snapshots::mount::open_detached(&mounts).map_err(failed).and_then(|root| {
        use rustix::fs::{Mode, OFlags, ResolveFlags};
        let relative = place.strip_prefix("/").unwrap_or(place);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat2(&root, relative, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(dir) => {
                copy_dir(&PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&dir))), folder)
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(()),
            Err(e) => Err(Error::io("open", place)(e)),
        }
    });
    snapshotter.remove(&key).map_err(failed)?;
    copied
}

/// Folders, files and links with owner and mode; links are copied as links, devices and the like are left out.
fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    own(to, &std::fs::metadata(from).map_err(Error::io("stat", from))?)?;
    for entry in std::fs::read_dir(from).map_err(Error::io("read", from))? {
        let entry = entry.map_err(Error::io("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = entry.metadata().map_err(Error::io("stat", &source))?;
        if meta.is_dir() {
            std::fs::create_dir(&target).map_err(Error::io("mkdir", &target))?;
            copy_dir(&source, &target)?;
        } else if meta.is_symlink() {
            let link = std::fs::read_link(&source).map_err(Error::io("readlink", &source))?;
            std::os::unix::fs::symlink(link, &target).map_err(Error::io("symlink", &target))?;
            std::os::unix::fs::lchown(&target, Some(meta.uid()), Some(meta.gid()))
                .map_err(Error::io("chown", &target))?;
        } else if meta.is_file() {
            std::fs::copy(&source, &target).map_err(Error::io("copy", &source))?;
            own(&target, &meta)?;
        }
    }
    Ok(())
}

/// chown first: it clears the setuid bits that chmod sets.
fn own(path: &Path, meta: &std::fs::Metadata) -> Result<()> {
    std::os::unix::fs::chown(path, Some(meta.uid()), Some(meta.gid())).map_err(Error::io("chown", path))?;
    let mode = std::fs::Permissions::from_mode(meta.mode() & 0o7777);
    std::fs::set_permissions(path, mode).map_err(Error::io("chmod", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_source_is_made_and_a_bad_one_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let made = source(0, &dir.path().join("a/b")).expect("made");
        assert!(made.is_dir());
        std::fs::write(dir.path().join("file"), "").expect("file");
        let e = source(3, &dir.path().join("file/below")).expect_err("below a file").to_string();
        assert!(e.contains("mounts[3].host_path") && e.contains("file/below"), "{e}");
        std::os::unix::fs::symlink(&made, dir.path().join("link")).expect("link");
        assert_eq!(source(0, &dir.path().join("link")).expect("followed"), made);
    }

    #[test]
    fn a_folder_is_copied_with_links_as_links() {
        let (from, to) = (tempfile::tempdir().expect("from"), tempfile::tempdir().expect("to"));
        std::fs::create_dir(from.path().join("sub")).expect("sub");
        std::fs::write(from.path().join("sub/file"), "x").expect("file");
        std::os::unix::fs::symlink("/etc/passwd", from.path().join("link")).expect("link");
        copy_dir(from.path(), to.path()).expect("copy");
        assert_eq!(std::fs::read(to.path().join("sub/file")).expect("file"), b"x");
        assert_eq!(std::fs::read_link(to.path().join("link")).expect("link"), Path::new("/etc/passwd"));
    }
}
