//! The streams of real containers and execs, through the built shim: logs, attached clients, terminals, and no leak.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use cleat_proto::shim::{AttachRequest, IoClient, ReopenRequest};
use cleat_shim::io::{
    cri_log::{Record, Stream},
    url::{CRI_STDIN_ONCE, cri_log},
};
use common::{Place, Shim, Stdio3, able, context};
use containerd_shim_protos::api::{CloseIORequest, ResizePtyRequest};
use nix::{sys::stat::Mode, unistd::mkfifo};

fn fifo(place: &Place, name: &str) -> String {
    let path = place.path(name);
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    path.display().to_string()
}

/// A fifo opened for reading before it has a writer. The test has one thread, so it polls.
struct Reader(File);

impl Reader {
    fn open(path: &str) -> Self {
        Self(OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap())
    }

    /// Reads until the text ends like this, or the stream ends.
    async fn until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        let mut batch = vec![0; 65536];
        let mut idle = 0;
        while end.is_empty() || !text.ends_with(end.as_bytes()) {
            match self.0.read(&mut batch) {
                Ok(0) if idle > 100 => break,
                Ok(n) if n > 0 => {
                    text.extend_from_slice(&batch[..n]);
                    idle = 0;
                    continue;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
                Ok(_) => {}
            }
            idle += 1;
            assert!(idle < 2000, "waiting for {end:?} after {:?}", String::from_utf8_lossy(&text));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        String::from_utf8(text).unwrap()
    }
}

fn logged(path: &Path, stream: Stream) -> String {
    let mut text = Vec::new();
    for line in fs::read(path).unwrap().split_inclusive(|&byte| byte == b'\n') {
        let record = Record::parse(&line[..line.len() - 1]).unwrap();
        if record.stream == stream {
            text.extend_from_slice(record.content);
            text.extend_from_slice(if record.ends_line { b"\n" } else { b"" });
        }
    }
    String::from_utf8(text).unwrap()
}

fn io_of(shim: &Shim) -> IoClient {
    IoClient::new(shim.client.clone())
}

async fn reopen(shim: &Shim, id: &str) {
    let mut request = ReopenRequest::new();
    request.container_id = id.into();
    io_of(shim).reopen(context(), &request).await.unwrap();
}

async fn close_stdin(shim: &Shim, id: &str, exec: &str) {
    let mut request = CloseIORequest::new();
    (request.id, request.exec_id, request.stdin) = (id.into(), exec.into(), true);
    shim.task.close_io(context(), &request).await.unwrap();
}

async fn sleeping(place: &Place, id: &str) -> Shim {
    let bundle = place.bundle(id, &["sleep", "1000"], |_| {});
    let shim = place.start(&bundle, id).await;
    shim.create(place, id, Stdio3::default()).await.unwrap();
    shim.start(id, "").await.unwrap();
    shim
}

async fn end(shim: &Shim, id: &str) {
    shim.kill(id, "", libc::SIGKILL).await.unwrap();
    shim.wait(id, "").await.unwrap();
    shim.delete(id, "").await.unwrap();
    shim.shutdown().await;
    assert!(shim.gone().await);
}

/// A container of kubelet's: its log, a client that attaches and ends its stdin, and its end.
async fn logs_and_clients(runtime: &'static str) {
    let place = Place::new(runtime);
    let (log, rotated) = (place.path("0.log"), place.path("0.log.1"));
    let script = "echo started; echo oops >&2; while read line; do echo got $line; done; echo -n bye";
    let bundle = place.bundle("c1", &["sh", "-c", script], |_| {});
    let shim = place.start(&bundle, "c1").await;
    let url = cri_log(&log, 16384);
    let stdio = Stdio3 { paths: [CRI_STDIN_ONCE, &url, &url], terminal: false };
    shim.create(&place, "c1", stdio).await.unwrap();
    shim.start("c1", "").await.unwrap();
    assert!(common::eventually(|| logged(&log, Stream::Stdout) == "started\n"));

    let mut request = AttachRequest::new();
    request.container_id = "c1".into();
    (request.stdin, request.stdout) = (fifo(&place, "in"), fifo(&place, "out"));
    let mut out = Reader::open(&request.stdout);
    io_of(&shim).attach(context(), &request).await.unwrap();
    let mut stdin = OpenOptions::new().write(true).open(&request.stdin).unwrap();
    stdin.write_all(b"one\n").unwrap();
    assert_eq!(out.until("one\n").await, "got one\n");

    fs::rename(&log, &rotated).unwrap();
    reopen(&shim, "c1").await;
    stdin.write_all(b"two\n").unwrap();
    drop(stdin);
    assert_eq!(out.until("").await, "got two\nbye");
    assert_eq!(shim.wait("c1", "").await.unwrap().exit_status, 0);
    shim.delete("c1", "").await.unwrap();
    assert_eq!(logged(&rotated, Stream::Stdout), "started\ngot one\n");
    assert_eq!(logged(&rotated, Stream::Stderr), "oops\n");
    assert_eq!(logged(&log, Stream::Stdout), "got two\nbye");
    shim.shutdown().await;
    assert!(shim.gone().await);
}

#[tokio::test]
async fn a_container_logs_and_is_attached_to_with_runc() {
    if able("a_container_logs_and_is_attached_to_with_runc", "runc") {
        logs_and_clients("runc").await;
    }
}

#[tokio::test]
async fn a_container_logs_and_is_attached_to_with_crun() {
    if able("a_container_logs_and_is_attached_to_with_crun", "crun") {
        logs_and_clients("crun").await;
    }
}

/// An exec with a terminal: it echoes, has a size, and sees the end of its stdin.
async fn terminal(runtime: &'static str) {
    let place = Place::new(runtime);
    let shim = sleeping(&place, "c1").await;
    let (stdin, stdout) = (fifo(&place, "in"), fifo(&place, "out"));
    let mut out = Reader::open(&stdout);
    let stdio = Stdio3 { paths: [&stdin, &stdout, ""], terminal: true };
    shim.exec("c1", "e1", &["cat"], stdio).await.unwrap();
    shim.start("c1", "e1").await.unwrap();
    let mut resize = ResizePtyRequest::new();
    (resize.id, resize.exec_id, resize.width, resize.height) = ("c1".into(), "e1".into(), 100, 30);
    shim.task.resize_pty(context(), &resize).await.unwrap();
    let mut input = OpenOptions::new().write(true).open(&stdin).unwrap();
    input.write_all(b"hello\n").unwrap();
    assert_eq!(out.until("hello\r\nhello\r\n").await, "hello\r\nhello\r\n", "the echo, and cat");
    drop(input);
    close_stdin(&shim, "c1", "e1").await;
    assert_eq!(shim.wait("c1", "e1").await.unwrap().exit_status, 0);
    assert_eq!(out.until("").await, "");
    shim.delete("c1", "e1").await.unwrap();
    end(&shim, "c1").await;
}

#[tokio::test]
async fn an_exec_has_a_terminal_with_runc() {
    if able("an_exec_has_a_terminal_with_runc", "runc") {
        terminal("runc").await;
    }
}

#[tokio::test]
async fn an_exec_has_a_terminal_with_crun() {
    if able("an_exec_has_a_terminal_with_crun", "crun") {
        terminal("crun").await;
    }
}

#[tokio::test]
async fn execs_leave_no_descriptor() {
    if !able("execs_leave_no_descriptor", "crun") {
        return;
    }
    let place = Place::new("crun");
    let shim = sleeping(&place, "c1").await;
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", shim.pid)).unwrap().count();
    let (stdin, stdout) = (fifo(&place, "in"), fifo(&place, "out"));
    let mut before = 0;
    for round in 0..30 {
        let mut out = Reader::open(&stdout);
        let terminal = round % 3 == 0;
        let stdio = Stdio3 { paths: [&stdin, &stdout, ""], terminal };
        let exec = format!("e{round}");
        // A child in the background holds the streams of some, until the drain's limit.
        let script = if round % 10 == 0 { "echo hello; sleep 1000 &" } else { "echo hello" };
        shim.exec("c1", &exec, &["sh", "-c", script], stdio).await.unwrap();
        shim.start("c1", &exec).await.unwrap();
        assert_eq!(shim.wait("c1", &exec).await.unwrap().exit_status, 0);
        assert_eq!(out.until("\n").await.trim_end(), "hello");
        shim.delete("c1", &exec).await.unwrap();
        if round == 2 {
            before = descriptors();
        }
    }
    assert_eq!(descriptors(), before);
    end(&shim, "c1").await;
}
