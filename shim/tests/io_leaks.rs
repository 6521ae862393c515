//! Ten thousand processes and clients later, the shim has the descriptors and the tasks it began with. Alone in its file: it
//! counts the descriptors of the whole test process.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use cleat_shim::io::{Io, Stdio, url::cri_log};
use nix::{sys::stat::Mode, unistd::mkfifo};
use rustix::pty::{OpenptFlags, openpt};

const ROUNDS: usize = 10_000;

fn open_fds() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn listen(path: &Path) -> File {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

/// One process with a client, ended in one of the ways a process can end.
async fn round(dir: &Path, number: usize) {
    let path = |name: &str| dir.join(name).display().to_string();
    let terminal = number.is_multiple_of(2);
    let stdio = Stdio { stdin: path("in"), stdout: cri_log(&dir.join("0.log"), 100), stderr: path("err"), terminal };
    let (io, ends) = Io::open(&stdio, 0, 0).unwrap();
    if terminal && number.is_multiple_of(4) {
        io.attach_console(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap()).unwrap();
    }
    let client = listen(&dir.join("client"));
    let attached = io.attach(&Stdio { stdin: path("client-in"), stdout: path("client"), ..Stdio::default() });
    attached.unwrap();
    tokio::task::yield_now().await;
    if let Some(stdout) = &ends.stdout {
        rustix::io::write(stdout, b"line\n").unwrap();
    }
    match number % 3 {
        0 => drop((ends, client)),
        1 => drop((client, ends)),
        _ => {
            drop(ends);
            io.close_stdin();
            io.drain(Duration::from_millis(if terminal { 0 } else { 1000 })).await;
        }
    }
    if number.is_multiple_of(5) {
        let error = io.attach(&Stdio { stdout: path("nobody"), ..Stdio::default() });
        assert!(error.is_err());
    }
}

#[tokio::test]
async fn ten_thousand_processes_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["in", "err", "client", "client-in", "nobody"] {
        mkfifo(&dir.path().join(name), Mode::S_IRWXU).unwrap();
    }
    round(dir.path(), 1).await;
    tokio::task::yield_now().await;
    let (before, tasks) = (open_fds(), tokio::runtime::Handle::current().metrics().num_alive_tasks());
    for number in 0..ROUNDS {
        round(dir.path(), number).await;
        refused(dir.path());
    }
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(open_fds(), before);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), tasks);
}

/// Requests that fail half-way.
fn refused(dir: &Path) {
    for stderr in ["nonsense", "/no/such/fifo", "cri:///no/such/directory/0.log"] {
        let log = cri_log(&dir.join("0.log"), 100);
        let stdin = dir.join("in").display().to_string();
        let error = Io::open(&Stdio { stdin, stdout: log, stderr: stderr.into(), terminal: false }, 0, 0).unwrap_err();
        assert!(error.to_string().contains(stderr.trim_start_matches("cri://")), "{error}");
    }
}
