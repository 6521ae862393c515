//! The socket a shim serves on: its name, and who may already sit there.
//!
//! `unix://DIR/sha256(join(grpc address, namespace, group))`: containerd derives nothing from the name, but two starts of
//! one pod must meet at the same one. Never abstract (CVE-2020-15257); the directory is 0700, the socket 0600.

use std::{
    fmt::Write as _,
    fs,
    io::ErrorKind,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::error::{At as _, Error, Result};

/// The longest path a `sockaddr_un` takes, less its final zero, and one to spare as containerd counts.
const PATH_MAX_BYTES: usize = 106;

/// What binding a shim's socket found.
#[derive(Debug)]
pub enum Bound {
    /// The socket is new and ours.
    New(UnixListener),
    /// A living shim answers there.
    Serving,
}

/// The path of a pod's socket.
pub fn path(dir: &str, grpc_address: &str, namespace: &str, group: &str) -> Result<PathBuf> {
    let name = [grpc_address, namespace, group].join("/");
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(name.as_bytes()) {
        let _ = write!(hex, "{byte:02x}");
    }
    let path = Path::new(dir).join(hex);
    if path.as_os_str().len() > PATH_MAX_BYTES {
        return Err(Error::Invalid(format!("socket path {} is longer than {PATH_MAX_BYTES} bytes", path.display())));
    }
    Ok(path)
}

/// Binds the socket, or finds that a shim already serves there; a dead one's socket is taken over.
pub fn bind(path: &Path) -> Result<Bound> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).at("create", dir)?;
    // Two starts that both find a dead socket must not remove each other's new one.
    let lock = fs::File::open(dir).at("open", dir)?;
    lock.lock().at("lock", dir)?;
    match listen(path) {
        Err(e) if e.kind() == ErrorKind::AddrInUse => {}
        bound => return bound.at("bind", path).map(Bound::New),
    }
    if UnixStream::connect(path).is_ok() {
        return Ok(Bound::Serving);
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).at("remove", path),
        _ => {}
    }
    listen(path).at("bind", path).map(Bound::New)
}

fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    // The directory, 0700, closes the moment between bind and chmod.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_depends_on_daemon_namespace_and_group() {
        let name = |a, n, g| path("/run/s", a, n, g).unwrap();
        let base = name("/c.sock", "k8s.io", "p1");
        assert_eq!(base.as_os_str().len(), "/run/s/".len() + 64);
        assert_eq!(base, name("/c.sock", "k8s.io", "p1"));
        for other in [name("/d.sock", "k8s.io", "p1"), name("/c.sock", "moby", "p1"), name("/c.sock", "k8s.io", "p2")] {
            assert_ne!(base, other);
        }
        assert!(path(&"d".repeat(50), "a", "b", "c").is_err());
    }

    #[test]
    fn a_living_socket_is_reused_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s/sock");
        let Bound::New(first) = bind(&path).unwrap() else { panic!("a fresh socket is new") };
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.path().join("s")).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(bind(&path).unwrap(), Bound::Serving));
        drop(first);
        assert!(matches!(bind(&path).unwrap(), Bound::New(_)));
    }
}
