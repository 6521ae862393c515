//! The stdio of a process, with this test as the process, the daemon and the clients: real pipes, fifos and terminals.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use cleat_shim::io::{
    Io, Owner, Stdio,
    cri_log::{Record, Stream},
    url::{CRI_DISCARD, CRI_STDIN, CRI_STDIN_ONCE, cri_log},
};
use nix::{sys::stat::Mode, unistd::mkfifo};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;

const SECOND: Duration = Duration::from_secs(1);

/// A directory with fifos.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn log(&self) -> String {
        cri_log(&self.path("0.log"), 16384)
    }

    fn logging(&self) -> Stdio {
        Stdio { stdout: self.log(), stderr: self.log(), ..Stdio::default() }
    }

    fn fifo(&self, name: &str) -> String {
        mkfifo(&self.path(name), Mode::S_IRWXU).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// Opens a fifo for reading before it has a writer, as a client does; reads block afterwards.
fn reader(path: &str) -> File {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    rustix::io::ioctl_fionbio(&file, false).unwrap();
    file
}

fn writer(path: &str) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

fn contents(path: &Path, stream: Stream) -> String {
    let mut text = Vec::new();
    for line in fs::read(path).unwrap().split_inclusive(|&byte| byte == b'\n') {
        let record = Record::parse(line.strip_suffix(b"\n").unwrap()).expect("a whole record");
        if record.stream == stream {
            text.extend_from_slice(record.content);
            text.extend_from_slice(if record.ends_line { b"\n" } else { b"" });
        }
    }
    String::from_utf8(text).unwrap()
}

/// Runs blocking code elsewhere while the streams go on here.
async fn outside<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    thread::spawn(move || sender.send(run()).ok());
    tokio::time::timeout(Duration::from_secs(60), receiver).await.expect("blocked for a minute").unwrap()
}

async fn read_to_end(mut file: File) -> Vec<u8> {
    outside(move || {
        let mut all = Vec::new();
        file.read_to_end(&mut all).unwrap();
        all
    })
    .await
}

async fn read_some(file: &File, len: usize) -> String {
    let mut file = file.try_clone().unwrap();
    outside(move || {
        let mut some = vec![0; len];
        file.read_exact(&mut some).unwrap();
        String::from_utf8(some).unwrap()
    })
    .await
}

async fn write_all(fd: OwnedFd, bytes: Vec<u8>) {
    outside(move || File::from(fd).write_all(&bytes).unwrap()).await;
}

fn numbered(lines: std::ops::Range<usize>) -> String {
    lines.map(|number| format!("line {number}\n")).collect()
}

fn open_fds() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn both_streams_go_to_one_log() {
    let place = Place::new();
    let (io, ends) = Io::open(&place.logging(), 0, 0).unwrap();
    assert!(ends.stdin.is_none());
    let (out, err) = (numbered(0..5000), numbered(5000..9000));
    tokio::join!(
        write_all(ends.stdout.unwrap(), (out.clone() + "no newline").into()),
        write_all(ends.stderr.unwrap(), err.clone().into())
    );
    io.drain(SECOND).await;
    assert_eq!(contents(&place.path("0.log"), Stream::Stdout), out + "no newline");
    assert_eq!(contents(&place.path("0.log"), Stream::Stderr), err);
}

#[tokio::test]
async fn rotation_loses_and_doubles_nothing() {
    let place = Place::new();
    let (io, ends) = Io::open(&place.logging(), 0, 0).unwrap();
    let (lines, mut stdout) = (numbered(0..200_000), File::from(ends.stdout.unwrap()));
    let text = lines.clone();
    let writing = tokio::spawn(outside(move || {
        for chunk in text.as_bytes().chunks(20_011) {
            stdout.write_all(chunk).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
    }));
    let mut names = Vec::new();
    while !writing.is_finished() {
        let name = place.path(&format!("0.log.{}", names.len()));
        fs::rename(place.path("0.log"), &name).unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        io.reopen_log().unwrap();
        names.push(name);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    io.drain(SECOND).await;
    assert!(names.len() > 10, "rotated {} times", names.len());
    names.push(place.path("0.log"));
    let all: String = names.iter().map(|name| contents(name, Stream::Stdout)).collect();
    assert!(all == lines, "{} bytes of {}", all.len(), lines.len());
}

/// Unmounts when the test is over, whatever came of it.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_costs_lines_and_says_so() {
    let place = Place::new();
    let small = place.path("small");
    fs::create_dir(&small).unwrap();
    if rustix::mount::mount("tmpfs", &small, "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=64k")).is_err() {
        println!("SKIP a_full_disk_costs_lines_and_says_so: cannot mount a tmpfs");
        return;
    }
    let _mounted = Mounted(small.clone());
    let stdio = Stdio { stdout: cri_log(&small.join("0.log"), 100), ..Stdio::default() };
    let (io, ends) = Io::open(&stdio, 0, 0).unwrap();
    let mut stdout = File::from(ends.stdout.unwrap());
    let (other, lines) = (stdout.try_clone().unwrap(), numbered(0..20_000));
    write_all(other.into(), lines.clone().into()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    fs::rename(small.join("0.log"), place.path("0.log")).unwrap_err();
    fs::copy(small.join("0.log"), place.path("full.log")).unwrap();
    fs::remove_file(small.join("0.log")).unwrap();
    io.reopen_log().unwrap();
    stdout.write_all(b"after\n").unwrap();
    drop(stdout);
    io.drain(SECOND).await;
    let (full, after) =
        (contents(&place.path("full.log"), Stream::Stdout), contents(&small.join("0.log"), Stream::Stdout));
    assert!(lines.starts_with(&full), "the log before the hole is whole");
    let kept = full.lines().count();
    assert!(kept > 100 && kept < 20_000, "{kept} lines fit");
    let note = after.lines().next().unwrap();
    assert!(
        note.starts_with(&format!("cleat: {} log lines were dropped here: ", 20_000 - kept)),
        "{note}, {kept} kept"
    );
    assert_eq!(after.lines().nth(1), Some("after"));
}

#[tokio::test]
async fn a_background_child_holds_stdout_no_longer_than_the_limit() {
    let place = Place::new();
    let (io, ends) = Io::open(&place.logging(), 0, 0).unwrap();
    let mut held = File::from(ends.stdout.unwrap());
    held.write_all(b"one\ntwo, and").unwrap();
    drop(ends.stderr);
    let before = Instant::now();
    io.drain(Duration::from_millis(200)).await;
    assert!((200..2000).contains(&before.elapsed().as_millis()));
    assert_eq!(contents(&place.path("0.log"), Stream::Stdout), "one\ntwo, and");
}

#[tokio::test]
async fn a_fifo_keeps_what_its_reader_has_not_read() {
    let place = Place::new();
    let stdio = Stdio { stdout: place.fifo("out"), stderr: place.fifo("err"), ..Stdio::default() };
    let (io, ends) = Io::open(&stdio, 0, 0).unwrap();
    let data: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let writing = tokio::spawn(write_all(ends.stdout.unwrap(), data.clone()));
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut first = vec![0; 100_000];
    let out = reader(&stdio.stdout);
    let (mut out, first) = outside(move || {
        let mut out = out;
        out.read_exact(&mut first).unwrap();
        (out, first)
    })
    .await;
    // The daemon restarts: its reader goes, and a new one comes.
    out = {
        drop(out);
        tokio::time::sleep(Duration::from_millis(20)).await;
        reader(&stdio.stdout)
    };
    let reading = tokio::spawn(read_to_end(out));
    writing.await.unwrap();
    drop(ends.stderr);
    io.drain(10 * SECOND).await;
    let all = [first, reading.await.unwrap()].concat();
    assert!(all == data, "{} of {} bytes", all.len(), data.len());
}

#[tokio::test]
async fn what_a_process_leaves_behind_waits_for_a_slow_reader() {
    let place = Place::new();
    let stdio = Stdio { stdout: place.fifo("out"), ..Stdio::default() };
    let (io, ends) = Io::open(&stdio, 0, 0).unwrap();
    let out = reader(&stdio.stdout);
    // Both pipes full: more than a fifo holds by default.
    let data = vec![b'x'; 2 * 64 * 1024];
    write_all(ends.stdout.unwrap(), data.clone()).await;
    let before = Instant::now();
    io.drain(10 * SECOND).await;
    assert!(before.elapsed() < SECOND, "the drain needs no reader");
    drop(io);
    assert_eq!(read_to_end(out).await.len(), data.len());
}

#[tokio::test]
async fn a_file_is_appended_to() {
    let place = Place::new();
    let path = place.path("sub/dir/log");
    let url = format!("file://{}", path.display());
    for round in 0..2 {
        let stdio = Stdio { stdout: url.clone(), stderr: url.clone(), ..Stdio::default() };
        let (io, ends) = Io::open(&stdio, 0, 0).unwrap();
        write_all(ends.stdout.unwrap(), format!("out {round}\n").into()).await;
        drop(ends.stderr);
        io.drain(SECOND).await;
    }
    assert_eq!(fs::read_to_string(path).unwrap(), "out 0\nout 1\n");
}

#[tokio::test]
async fn stdin_ends_with_the_close_and_not_with_a_client() {
    let place = Place::new();
    let stdio = Stdio { stdin: place.fifo("in"), ..Stdio::default() };
    let (io, ends) = Io::open(&stdio, 0, 0).unwrap();
    let stdin = File::from(ends.stdin.unwrap());
    writer(&stdio.stdin).write_all(b"first").unwrap();
    assert_eq!(read_some(&stdin, 5).await, "first");
    let mut second = writer(&stdio.stdin);
    second.write_all(b"second").unwrap();
    io.close_stdin();
    drop(second);
    assert_eq!(read_to_end(stdin).await, b"second");
    io.drain(SECOND).await;
}

#[tokio::test]
async fn a_close_in_the_middle_of_a_large_write_loses_nothing() {
    let place = Place::new();
    let stdio = Stdio { stdin: place.fifo("in"), ..Stdio::default() };
    let (io, ends) = Io::open(&stdio, 0, 0).unwrap();
    let data = vec![b'x'; 3_000_000];
    let writing = tokio::spawn(write_all(writer(&stdio.stdin).into(), data.clone()));
    tokio::time::sleep(Duration::from_millis(20)).await;
    io.close_stdin();
    assert_eq!(read_to_end(ends.stdin.unwrap().into()).await.len(), data.len());
    writing.await.unwrap();
}

#[tokio::test]
async fn a_client_that_keeps_its_fifo_open_delays_the_end_a_second() {
    let place = Place::new();
    let stdio = Stdio { stdin: place.fifo("in"), ..Stdio::default() };
    let (io, ends) = Io::open(&stdio, 0, 0).unwrap();
    let mut client = writer(&stdio.stdin);
    client.write_all(b"all").unwrap();
    io.close_stdin();
    assert_eq!(read_to_end(ends.stdin.unwrap().into()).await, b"all");
    drop(client);
}

#[tokio::test]
async fn a_process_that_closes_its_stdin_closes_the_fifo() {
    let place = Place::new();
    let stdio = Stdio { stdin: place.fifo("in"), ..Stdio::default() };
    let (_io, ends) = Io::open(&stdio, 0, 0).unwrap();
    let mut client = writer(&stdio.stdin);
    drop(ends.stdin);
    client.write_all(b"x").unwrap();
    let broken = outside(move || {
        let start = Instant::now();
        while start.elapsed() < 5 * SECOND {
            if client.write_all(b"x").is_err() {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    });
    assert!(broken.await, "the client sees a broken pipe");
}

#[tokio::test]
async fn clients_listen_and_write_and_the_log_goes_on() {
    let place = Place::new();
    let (io, ends) = Io::open(&Stdio { stdin: CRI_STDIN.into(), ..place.logging() }, 0, 0).unwrap();
    let (stdin, mut stdout) = (File::from(ends.stdin.unwrap()), File::from(ends.stdout.unwrap()));
    stdout.write_all(b"before\n").unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let clients = [("i1", "o1", "e1"), ("i2", "o2", "e2")].map(|(stdin, stdout, stderr)| {
        let names = [stdin, stdout, stderr].map(|name| place.fifo(name));
        let [stdin, stdout, stderr] = names;
        let files = (reader(&stdout), reader(&stderr));
        io.attach(&Stdio { stdin: stdin.clone(), stdout, stderr, terminal: false }).unwrap();
        (writer(&stdin), files)
    });
    let [(mut in1, (out1, err1)), (mut in2, (out2, err2))] = clients;
    in1.write_all(b"one").unwrap();
    assert_eq!(read_some(&stdin, 3).await, "one");
    in2.write_all(b"two").unwrap();
    drop(in2);
    assert_eq!(read_some(&stdin, 3).await, "two");
    stdout.write_all(b"during\n").unwrap();
    assert_eq!(read_some(&out1, 7).await, "during\n");
    drop((in1, out1, err1));
    tokio::time::sleep(Duration::from_millis(20)).await;
    stdout.write_all(b"after\n").unwrap();
    write_all(ends.stderr.unwrap(), b"oops\n".to_vec()).await;
    drop(stdout);
    io.drain(SECOND).await;
    assert_eq!(read_to_end(out2).await, b"during\nafter\n");
    assert_eq!(read_to_end(err2).await, b"oops\n");
    assert_eq!(contents(&place.path("0.log"), Stream::Stdout), "before\nduring\nafter\n");
    assert_eq!(read_to_end(stdin).await, b"");
}

#[tokio::test]
async fn once_means_that_the_first_clients_end_is_the_end() {
    let place = Place::new();
    let (io, ends) =
        Io::open(&Stdio { stdin: CRI_STDIN_ONCE.into(), stdout: CRI_DISCARD.into(), ..Stdio::default() }, 0, 0)
            .unwrap();
    let stdio = Stdio { stdin: place.fifo("in"), stdout: place.fifo("out"), ..Stdio::default() };
    let out = reader(&stdio.stdout);
    io.attach(&stdio).unwrap();
    writer(&stdio.stdin).write_all(b"all of it").unwrap();
    assert_eq!(read_to_end(ends.stdin.unwrap().into()).await, b"all of it");
    // Listening goes on, also for the next one, whose stdin is left alone.
    let second = Stdio { stdin: place.fifo("in2"), stdout: place.fifo("out2"), ..Stdio::default() };
    let out2 = reader(&second.stdout);
    io.attach(&second).unwrap();
    write_all(ends.stdout.unwrap(), b"bye".to_vec()).await;
    io.drain(SECOND).await;
    assert_eq!(read_to_end(out).await, b"bye");
    assert_eq!(read_to_end(out2).await, b"bye");
}

#[tokio::test]
async fn a_client_that_stalls_is_dropped_and_one_that_keeps_up_gets_all() {
    let place = Place::new();
    let (io, ends) = Io::open(&place.logging(), 0, 0).unwrap();
    let [stalled, good] = ["stalled", "good"].map(|name| {
        let path = place.fifo(name);
        let file = reader(&path);
        io.attach(&Stdio { stdout: path, ..Stdio::default() }).unwrap();
        file
    });
    let reading = tokio::spawn(read_to_end(good));
    let lines = numbered(0..1_000_000);
    let before = Instant::now();
    write_all(ends.stdout.unwrap(), lines.clone().into()).await;
    drop(ends.stderr);
    io.drain(10 * SECOND).await;
    println!("{} bytes beside a stalled client in {:?}", lines.len(), before.elapsed());
    assert!(reading.await.unwrap() == lines.as_bytes());
    let got = read_to_end(stalled).await;
    assert!(got.len() < lines.len() && lines.as_bytes().starts_with(&got), "{} bytes", got.len());
    assert!(contents(&place.path("0.log"), Stream::Stdout) == lines);
}

#[tokio::test]
async fn attaching_needs_fifos_and_their_readers() {
    let place = Place::new();
    let (io, ends) = Io::open(&Stdio { stdout: CRI_DISCARD.into(), ..Stdio::default() }, 0, 0).unwrap();
    let nobody = Stdio { stdout: place.fifo("nobody"), ..Stdio::default() };
    let error = io.attach(&nobody).unwrap_err().to_string();
    assert!(error.contains("nobody"), "{error}");
    let file = place.path("file");
    fs::write(&file, "").unwrap();
    assert!(io.attach(&Stdio { stdout: file.display().to_string(), ..Stdio::default() }).is_err());
    assert!(io.attach(&Stdio { stdout: place.log(), ..Stdio::default() }).is_err());
    assert!(io.attach(&Stdio::default()).is_err());
    drop(ends);
    io.drain(SECOND).await;
    let late = Stdio { stdout: place.fifo("late"), ..Stdio::default() };
    let out = reader(&late.stdout);
    io.attach(&late).unwrap();
    assert_eq!(read_to_end(out).await, b"", "the output has ended");
}

/// A terminal: the master for the shim, and how to open its slave.
fn terminal() -> (OwnedFd, PathBuf) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ptsname(&master, Vec::new()).unwrap().into_string().unwrap().into();
    (master, slave)
}

fn open_slave(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).unwrap()
}

#[tokio::test]
async fn a_terminal_is_fed_resized_hung_up_and_opened_again() {
    let place = Place::new();
    let stdio = Stdio { stdin: place.fifo("in"), stdout: place.log(), terminal: true, ..Stdio::default() };
    let (io, ends) = Io::open(&stdio, 0, 0).unwrap();
    assert!(ends.stdin.is_none() && ends.stdout.is_none() && ends.stderr.is_none());
    let (master, path) = terminal();
    let slave = open_slave(&path);
    io.resize(80, 25).unwrap();
    io.attach_console(master).unwrap();
    let size = rustix::termios::tcgetwinsize(&slave).unwrap();
    assert_eq!((size.ws_col, size.ws_row), (80, 25), "told before it came");
    io.resize(100, 30).unwrap();
    let size = rustix::termios::tcgetwinsize(&slave).unwrap();
    assert_eq!((size.ws_col, size.ws_row), (100, 30));
    assert!(io.resize(70_000, 30).is_err());
    let mut client = writer(&stdio.stdin);
    client.write_all(b"typed\n").unwrap();
    assert_eq!(read_some(&slave, 6).await, "typed\n");
    let mut process = slave.try_clone().unwrap();
    process.write_all(b"said\n").unwrap();
    drop((process, slave));
    tokio::time::sleep(Duration::from_millis(400)).await;
    let mut again = open_slave(&path);
    again.write_all(b"again\n").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = cpu_time();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let used = cpu_time() - before;
    assert!(used < Duration::from_millis(100), "waiting for a terminal that was opened again took {used:?}");
    drop(client);
    io.close_stdin();
    assert_eq!(
        outside({
            let mut slave = again.try_clone().unwrap();
            move || slave.read(&mut [0; 10]).unwrap()
        })
        .await,
        0,
        "the close is an end of file"
    );
    again.write_all(b"partial").unwrap();
    drop(again);
    io.drain(5 * SECOND).await;
    assert_eq!(contents(&place.path("0.log"), Stream::Stdout), "typed\nsaid\nagain\npartial");
}

/// What this thread has used of the processor.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn what_was_written_and_closed_before_the_terminal_came_is_read() {
    let place = Place::new();
    let stdio = Stdio { stdin: place.fifo("in"), stdout: CRI_DISCARD.into(), terminal: true, ..Stdio::default() };
    let (io, _) = Io::open(&stdio, 0, 0).unwrap();
    writer(&stdio.stdin).write_all(b"early, without a newline").unwrap();
    io.close_stdin();
    let (master, path) = terminal();
    let slave = open_slave(&path);
    io.attach_console(master).unwrap();
    assert_eq!(read_to_end(slave).await, b"early, without a newline");
}

#[tokio::test]
async fn a_terminal_is_shared_and_outlives_its_clients() {
    let place = Place::new();
    let stdio = Stdio { stdin: CRI_STDIN_ONCE.into(), stdout: place.log(), terminal: true, ..Stdio::default() };
    let (io, _) = Io::open(&stdio, 0, 0).unwrap();
    let (master, path) = terminal();
    let mut slave = open_slave(&path);
    io.attach_console(master).unwrap();
    for round in ["one", "two"] {
        let client = Stdio { stdin: place.fifo(&format!("in {round}")), stdout: place.fifo(round), ..Stdio::default() };
        let out = reader(&client.stdout);
        io.attach(&client).unwrap();
        writer(&client.stdin).write_all(format!("{round}\n").as_bytes()).unwrap();
        assert_eq!(read_some(&slave, 4).await, format!("{round}\n"));
        slave.write_all(b"ok\n").unwrap();
        assert_eq!(read_some(&out, 9).await, format!("{round}\r\nok\r\n"), "the echo and the answer");
    }
    drop(slave);
    io.drain(SECOND).await;
    assert_eq!(contents(&place.path("0.log"), Stream::Stdout), "one\nok\ntwo\nok\n");
}

#[tokio::test]
async fn a_terminals_output_can_go_to_a_fifo() {
    let place = Place::new();
    let stdio = Stdio { stdout: place.fifo("out"), terminal: true, ..Stdio::default() };
    let (io, _) = Io::open(&stdio, 0, 0).unwrap();
    let (master, path) = terminal();
    let mut slave = open_slave(&path);
    io.attach_console(master).unwrap();
    assert!(io.attach_console(terminal().0).is_err(), "there is one terminal");
    let out = reader(&stdio.stdout);
    let lines = numbered(0..20_000);
    let reading = tokio::spawn(read_to_end(out));
    let text = lines.clone();
    outside(move || slave.write_all(text.as_bytes()).unwrap()).await;
    io.drain(10 * SECOND).await;
    assert!(reading.await.unwrap() == lines.replace('\n', "\r\n").as_bytes());
}

#[tokio::test]
async fn a_logger_gets_both_streams_and_its_container_outlives_it() {
    let place = Place::new();
    let program = place.path("logger");
    let script = "#!/bin/sh\ncd \"${0%/*}\"\necho \"$CONTAINER_NAMESPACE/$CONTAINER_ID $*\" > who\ncat <&4 > err 5>&- &\nexec 5>&-\ncat <&3 > out\nwait\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let url = format!("binary://{}?key=a+value&flag", program.display());
    let stdio = Stdio { stdout: url.clone(), stderr: url, ..Stdio::default() };
    let owner = Owner { namespace: "k8s.io", id: "c1", ..Owner::default() };
    let (io, ends) = Io::open_for(&stdio, &owner).unwrap();
    io.ready().await.unwrap();
    tokio::join!(
        write_all(ends.stdout.unwrap(), numbered(0..50_000).into()),
        write_all(ends.stderr.unwrap(), b"to err".to_vec())
    );
    io.drain(10 * SECOND).await;
    assert_eq!(fs::read_to_string(place.path("who")).unwrap(), "k8s.io/c1 key a value flag\n");
    assert!(fs::read_to_string(place.path("out")).unwrap() == numbered(0..50_000));
    assert_eq!(fs::read_to_string(place.path("err")).unwrap(), "to err");

    let stdio = Stdio { stdout: "binary:///bin/true".into(), ..Stdio::default() };
    let (io, ends) = Io::open(&stdio, 0, 0).unwrap();
    io.ready().await.unwrap();
    drop(ends.stderr);
    write_all(ends.stdout.unwrap(), vec![b'x'; 1_000_000]).await;
    io.drain(10 * SECOND).await;
    let missing = Stdio { stdout: "binary:///no/such/logger".into(), ..Stdio::default() };
    assert!(Io::open(&missing, 0, 0).unwrap_err().to_string().contains("/no/such/logger"));
}

#[tokio::test]
async fn pipes_belong_to_the_containers_user() {
    let place = Place::new();
    let (_io, ends) = match Io::open(&Stdio { stdin: CRI_STDIN.into(), ..place.logging() }, 1234, 4321) {
        Ok(opened) => opened,
        Err(error) => return println!("SKIP pipes_belong_to_the_containers_user: {error}"),
    };
    for end in [ends.stdin, ends.stdout, ends.stderr] {
        let stat = rustix::fs::fstat(end.unwrap()).unwrap();
        assert_eq!((stat.st_uid, stat.st_gid), (1234, 4321));
    }
}

#[tokio::test]
async fn dropping_the_stdio_ends_everything() {
    let place = Place::new();
    let stdio = Stdio { stdin: place.fifo("in"), stdout: place.fifo("out"), ..Stdio::default() };
    let (io, ends) = Io::open(&stdio, 0, 0).unwrap();
    let (stdin, out) = (File::from(ends.stdin.unwrap()), reader(&stdio.stdout));
    let client = place.fifo("client");
    let listening = reader(&client);
    io.attach(&Stdio { stdout: client, ..Stdio::default() }).unwrap();
    drop(io);
    assert_eq!(read_to_end(stdin).await, b"");
    assert_eq!(read_to_end(out).await, b"");
    assert_eq!(read_to_end(listening).await, b"");
    drop(ends.stdout);
}

#[test]
fn throughput_of_short_lines() {
    let place = Place::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (io, ends) = Io::open(&place.logging(), 0, 0).unwrap();
        let batch: Vec<u8> = format!("{}\n", "x".repeat(99)).repeat(10_000).into();
        let fds = open_fds();
        let start = Instant::now();
        let mut stdout = File::from(ends.stdout.unwrap());
        drop(ends.stderr);
        outside(move || (0..100).for_each(|_| stdout.write_all(&batch).unwrap())).await;
        io.drain(60 * SECOND).await;
        println!("100-byte lines: {:.0} MB/s, {fds} descriptors", 100.0 / start.elapsed().as_secs_f64());
    });
    assert_eq!(fs::metadata(place.path("0.log")).unwrap().len(), 140_000_000);
}
