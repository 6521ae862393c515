//! A gRPC client that writes its own HTTP/2 frames, so that it can say what no library lets it say.

use std::time::Duration;

use loona_hpack::{Decoder, Encoder};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::server;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

/// Also the flag ACK of SETTINGS.
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// How a call ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Status OK and this message.
    Message(Vec<u8>),
    /// Another gRPC status.
    Status(i32),
    /// The stream was reset with this code.
    Reset(u32),
    /// The connection was closed.
    Closed,
}

impl Answer {
    pub fn version(api_version: &str) -> Answer {
        Answer::Message(server::answer(api_version).encode_to_vec())
    }
}

/// A connection. Its header blocks use the table, as those of real clients do.
pub struct Raw {
    io: UnixStream,
    encoder: Encoder<'static>,
    decoder: Decoder<'static>,
}

impl Raw {
    pub async fn connect(socket: &str) -> Raw {
        let mut io = UnixStream::connect(socket).await.unwrap();
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut raw = Raw { io, encoder: Encoder::new(), decoder: Decoder::new() };
        raw.frame(SETTINGS, 0, 0, &[]).await;
        raw
    }

    /// Calls with an empty message.
    pub async fn request(&mut self, stream: u32, path: &str, authority: &str) {
        let fragment = self.fragment(path, authority);
        self.headers(stream, &fragment).await;
        self.message(stream).await;
    }

    /// The same with padding, priority and one CONTINUATION for every ten bytes.
    pub async fn request_in_pieces(&mut self, stream: u32, path: &str, authority: &str) {
        let fragment = self.fragment(path, authority);
        let (first, rest) = fragment.split_at(3);
        let payload = [&[4][..], &[0, 0, 0, 0, 15], first, &[0; 4]].concat();
        self.frame(HEADERS, PADDED | PRIORITY, stream, &payload).await;
        let mut pieces = rest.chunks(10).peekable();
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            self.frame(CONTINUATION, flags, stream, piece).await;
            tokio::task::yield_now().await;
        }
        self.message(stream).await;
    }

    /// One HEADERS frame around any bytes.
    pub async fn headers(&mut self, stream: u32, fragment: &[u8]) {
        self.frame(HEADERS, END_HEADERS, stream, fragment).await;
    }

    fn fragment(&mut self, path: &str, authority: &str) -> Vec<u8> {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        self.encoder.encode(fields.map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    /// An empty gRPC message, which ends the request.
    async fn message(&mut self, stream: u32) {
        self.frame(DATA, END_STREAM, stream, &[0; 5]).await;
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.io.write_all(&bytes).await.unwrap();
    }

    /// Reads until the call has ended.
    pub async fn answer(&mut self) -> Answer {
        tokio::time::timeout(Duration::from_secs(20), self.read_answer()).await.unwrap()
    }

    async fn read_answer(&mut self) -> Answer {
        let mut body = Vec::new();
        loop {
            let Ok((kind, flags, payload)) = self.read_frame().await else { return Answer::Closed };
            match kind {
                SETTINGS if flags & END_STREAM == 0 => self.frame(SETTINGS, END_STREAM, 0, &[]).await,
                RST_STREAM => return Answer::Reset(u32::from_be_bytes(payload.try_into().unwrap())),
                DATA => body.extend(payload),
                HEADERS => {
                    let fields = self.decoder.decode(&payload).unwrap();
                    if flags & END_STREAM != 0 {
                        return ended(&fields, &body);
                    }
                }
                _ => {}
            }
        }
    }

    async fn read_frame(&mut self) -> std::io::Result<(u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.io.read_exact(&mut payload).await?;
        Ok((kind, flags, payload))
    }
}

fn ended(fields: &[(Vec<u8>, Vec<u8>)], body: &[u8]) -> Answer {
    let (_, status) = fields.iter().find(|(name, _)| name == b"grpc-status").unwrap();
    match String::from_utf8_lossy(status).parse().unwrap() {
        0 => Answer::Message(body[5..].to_vec()),
        status => Answer::Status(status),
    }
}
