//! How a terminal comes to the shim: the OCI runtime connects to a socket and sends the master's descriptor over it.
//!
//! The socket lives in a directory of the caller's, is open to root only, and is removed when dropped. Deliberately absent:
//! terminals made here. The runtime makes them, inside the container's own devpts.

use std::{
    fs::{self, Permissions},
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::{
    fd::{AsFd, OwnedFd},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    termios::{Winsize, isatty, tcsetwinsize},
};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::error::{Error, Result};

/// The longest path a unix socket may have, in bytes (unix(7), `sun_path` less its NUL).
const LONGEST_PATH: usize = 107;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A socket that waits for one terminal.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens on a fresh socket in `dir`, which must exist; within a tokio runtime.
    ///
    /// The runtimes connect by this very path, so it must be short: `Invalid` if it exceeds a socket's limit.
    pub fn bind(dir: &Path) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("tty{}-{number}", std::process::id()));
        if path.as_os_str().len() > LONGEST_PATH {
            return Err(Error::Invalid(format!("console socket {}: longer than {LONGEST_PATH} bytes", path.display())));
        }
        let fail = |error| Error::io(format!("bind the console socket {}", path.display()), error);
        let listener = UnixListener::bind(&path).map_err(fail)?;
        let socket = Self { listener, path: path.clone() };
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(fail)?;
        Ok(socket)
    }

    /// What the runtime is given as `--console-socket`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the terminal's master, at most `deadline`; it is close-on-exec.
    pub async fn receive(self, deadline: Duration) -> Result<OwnedFd> {
        let what = || format!("a terminal on {}", self.path.display());
        match timeout(deadline, self.receive_any()).await {
            Ok(Ok(master)) if isatty(&master) => Ok(master),
            Ok(Ok(_)) => Err(Error::Invalid(format!("{}: what was sent is no terminal", what()))),
            Ok(Err(error)) => Err(Error::io(what(), error)),
            Err(_) => Err(Error::TimedOut { what: what(), after: deadline }),
        }
    }

    async fn receive_any(&self) -> io::Result<OwnedFd> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            if stream.peer_cred()?.uid() == rustix::process::geteuid().as_raw() {
                return stream.async_io(Interest::READABLE, || receive_fd(&stream)).await;
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn receive_fd(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    // The bytes are the terminal's name, of which nothing depends.
    let mut name = [0; 4096];
    recvmsg(stream, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fds.flatten().next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a message without a descriptor"))
}

/// Sets a terminal's size, in characters.
pub fn resize(master: impl AsFd, width: u16, height: u16) -> Result<()> {
    let size = Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).map_err(|error| Error::io("resize the terminal", error))
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, os::unix::net::UnixStream};

    use rustix::{
        fs::OFlags,
        io::{FdFlags, fcntl_getfd},
        net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
        pty::{OpenptFlags, openpt},
    };

    use super::*;

    fn send(path: &Path, fd: impl AsFd) {
        let stream = UnixStream::connect(path).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [fd.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&stream, &[IoSlice::new(b"/dev/pts/ptmx")], &mut ancillary, SendFlags::empty()).unwrap();
    }

    #[tokio::test]
    async fn a_master_arrives_close_on_exec_and_the_socket_goes() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::bind(dir.path()).unwrap();
        let path = socket.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        send(&path, openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap());
        let master = socket.receive(Duration::from_secs(5)).await.unwrap();
        assert!(fcntl_getfd(&master).unwrap().contains(FdFlags::CLOEXEC));
        assert!(!path.exists());
        resize(&master, 132, 43).unwrap();
        let size = rustix::termios::tcgetwinsize(&master).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (132, 43));
    }

    #[tokio::test]
    async fn anything_but_a_terminal_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::bind(dir.path()).unwrap();
        let file = rustix::fs::open("/dev/null", OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        send(socket.path(), file);
        assert!(matches!(socket.receive(Duration::from_secs(5)).await, Err(Error::Invalid(_))));
    }

    #[tokio::test]
    async fn nobody_sending_is_a_timeout_and_a_long_path_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::bind(dir.path()).unwrap();
        let error = socket.receive(Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(matches!(Socket::bind(&dir.path().join("x".repeat(120))), Err(Error::Invalid(_))));
    }
}
