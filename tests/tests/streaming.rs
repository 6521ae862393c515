//! Exec, attach and port-forward with crictl, over SPDY and over WebSocket, against a daemon with real containers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cleat_tests::{Cri, Node, container, node, pod, repository, v1};

const IMAGE: &str = "docker.io/library/busybox:latest";
const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// A pod with a container that sleeps and serves a page on port 80.
struct Fixture {
    node: Node,
    cri: Cri,
    pod: v1::PodSandboxConfig,
    sandbox: String,
    container: String,
}

impl Fixture {
    async fn on(node: Node) -> Result<Self> {
        let cri = node.cri().await?;
        cri.pull(IMAGE).await?;
        let pod = pod("streams", &node.path("logs"));
        std::fs::create_dir_all(&pod.log_directory)?;
        let sandbox = cri.run_pod(&pod, "").await?;
        let container = cri.launch(&sandbox, &container("c", IMAGE, &["sleep", "1000"]), &pod).await?;
        Ok(Self { node, cri, pod, sandbox, container })
    }

    fn crictl(&self, words: &[&str]) -> Command {
        let mut command = Command::new(repository().join("hack/crictl"));
        command.arg(self.node.dir()).args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// crictl with this stdin, to its end.
    fn with_stdin(&self, words: &[&str], stdin: &[u8]) -> Result<Output> {
        let mut child = self.crictl(words).stdin(Stdio::piped()).spawn()?;
        let mut to = child.stdin.take().context("stdin")?;
        std::thread::scope(|scope| {
            // Who exits without reading closes the pipe: the test looks at the output then.
            scope.spawn(move || to.write_all(stdin));
            Ok(child.wait_with_output()?)
        })
    }

    fn execs(&self) -> usize {
        let dir = self.node.path("state/exec");
        std::fs::read_dir(dir).map_or(0, Iterator::count)
    }

    fn daemon_fds(&self) -> Result<usize> {
        Ok(Path::new("/proc").join(self.node.pid()?.to_string()).join("fd").read_dir()?.count())
    }

    async fn wait_for_processes(&self, word: &str, count: usize) -> Result<()> {
        let start = Instant::now();
        loop {
            let shown = self.cri.output(&self.container, &["ps", "-o", "args"]).await?;
            let found = shown.lines().filter(|line| line.starts_with(word)).count();
            if found == count {
                return Ok(());
            }
            ensure!(start.elapsed() < Duration::from_secs(20), "{found} instead of {count} of {word:?} in\n{shown}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn end(self) -> Result<()> {
        self.cri.remove_all_pods().await?;
        let residue = self.node.residue();
        ensure!(residue.is_empty(), "{residue:?}");
        ensure!(self.execs() == 0, "{} folders of fifos are left", self.execs());
        Ok(())
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_stream_in_and_out_and_tell_their_exit_codes() -> Result<()> {
    let fixture = Fixture::on(node!()).await?;
    let id = fixture.container.as_str();
    for transport in TRANSPORTS {
        let exec = |words: &[&'static str]| [&["exec", "-r", transport, "-i", id], words].concat();
        let sent = noise(20 << 20);
        let came = fixture.with_stdin(&exec(&["cat"]), &sent)?;
        ensure!(
            came.status.success() && came.stdout == sent,
            "{transport}: {} bytes of {}: {}",
            came.stdout.len(),
            sent.len(),
            String::from_utf8_lossy(&came.stderr)
        );

        let both = fixture.with_stdin(&exec(&["sh", "-c", "echo out; echo err >&2; exit 7"]), b"")?;
        let text = String::from_utf8_lossy(&both.stderr).into_owned();
        ensure!(both.stdout == b"out\n" && text.contains("err\n"), "{transport}: {both:?}");
        ensure!(!both.status.success() && text.contains("exit code 7"), "{transport}: {text}");

        let missing = fixture.with_stdin(&exec(&["/no/such/program"]), b"")?;
        let text = String::from_utf8_lossy(&missing.stderr).into_owned();
        ensure!(!missing.status.success() && text.contains("/no/such/program"), "{transport}: {text}");
    }
    fixture.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_the_size_of_the_clients() -> Result<()> {
    let fixture = Fixture::on(node!()).await?;
    for transport in TRANSPORTS {
        let program = repository().join("hack/crictl");
        let line = format!(
            "stty rows 33 cols 111; {} {} exec -r {transport} -it {} sh -c 'sleep 1; stty size; test -t 0 && echo a terminal; exit 3'",
            program.display(),
            fixture.node.dir().display(),
            fixture.container,
        );
        // script(1) gives crictl a terminal.
        let mut child = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let held = child.stdin.take();
        let mut shown = String::new();
        child.stdout.take().context("stdout")?.read_to_string(&mut shown)?;
        drop(held);
        child.wait()?;
        ensure!(shown.contains("33 111") && shown.contains("a terminal"), "{transport}: {shown}");
    }
    fixture.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_joins_a_container_and_leaving_does_not_end_it() -> Result<()> {
    let fixture = Fixture::on(node!()).await?;
    for transport in TRANSPORTS {
        let mut config = container(&format!("shell-{transport}"), IMAGE, &["sh"]);
        (config.stdin, config.stdin_once) = (true, false);
        let shell = fixture.cri.launch(&fixture.sandbox, &config, &fixture.pod).await?;
        for round in 0..2 {
            let mut child = fixture.crictl(&["attach", "-r", transport, "-i", &shell]).stdin(Stdio::piped()).spawn()?;
            let mut to = child.stdin.take().context("stdin")?;
            writeln!(to, "echo round {round}")?;
            let (mut from, mut line) = (child.stdout.take().context("stdout")?, [0; 8]);
            from.read_exact(&mut line)?;
            ensure!(line == *format!("round {round}\n").as_bytes(), "{transport}: {line:?}");
            child.kill()?;
            child.wait()?;
        }
        ensure!(fixture.cri.status(&shell).await?.state() == v1::ContainerState::ContainerRunning);
        let end = fixture.with_stdin(&["attach", "-r", transport, "-i", &shell], b"echo bye; exit 0\n")?;
        ensure!(end.status.success() && end.stdout == b"bye\n", "{transport}: {end:?}");
        fixture.cri.wait_exit(&shell).await?;
    }
    fixture.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_into_the_pod() -> Result<()> {
    let fixture = Fixture::on(node!()).await?;
    fixture.cri.output(&fixture.container, &["sh", "-c", "mkdir /tmp/w && echo the page > /tmp/w/index.html"]).await?;
    let server = container("w", IMAGE, &["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/etc"]);
    let _server = fixture.cri.launch(&fixture.sandbox, &server, &fixture.pod).await?;
    for transport in TRANSPORTS {
        let mut child = fixture.crictl(&["port-forward", "-r", transport, &fixture.sandbox, "0:8080"]).spawn()?;
        let answered = fetch_through(&mut child);
        child.kill()?;
        child.wait()?;
        let answer = answered.with_context(|| transport.to_string())?;
        ensure!(answer.contains("root:x:0"), "{transport}: {answer}");
    }
    fixture.end().await
}

/// Waits for the line that tells the local port, and fetches a page twenty times through it.
fn fetch_through(child: &mut Child) -> Result<String> {
    let (mut from, mut told, mut byte) = (child.stdout.take().context("stdout")?, String::new(), [0]);
    while from.read(&mut byte)? == 1 && byte != *b"\n" {
        told.push(char::from(byte[0]));
    }
    let port: u16 = told.split(':').nth(1).and_then(|rest| rest.split(' ').next()).context(told.clone())?.parse()?;
    let mut answer = String::new();
    for _ in 0..20 {
        let mut tcp = TcpStream::connect(("127.0.0.1", port))?;
        tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
        tcp.write_all(b"GET /passwd HTTP/1.0\r\n\r\n")?;
        answer.clear();
        tcp.read_to_string(&mut answer)?;
        if !answer.contains("200 OK") {
            bail!("{answer}");
        }
    }
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_vanish_and_failed_execs_leave_nothing() -> Result<()> {
    let fixture = Fixture::on(node!()).await?;
    let id = fixture.container.as_str();
    // The first session may open what stays open.
    fixture.with_stdin(&["exec", "-i", id, "true"], b"")?;
    let before = fixture.daemon_fds()?;
    for transport in TRANSPORTS {
        let mut child =
            fixture.crictl(&["exec", "-r", transport, "-i", id, "sleep", "777"]).stdin(Stdio::piped()).spawn()?;
        fixture.wait_for_processes("sleep 777", 1).await?;
        child.kill()?;
        child.wait()?;
        fixture.wait_for_processes("sleep 777", 0).await?;
    }
    for _ in 0..300 {
        let asked = v1::ExecRequest {
            container_id: id.into(),
            cmd: vec!["/none".into()],
            stdin: true,
            stdout: true,
            tty: true,
            ..Default::default()
        };
        let url = fixture.cri.runtime.clone().exec(asked).await?.into_inner().url;
        let rest = url.strip_prefix("http://").context(url.clone())?;
        let (address, path) = rest.split_at(rest.find('/').context("path")?);
        let mut tcp = TcpStream::connect(address)?;
        write!(
            tcp,
            "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
        )?;
        // Gone as soon as it has begun.
        let mut begun = [0; 12];
        tcp.read_exact(&mut begun)?;
        ensure!(begun == *b"HTTP/1.1 101");
    }
    let start = Instant::now();
    while fixture.execs() > 0 || fixture.daemon_fds()? > before + 4 {
        let (execs, fds) = (fixture.execs(), fixture.daemon_fds()?);
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "{execs} execs and {fds} descriptors are left, {before} before"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    fixture.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_streamed_is_refused_at_once() -> Result<()> {
    let fixture = Fixture::on(node!()).await?;
    let runtime = || fixture.cri.runtime.clone();
    let exec = v1::ExecRequest {
        container_id: fixture.container.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    let code = |status: tonic::Status| status.code();
    let none = v1::ExecRequest { stdout: false, ..exec.clone() };
    ensure!(runtime().exec(none).await.map(drop).map_err(code) == Err(tonic::Code::InvalidArgument));
    let both = v1::ExecRequest { tty: true, stderr: true, ..exec.clone() };
    ensure!(runtime().exec(both).await.map(drop).map_err(code) == Err(tonic::Code::InvalidArgument));
    let missing = v1::ExecRequest { container_id: "feed".into(), ..exec.clone() };
    ensure!(runtime().exec(missing).await.map(drop).map_err(code) == Err(tonic::Code::NotFound));
    fixture.cri.stop(&fixture.container, 0).await?;
    ensure!(runtime().exec(exec).await.map(drop).map_err(code) == Err(tonic::Code::FailedPrecondition));
    fixture.cri.stop_pod(&fixture.sandbox).await?;
    let forward = v1::PortForwardRequest { pod_sandbox_id: fixture.sandbox.clone(), port: vec![] };
    ensure!(runtime().port_forward(forward).await.map(drop).map_err(code) == Err(tonic::Code::FailedPrecondition));
    fixture.end().await
}
