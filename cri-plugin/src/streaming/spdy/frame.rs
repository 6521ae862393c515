//! Frames: bytes to events and back. Pure: no I/O, no clock, and no more memory than a piece or a control frame.
//!
//! ```text
//! control  1|version:15  type:16   flags:8 length:24  payload
//! data     0|stream:31             flags:8 length:24  payload
//! ```
//! A data frame may hold 16 MiB; it is handed on in pieces as it comes, never gathered.

use bytes::{Buf, Bytes, BytesMut};

use super::Violation;
use super::headers::{Deflate, Headers, Inflate};

/// What a piece of data holds at most.
pub const PIECE_MAX_BYTES: usize = 32 << 10;
/// Legal are 16 MiB; a stream's headers need a few hundred bytes.
const CONTROL_MAX_BYTES: usize = 64 << 10;
const HEADER_BYTES: usize = 8;
const VERSION: u16 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FIN: u8 = 1;
const INITIAL_WINDOW_SIZE: u32 = 7;

/// RST_STREAM: too many streams.
pub const REFUSED_STREAM: u32 = 3;
/// RST_STREAM: it is no longer wanted.
pub const CANCEL: u32 = 5;

/// What the peer says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It opens a stream.
    Open {
        /// Odd, and greater than every one before; the connection checks that.
        id: u32,
        /// What the stream is for.
        headers: Headers,
        /// It will send nothing on it.
        fin: bool,
    },
    /// It sends on a stream; `fin`: for the last time.
    Data {
        /// Which.
        id: u32,
        /// At most [`PIECE_MAX_BYTES`].
        bytes: Bytes,
        /// The end.
        fin: bool,
    },
    /// It ends a stream in both directions.
    Reset(u32),
    /// Its headers follow late; they are read for the sake of the next block and mean nothing, but for the end.
    Headers {
        /// Which.
        id: u32,
        /// The end.
        fin: bool,
    },
    /// It takes more: on a stream, or with 0 on the connection.
    Window(u32, u32),
    /// What each of its streams takes at first.
    InitialWindow(u32),
    /// It wants an answer.
    Ping(u32),
    /// It opens no more streams.
    GoAway,
}

/// Reads frames.
#[derive(Debug, Default)]
pub struct Decoder {
    inflate: Inflate,
    data: Option<Data>,
    skip: usize,
}

#[derive(Debug)]
struct Data {
    id: u32,
    left: usize,
    fin: bool,
}

/// What became of a control frame.
enum Control {
    /// It says something.
    Event(Event),
    /// Nothing in it concerns us, or its type is one that the protocol lets us ignore; `skip` then passes over it.
    Ignored,
    /// Its end has not been read yet.
    Incomplete,
}

impl Decoder {
    /// The next event, taken off the front of what has been read; None where that needs more.
    pub fn next(&mut self, read: &mut BytesMut) -> Result<Option<Event>, Violation> {
        loop {
            if self.skip > 0 {
                let skipped = self.skip.min(read.len());
                read.advance(skipped);
                self.skip -= skipped;
                if self.skip > 0 {
                    return Ok(None);
                }
            }
            if let Some(data) = self.data.take() {
                return Ok(self.piece(data, read));
            }
            let Some(header) = read.first_chunk::<HEADER_BYTES>().copied() else { return Ok(None) };
            let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
            if header[0] & 0x80 == 0 {
                read.advance(HEADER_BYTES);
                let id = stream_of(&header[..4])?;
                self.data = Some(Data { id, left: length, fin: header[4] & FIN != 0 });
                continue;
            }
            match self.control(header, length, read)? {
                Control::Event(event) => return Ok(Some(event)),
                Control::Ignored => {}
                Control::Incomplete => return Ok(None),
            }
        }
    }

    fn piece(&mut self, data: Data, read: &mut BytesMut) -> Option<Event> {
        let taken = data.left.min(read.len()).min(PIECE_MAX_BYTES);
        let left = data.left - taken;
        if left > 0 {
            self.data = Some(Data { left, ..data });
        }
        if taken == 0 && left > 0 {
            return None;
        }
        // A copy, so that a piece in a queue holds its own bytes and not the whole of the read buffer.
        let bytes = Bytes::copy_from_slice(&read[..taken]);
        read.advance(taken);
        Some(Event::Data { id: data.id, bytes, fin: left == 0 && data.fin })
    }

    fn control(&mut self, head: [u8; 8], length: usize, read: &mut BytesMut) -> Result<Control, Violation> {
        let version = u16::from_be_bytes([head[0] & 0x7f, head[1]]);
        let kind = u16::from_be_bytes([head[2], head[3]]);
        if version != VERSION {
            return Err(Violation::Version(version));
        }
        if !matches!(kind, SYN_STREAM..=SETTINGS | PING..=WINDOW_UPDATE) {
            self.skip = HEADER_BYTES + length;
            return Ok(Control::Ignored);
        }
        if length > CONTROL_MAX_BYTES {
            return Err(Violation::TooLong(length));
        }
        if read.len() < HEADER_BYTES + length {
            return Ok(Control::Incomplete);
        }
        let frame = read.split_to(HEADER_BYTES + length);
        let event = self.known(kind, head[4] & FIN != 0, &frame[HEADER_BYTES..])?;
        Ok(event.map_or(Control::Ignored, Control::Event))
    }

    fn known(&mut self, kind: u16, fin: bool, payload: &[u8]) -> Result<Option<Event>, Violation> {
        let short = Violation::Length(kind);
        let word = |at: usize| {
            let bytes = payload.get(at..at + 4).and_then(|b| b.first_chunk::<4>()).ok_or(short)?;
            Ok(u32::from_be_bytes(*bytes))
        };
        Ok(Some(match kind {
            SYN_STREAM => {
                let id = stream_of(payload)?;
                // Behind the id: the associated stream, the priority and a slot, ten bytes in all.
                let headers = self.inflate.block(payload.get(10..).ok_or(short)?)?;
                Event::Open { id, headers, fin }
            }
            SYN_REPLY | HEADERS => {
                let id = stream_of(payload)?;
                self.inflate.block(payload.get(4..).ok_or(short)?)?;
                Event::Headers { id, fin }
            }
            RST_STREAM => Event::Reset(stream_of(payload)?),
            SETTINGS => return initial_window(payload),
            PING => Event::Ping(word(0)?),
            GOAWAY => Event::GoAway,
            _ => Event::Window(word(0)? & 0x7fff_ffff, word(4)? & 0x7fff_ffff),
        }))
    }
}

fn initial_window(payload: &[u8]) -> Result<Option<Event>, Violation> {
    let (count, entries) = payload.split_first_chunk::<4>().ok_or(Violation::Length(SETTINGS))?;
    if entries.len() != (u32::from_be_bytes(*count) as usize).saturating_mul(8) {
        return Err(Violation::Length(SETTINGS));
    }
    let value = entries.as_chunks::<8>().0.iter().find_map(|&[_, a, b, c, v0, v1, v2, v3]| {
        let id = u32::from_be_bytes([0, a, b, c]);
        (id == INITIAL_WINDOW_SIZE).then_some(u32::from_be_bytes([v0, v1, v2, v3]))
    });
    Ok(value.map(|size| Event::InitialWindow(size & 0x7fff_ffff)))
}

fn stream_of(payload: &[u8]) -> Result<u32, Violation> {
    let id = payload.first_chunk::<4>().map_or(0, |b| u32::from_be_bytes(*b) & 0x7fff_ffff);
    if id == 0 { Err(Violation::StreamId(id)) } else { Ok(id) }
}

/// SYN_REPLY without headers: the stream is taken.
pub fn reply(deflate: &mut Deflate, id: u32) -> Result<Bytes, Violation> {
    let mut payload = id.to_be_bytes().to_vec();
    deflate.block(&Headers::default(), &mut payload)?;
    Ok(control(SYN_REPLY, 0, &payload))
}

/// RST_STREAM.
pub fn reset(id: u32, status: u32) -> Bytes {
    control(RST_STREAM, 0, &[id.to_be_bytes(), status.to_be_bytes()].concat())
}

/// PING, the answer to one with that id.
pub fn ping(id: u32) -> Bytes {
    control(PING, 0, &id.to_be_bytes())
}

/// GOAWAY: `last` is the last stream that was taken; status 0 is OK, 1 a violation.
pub fn go_away(last: u32, status: u32) -> Bytes {
    control(GOAWAY, 0, &[last.to_be_bytes(), status.to_be_bytes()].concat())
}

/// WINDOW_UPDATE: we take so many bytes more, on a stream or with 0 on the connection.
pub fn window_update(id: u32, bytes: u32) -> Bytes {
    control(WINDOW_UPDATE, 0, &[id.to_be_bytes(), bytes.to_be_bytes()].concat())
}

/// DATA; what is longer than 16 MiB is no frame, callers send pieces.
pub fn data(id: u32, bytes: &[u8], fin: bool) -> Bytes {
    let mut frame = Vec::with_capacity(HEADER_BYTES + bytes.len());
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(&flags_and_length(if fin { FIN } else { 0 }, bytes.len()));
    frame.extend_from_slice(bytes);
    frame.into()
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&flags_and_length(flags, payload.len()));
    frame.extend_from_slice(payload);
    frame.into()
}

fn flags_and_length(flags: u8, length: usize) -> [u8; 4] {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    [flags, a, b, c]
}

/// SYN_STREAM, which only a client sends: tests play one.
#[cfg(test)]
pub fn open(deflate: &mut Deflate, id: u32, headers: &Headers, fin: bool) -> Bytes {
    let mut payload = [&id.to_be_bytes()[..], &[0; 6]].concat();
    deflate.block(headers, &mut payload).expect("headers");
    control(SYN_STREAM, if fin { FIN } else { 0 }, &payload)
}

#[cfg(test)]
mod tests;
