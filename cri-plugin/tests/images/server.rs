//! A scripted registry: HTTP/1.1 by hand, so that it can lie, stall, reset and count.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One request, headers in lower case.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// How a body is sent.
#[derive(Debug, Clone)]
pub enum Sending {
    Whole,
    /// So many bytes, then the connection is reset.
    ResetAfter(usize),
    /// So many bytes, then nothing more.
    StallAfter(usize),
    /// So many bytes, then one byte at each tick.
    DripAfter(usize, Duration),
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub sending: Sending,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), sending: Sending::Whole }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_string(), value.to_string()));
        self
    }

    pub fn sending(mut self, sending: Sending) -> Self {
        self.sending = sending;
        self
    }
}

type Script = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

pub struct Server {
    /// `127.0.0.1:PORT`.
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
    accepting: JoinHandle<()>,
}

impl Server {
    pub async fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1", script).await
    }

    pub async fn start_on(ip: &str, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let script: Script = Arc::new(script);
        let seen = Arc::clone(&requests);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        Self { address, requests, accepting }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("requests").clone()
    }

    /// GETs of a blob.
    pub fn blob_requests(&self, digest: &str) -> Vec<Request> {
        let wanted = format!("/blobs/{digest}");
        self.requests().into_iter().filter(|r| r.method == "GET" && r.target.contains(&wanted)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, script: Script, seen: Arc<Mutex<Vec<Request>>>) {
    while let Some(request) = read(&mut stream).await {
        seen.lock().expect("requests").push(request.clone());
        let answer = script(&request);
        if write(&mut stream, &request, answer).await.is_none() {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let text = String::from_utf8_lossy(&head).to_string();
    let mut lines = text.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_string(), first.next()?.to_string());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_string()))
        .collect();
    let length = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { method, target, headers, body: String::from_utf8_lossy(&body).to_string() })
}

/// None when the connection is over.
async fn write(stream: &mut TcpStream, request: &Request, answer: Answer) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await.ok()?;
    if request.method == "HEAD" {
        return Some(());
    }
    let body = &answer.body;
    match answer.sending {
        Sending::Whole => stream.write_all(body).await.ok(),
        Sending::ResetAfter(count) => {
            stream.write_all(&body[..count.min(body.len())]).await.ok()?;
            stream.flush().await.ok()?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
        Sending::StallAfter(count) => {
            stream.write_all(&body[..count.min(body.len())]).await.ok()?;
            tokio::time::sleep(Duration::from_secs(120)).await;
            None
        }
        Sending::DripAfter(count, tick) => {
            let count = count.min(body.len());
            stream.write_all(&body[..count]).await.ok()?;
            for byte in &body[count..] {
                tokio::time::sleep(tick).await;
                stream.write_all(&[*byte]).await.ok()?;
            }
            Some(())
        }
    }
}
