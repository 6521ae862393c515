//! Clients for the tests: SPDY with our own frames, WebSocket with the library's.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BytesMut};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Message, http::HeaderValue};

use super::*;
use crate::streaming::spdy::frame::{self, Decoder, Event};
use crate::streaming::spdy::headers::{Deflate, Headers};
use crate::streaming::websocket::tunnel::Tunnel;

fn parts(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").expect("http");
    rest.split_at(rest.find('/').expect("path"))
}

/// Sends a request and returns the beginning of the answer.
pub async fn request(url: &str, headers: &[&str]) -> String {
    let (address, path) = parts(url);
    let mut tcp = TcpStream::connect(address).await.expect("connect");
    let text = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\n{}\r\n",
        headers.iter().map(|h| format!("{h}\r\n")).collect::<String>()
    );
    tcp.write_all(text.as_bytes()).await.expect("write");
    let mut answer = vec![0; 4096];
    let read = tcp.read(&mut answer).await.expect("read");
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What came on a stream.
#[derive(Default)]
struct Got {
    bytes: Vec<u8>,
    ended: bool,
}

/// A SPDY client that reads whenever it waits.
pub struct Spdy {
    io: Box<dyn Io>,
    decoder: Decoder,
    deflate: Deflate,
    read: BytesMut,
    names: BTreeMap<String, u32>,
    got: BTreeMap<u32, Got>,
    next: u32,
    /// What each of our streams takes, where windows are spoken of.
    window: Option<usize>,
    taken: BTreeMap<u32, usize>,
    gone_away: bool,
    /// Whole frames that wait to be written.
    outbox: VecDeque<Bytes>,
}

impl Spdy {
    /// Upgrades and opens streams.
    pub async fn open(url: &str, protocol: &str, names: &[&str]) -> Self {
        let (address, path) = parts(url);
        let mut tcp = TcpStream::connect(address).await.expect("connect");
        let text = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
        );
        tcp.write_all(text.as_bytes()).await.expect("write");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(tcp.read_u8().await.expect("an answer"));
        }
        let answer = String::from_utf8(answer).expect("text").to_lowercase();
        assert!(answer.starts_with("http/1.1 101") && answer.contains(protocol), "{answer}");
        let mut client = Self::over(Box::new(tcp));
        for name in names {
            client.add(name, &[]).await;
        }
        client
    }

    /// SPDY in a WebSocket.
    pub async fn tunnel(url: &str) -> Self {
        Self::over(Box::new(Tunnel::new(websocket(url, "SPDY/3.1+portforward.k8s.io").await)))
    }

    fn over(io: Box<dyn Io>) -> Self {
        Self {
            io,
            decoder: Decoder::default(),
            deflate: Deflate::default(),
            read: BytesMut::new(),
            names: BTreeMap::new(),
            got: BTreeMap::new(),
            next: 1,
            window: None,
            taken: BTreeMap::new(),
            gone_away: false,
            outbox: VecDeque::new(),
        }
    }

    /// Opens a stream.
    pub async fn add(&mut self, name: &str, more: &[(&str, &str)]) {
        let mut headers = vec![("streamtype".to_string(), name.to_string())];
        headers.extend(more.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        let open = frame::open(&mut self.deflate, self.next, &Headers(headers), false);
        self.raw(&open).await;
        self.names.insert(name.into(), self.next);
        self.got.insert(self.next, Got::default());
        self.next += 2;
    }

    /// The names are free for other streams.
    pub fn forget(&mut self) {
        self.names.clear();
    }

    /// Speaks of windows from now on: each stream takes so much at a time.
    pub async fn limit_to(&mut self, bytes: u32) {
        self.window = Some(bytes as usize);
        let settings = [&[0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7][..], &bytes.to_be_bytes()].concat();
        self.raw(&settings).await;
    }

    /// Bytes as they are.
    pub async fn raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.expect("write");
        self.io.flush().await.expect("flush");
    }

    /// Writes to a stream without reading.
    pub async fn send(&mut self, name: &str, bytes: &[u8]) {
        for piece in bytes.chunks(1 << 20) {
            let frame = frame::data(self.names[name], piece, false);
            self.raw(&frame).await;
        }
    }

    /// Sends all of stdin and reads everything to the end: stdout, and the status.
    pub async fn run(&mut self, stdin: &[u8]) -> (Vec<u8>, Value) {
        let output = self.exchange("stdin", stdin, "stdout").await;
        let status = self.read("error").await;
        assert!(self.ends().await);
        (output, serde_json::from_slice(&status).expect("json"))
    }

    /// Sends on a stream, ends it, and reads it to its end.
    pub async fn echo(&mut self, name: &str, bytes: &[u8]) -> Vec<u8> {
        self.exchange(name, bytes, name).await
    }

    async fn exchange(&mut self, to: &str, bytes: &[u8], from: &str) -> Vec<u8> {
        let id = self.names[to];
        self.outbox.extend(bytes.chunks(100_000).map(|piece| frame::data(id, piece, false)));
        self.outbox.push_back(frame::data(id, &[], true));
        let mut current = Bytes::new();
        loop {
            if current.is_empty() {
                let Some(next) = self.outbox.pop_front() else { break };
                current = next;
            }
            let (mut read_half, mut write_half) = tokio::io::split(&mut self.io);
            let mut piece = vec![0; 64 << 10];
            let mut read = 0;
            tokio::select! {
                count = write_half.write(&current) => match count {
                    Ok(count) => {
                        current.advance(count);
                        let _ = write_half.flush().await;
                    }
                    // The server may be done before it has read everything.
                    Err(_) => break,
                },
                count = read_half.read(&mut piece) => read = count.expect("read"),
            }
            self.read.extend_from_slice(&piece[..read]);
            self.take();
        }
        self.read(from).await
    }

    /// What comes on a stream until its end.
    pub async fn read(&mut self, name: &str) -> Vec<u8> {
        let id = self.names[name];
        while !self.got[&id].ended && self.more().await {}
        assert!(self.got[&id].ended, "{name} has no end");
        self.got.remove(&id).expect("a stream").bytes
    }

    /// Whether the server says goodbye and hangs up.
    pub async fn ends(&mut self) -> bool {
        while self.more().await {}
        self.gone_away
    }

    async fn more(&mut self) -> bool {
        while let Some(frame) = self.outbox.pop_front() {
            self.raw(&frame).await;
        }
        let waited =
            tokio::time::timeout(Duration::from_secs(20), self.io.read_buf(&mut self.read)).await.expect("in time");
        let more = matches!(waited, Ok(1..));
        self.take();
        more
    }

    fn take(&mut self) {
        while let Some(event) = self.decoder.next(&mut self.read).expect("frames") {
            match event {
                Event::Data { id, bytes, fin } => {
                    self.count(id, bytes.len());
                    let Some(got) = self.got.get_mut(&id) else { continue };
                    got.bytes.extend_from_slice(&bytes);
                    got.ended |= fin;
                }
                Event::Reset(id) => drop(self.got.get_mut(&id).map(|got| got.ended = true)),
                Event::GoAway => self.gone_away = true,
                _ => {}
            }
        }
    }

    /// Holds the server to the window, and grants it anew when it is used up.
    fn count(&mut self, id: u32, bytes: usize) {
        let Some(window) = self.window else { return };
        let taken = self.taken.entry(id).or_default();
        *taken += bytes;
        assert!(*taken <= window, "{taken} bytes on stream {id} against {window}");
        if *taken == window {
            let grants = [frame::window_update(id, window as u32), frame::window_update(0, window as u32)].concat();
            *taken = 0;
            self.outbox.push_front(grants.into());
        }
    }
}

async fn websocket(url: &str, protocol: &str) -> WebSocketStream<TcpStream> {
    let (address, _) = parts(url);
    let mut request = url.replace("http:", "ws:").into_client_request().expect("request");
    if !protocol.is_empty() {
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_str(protocol).expect("value"));
    }
    let tcp = TcpStream::connect(address).await.expect("connect");
    tokio_tungstenite::client_async(request, tcp).await.expect("handshake").0
}

/// A WebSocket client.
pub struct WebSocket {
    socket: WebSocketStream<TcpStream>,
    base64: bool,
    /// What came on channel 1.
    pub output: Vec<u8>,
}

impl WebSocket {
    /// Upgrades.
    pub async fn open(url: &str, protocol: &str) -> Self {
        let socket = websocket(url, protocol).await;
        Self { socket, base64: protocol.contains("base64"), output: Vec::new() }
    }

    fn encoded(&self, channel: u8, bytes: &[u8]) -> Message {
        use base64::Engine;
        if self.base64 {
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            return Message::Text(format!("{}{text}", char::from(b'0' + channel)).into());
        }
        Message::Binary([&[channel], bytes].concat().into())
    }

    /// Sends a message.
    pub async fn send(&mut self, channel: u8, bytes: &[u8]) {
        let message = self.encoded(channel, bytes);
        self.socket.send(message).await.expect("send");
    }

    /// The next message; None at the normal end.
    pub async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        use base64::Engine;
        loop {
            let message = tokio::time::timeout(Duration::from_secs(20), self.socket.next()).await.expect("in time")?;
            match message.expect("a message") {
                Message::Binary(bytes) => return Some((bytes[0], bytes[1..].to_vec())),
                Message::Text(text) => {
                    let bytes =
                        base64::engine::general_purpose::STANDARD.decode(&text.as_bytes()[1..]).expect("base64");
                    return Some((text.as_bytes()[0] - b'0', bytes));
                }
                Message::Close(frame) => {
                    assert_eq!(u16::from(frame.expect("a frame").code), 1000);
                    return None;
                }
                _ => {}
            }
        }
    }

    /// Sends stdin and reads as much stdout.
    pub async fn echo(&mut self, stdin: &[u8]) -> Vec<u8> {
        let mut output = Vec::new();
        for piece in stdin.chunks(200_000) {
            self.send(0, piece).await;
            while output.len() < piece.len() {
                let (channel, bytes) = self.message().await.expect("more");
                assert_eq!(channel, 1);
                output.extend(bytes);
            }
            self.output.append(&mut output);
        }
        std::mem::take(&mut self.output)
    }

    /// Reads to the end; the status.
    pub async fn status(&mut self) -> Value {
        let mut status = Vec::new();
        while let Some((channel, bytes)) = self.message().await {
            match channel {
                1 => self.output.extend(bytes),
                3 => status.extend(bytes),
                other => panic!("channel {other}"),
            }
        }
        serde_json::from_slice(&status).expect("json")
    }
}
