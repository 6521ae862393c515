//! Whole sessions over sockets: the server with workloads that echo, and clients that speak SPDY and WebSocket.

mod client;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use self::client::{Spdy, WebSocket, request};
use super::streams::Size;
use super::*;

/// Plays the containers: `cat` sends stdin back, `fail N` ends with N, `spin` never ends, `size` tells its first two sizes,
/// `print` and `flood` write a megabyte and without end, `stall` reads nothing.
#[derive(Default)]
struct Echo {
    running: AtomicUsize,
    port: u16,
}

struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl Workloads for Echo {
    async fn exec(&self, request: ExecRequest, streams: &mut Streams) -> Result<i32> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(&self.running);
        match request.cmd[0].as_str() {
            "cat" => cat(streams).await,
            "fail" => return request.cmd[1].parse().map_err(|e| Error::failed("exec", e)),
            "size" => {
                let mut sizes = streams.resize.take().expect("resize");
                for _ in 0..2 {
                    let Some(Size { width, height }) = sizes.next().await else { break };
                    let _ = streams.stdout.as_mut().expect("stdout").write(format!("{width}x{height} ").into()).await;
                }
            }
            "print" => drop(streams.stdout.as_mut().expect("stdout").write(noise(1 << 20).into()).await),
            "flood" => {
                let piece = Bytes::from(vec![b'x'; 64 << 10]);
                while streams.stdout.as_mut().expect("stdout").write(piece.clone()).await.is_ok() {}
            }
            "stall" | "spin" => streams.gone.wait().await,
            other => return Err(Error::failed("exec", format!("{other} is not there"))),
        }
        Ok(0)
    }

    async fn attach(&self, _: AttachRequest, streams: &mut Streams) -> Result<()> {
        cat(streams).await;
        Ok(())
    }

    async fn connect(&self, _: &str, port: u16) -> Result<TcpStream> {
        let port = if port == 80 { self.port } else { port };
        TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| Error::failed("connect", e))
    }
}

async fn cat(streams: &mut Streams) {
    let (Some(stdin), Some(stdout)) = (&mut streams.stdin, &mut streams.stdout) else { return };
    while let Some(bytes) = stdin.next().await {
        if stdout.write(bytes).await.is_err() {
            return;
        }
    }
}

struct Fixture {
    streaming: Arc<Streaming>,
    echo: Arc<Echo>,
    server: tokio::task::JoinHandle<Result<()>>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fixture {
    async fn new() -> Self {
        // What a pod's server would be: greets, and echoes to the end.
        let pod = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = pod.local_addr().expect("address").port();
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = pod.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = tcp.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let config = config::Streaming { stream_creation_timeout_secs: 1, ..config::Streaming::default() };
        let streaming = Arc::new(Streaming::open(&config).expect("open"));
        let echo = Arc::new(Echo { port, ..Echo::default() });
        let server = tokio::spawn(serve(streaming.clone(), echo.clone()));
        Self { streaming, echo, server }
    }

    fn exec(&self, cmd: &[&str], tty: bool) -> String {
        let cmd = cmd.iter().map(|word| word.to_string()).collect();
        let asked = ExecRequest { cmd, stdin: true, stdout: true, stderr: !tty, tty, ..ExecRequest::default() };
        self.streaming.url(Asked::Exec(asked)).expect("url")
    }

    fn forward(&self, port: Vec<i32>) -> String {
        let asked = cleat_proto::cri::v1::PortForwardRequest { port, ..Default::default() };
        self.streaming.url(Asked::PortForward(asked)).expect("url")
    }

    /// Waits until no exec runs any more.
    async fn quiet(&self) {
        for _ in 0..500 {
            if self.echo.running.load(Ordering::SeqCst) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} sessions still run", self.echo.running.load(Ordering::SeqCst));
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

const EXEC: [&str; 4] = ["error", "stdin", "stdout", "stderr"];

#[tokio::test]
async fn megabytes_go_through_spdy_unbroken_both_ways() {
    let fixture = Fixture::new().await;
    let mut client = Spdy::open(&fixture.exec(&["cat"], false), "v4.channel.k8s.io", &EXEC).await;
    let sent = noise(8 << 20);
    let (output, status) = client.run(&sent).await;
    assert!(output == sent, "{} bytes came back of {}", output.len(), sent.len());
    assert_eq!(status["status"], "Success");
}

#[tokio::test]
async fn a_peer_with_windows_is_never_sent_more_than_it_takes() {
    let fixture = Fixture::new().await;
    let mut client = Spdy::open(&fixture.exec(&["print"], false), "v4.channel.k8s.io", &["error"]).await;
    client.limit_to(10_000).await;
    for name in &EXEC[1..] {
        client.add(name, &[]).await;
    }
    let (output, status) = client.run(b"").await;
    assert!(output == noise(1 << 20));
    assert_eq!(status["status"], "Success");
}

#[tokio::test]
async fn megabytes_go_through_every_websocket_protocol_unbroken() {
    let fixture = Fixture::new().await;
    for protocol in [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "base64.channel.k8s.io",
        "channel.k8s.io",
        "",
    ] {
        let mut client = WebSocket::open(&fixture.exec(&["cat"], false), protocol).await;
        let sent = noise(3 << 20);
        assert!(client.echo(&sent).await == sent, "{protocol}");
        if protocol.starts_with("v5") {
            client.send(255, &[0]).await;
            assert_eq!(client.status().await["status"], "Success");
        }
    }
    fixture.quiet().await;
}

#[tokio::test]
async fn exit_codes_and_errors_reach_the_client() {
    let fixture = Fixture::new().await;
    for code in ["7", "255"] {
        let mut spdy = Spdy::open(&fixture.exec(&["fail", code], false), "v4.channel.k8s.io", &EXEC).await;
        assert_eq!(spdy.run(b"").await.1["details"]["causes"][0]["message"], code);
        let mut websocket = WebSocket::open(&fixture.exec(&["fail", code], false), "v5.channel.k8s.io").await;
        assert_eq!(websocket.status().await["details"]["causes"][0]["message"], code);
    }
    let mut missing = Spdy::open(&fixture.exec(&["nothing"], false), "v4.channel.k8s.io", &EXEC).await;
    let status = missing.run(b"").await.1;
    assert_eq!((&status["status"], &status["code"]), (&"Failure".into(), &500.into()));
    assert!(status["message"].as_str().expect("message").contains("nothing is not there"));
}

#[tokio::test]
async fn a_terminals_sizes_are_passed_on() {
    let fixture = Fixture::new().await;
    let names = ["resize", "stdout", "stdin", "error"];
    let mut spdy = Spdy::open(&fixture.exec(&["size"], true), "v4.channel.k8s.io", &names).await;
    spdy.send("resize", b"{\"Width\":80,\"Height\":24}\n{\"Width\":81,").await;
    spdy.send("resize", b"\"Height\":25}\n").await;
    assert_eq!(spdy.run(b"").await.0, b"80x24 81x25 ");
    let mut websocket = WebSocket::open(&fixture.exec(&["size"], true), "v5.channel.k8s.io").await;
    websocket.send(4, b"{\"Width\":1,\"Height\":2}{\"Width\":3,\"Height\":4}").await;
    assert_eq!(websocket.status().await["status"], "Success");
    assert_eq!(websocket.output, b"1x2 3x4 ");
}

#[tokio::test]
async fn a_client_that_vanishes_ends_its_session_alone() {
    let fixture = Fixture::new().await;
    let much = vec![b'x'; 64 << 20];
    let other = Spdy::open(&fixture.exec(&["spin"], false), "v4.channel.k8s.io", &EXEC).await;
    // One whose process reads nothing, with more under way than any queue holds; one that reads nothing itself.
    for command in ["stall", "flood", "spin", "cat"] {
        let mut spdy = Spdy::open(&fixture.exec(&[command], false), "v4.channel.k8s.io", &EXEC).await;
        let stuffed = tokio::time::timeout(Duration::from_millis(300), spdy.send("stdin", &much)).await;
        assert!(stuffed.is_err(), "{command} took 64 MiB");
        drop(spdy);
        drop(WebSocket::open(&fixture.exec(&[command], false), "v5.channel.k8s.io").await);
    }
    for _ in 0..500 {
        if fixture.echo.running.load(Ordering::SeqCst) <= 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(fixture.echo.running.load(Ordering::SeqCst), 1, "only the other client's is left");
    drop(other);
    fixture.quiet().await;
}

#[tokio::test]
async fn hundreds_of_failed_sessions_leave_nothing() {
    let fixture = Fixture::new().await;
    let open = || std::fs::read_dir("/proc/self/fd").expect("fds").count();
    let before = open();
    for n in 0..300 {
        match n % 3 {
            0 => drop(Spdy::open(&fixture.exec(&["nothing"], true), "v4.channel.k8s.io", &["error", "stdin"]).await),
            1 => drop(WebSocket::open(&fixture.exec(&["nothing"], true), "v5.channel.k8s.io").await),
            _ => assert!(request(&fixture.exec(&["nothing"], true), &[]).await.starts_with("HTTP/1.1 400")),
        }
    }
    fixture.quiet().await;
    for _ in 0..800 {
        if open() <= before + 2 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} descriptors before, {} after", before, open());
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy_and_through_the_tunnel() {
    let fixture = Fixture::new().await;
    for tunnel in [false, true] {
        let url = fixture.forward(Vec::new());
        let mut client =
            if tunnel { Spdy::tunnel(&url).await } else { Spdy::open(&url, "portforward.k8s.io", &[]).await };
        for id in ["0", "1"] {
            client.add("error", &[("port", "80"), ("requestid", id)]).await;
            client.add("data", &[("port", "80"), ("requestid", id)]).await;
            let sent = noise(1 << 20);
            assert!(client.echo("data", &sent).await == sent);
            client.forget();
        }
        client.add("data", &[("port", "1"), ("requestid", "2")]).await;
        client.add("error", &[("port", "1"), ("requestid", "2")]).await;
        let text = client.read("error").await;
        assert!(String::from_utf8_lossy(&text).contains("port 1 "), "{text:?}");
        client.forget();
        client.add("nonsense", &[("port", "80")]).await;
        assert!(client.read("nonsense").await.is_empty(), "it is reset");
    }
}

#[tokio::test]
async fn ports_are_forwarded_over_channels() {
    let fixture = Fixture::new().await;
    let mut client = WebSocket::open(&fixture.forward(vec![80, 80]), "v4.channel.k8s.io").await;
    for channel in 0..4 {
        assert_eq!(client.message().await, Some((channel, vec![80, 0])));
    }
    client.send(2, b"hello").await;
    assert_eq!(client.message().await, Some((2, b"hello".to_vec())));
}

#[tokio::test]
async fn what_is_no_session_is_refused() {
    let fixture = Fixture::new().await;
    let url = fixture.exec(&["cat"], false);
    let upgrade = ["Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io"];
    let foreign = [&upgrade[..], &["Origin: https://example.com"]].concat();
    assert!(request(&url, &foreign).await.starts_with("HTTP/1.1 403"));
    assert!(request(&url, &upgrade).await.starts_with("HTTP/1.1 101"));
    assert!(request(&url, &upgrade).await.starts_with("HTTP/1.1 404"), "it was used");
    let other = ["Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v9.channel.k8s.io"];
    let refused = request(&fixture.exec(&["cat"], false), &other).await;
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("v4.channel.k8s.io"), "{refused}");
    assert!(request(&fixture.forward(vec![70000]), &upgrade).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_told_and_left() {
    let fixture = Fixture::new().await;
    let mut client = Spdy::open(&fixture.exec(&["spin"], false), "v4.channel.k8s.io", &EXEC).await;
    client.raw(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]).await;
    assert!(client.ends().await, "GOAWAY and the end");
    fixture.quiet().await;
}
