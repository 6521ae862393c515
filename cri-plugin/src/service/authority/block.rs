//! One header block: taken out of its frames, its authority looked at, and written anew.
//!
//! Pure code over bytes of a client. RFC 7541 is HPACK, RFC 9113 section 6 the frames. The new block uses no table at
//! all, only literals: longer by some hundred bytes, and there is no state that could differ from the reader's.

use std::borrow::Cow;

use http::uri::Authority;
use loona_hpack::Decoder;
use loona_hpack::decoder::DecoderError;

use super::frame::{self, Head};

/// What a client may use of our memory for one header block, encoded with its frames, decoded, or encoded anew.
pub(super) const LIMIT_BYTES: usize = 64 << 10;

/// The dynamic table a client may ask for: HTTP/2's default, which h2 announces no other value for.
const TABLE_BYTES: usize = 4096;

/// What stands in place of an authority that is none.
const LOCALHOST: &[u8] = b"localhost";

/// Why a header block cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum BlockError {
    /// A frame's padding is longer than the frame, or a fixed part is missing.
    #[error("padding or priority of a HEADERS frame exceeds the frame")]
    Padding,
    /// No HPACK.
    #[error("header block is no valid HPACK: {0}")]
    Hpack(#[from] DecoderError),
    /// More than the limit.
    #[error("header block of more than {LIMIT_BYTES} bytes")]
    TooLong,
    /// Another frame between HEADERS and its last CONTINUATION.
    #[error("header block broken by another frame")]
    Broken,
}

/// The frames of one header block, joined.
pub(super) struct Block {
    head: Head,
    /// Exclusive bit, dependency and weight, if the client sent them.
    priority: Option<[u8; 5]>,
    fragment: Vec<u8>,
}

impl Block {
    /// Joins the HEADERS frame and the CONTINUATION frames after it that `frames` consists of.
    pub(super) fn join(frames: &[u8]) -> Result<Block, BlockError> {
        let (head, mut payload, mut rest) = frame::split(frames).ok_or(BlockError::Broken)?;
        let mut padding = 0;
        if head.has(frame::PADDED) {
            let (&length, after) = payload.split_first().ok_or(BlockError::Padding)?;
            (padding, payload) = (usize::from(length), after);
        }
        let mut priority = None;
        if head.has(frame::PRIORITY) {
            let (&first, after) = payload.split_first_chunk().ok_or(BlockError::Padding)?;
            (priority, payload) = (Some(first), after);
        }
        let end = payload.len().checked_sub(padding).ok_or(BlockError::Padding)?;
        let mut fragment = payload[..end].to_vec();
        while !rest.is_empty() {
            let (_, more, after) = frame::split(rest).ok_or(BlockError::Broken)?;
            fragment.extend_from_slice(more);
            rest = after;
        }
        Ok(Block { head, priority, fragment })
    }

    /// The block as frames again, around another fragment and without padding.
    pub(super) fn frames(&self, fragment: &[u8], out: &mut Vec<u8>) {
        let priority = self.priority.as_ref().map_or(&[][..], |bytes| &bytes[..]);
        let (first, rest) = fragment.split_at(fragment.len().min(frame::MAX_PAYLOAD_BYTES - priority.len()));
        let end = |last: bool| if last { frame::END_HEADERS } else { 0 };
        let flags = self.head.flags & (frame::END_STREAM | frame::PRIORITY);
        let head = Head { kind: frame::HEADERS, flags: flags | end(rest.is_empty()), stream: self.head.stream };
        frame::write(&head, &[priority, first], out);
        let mut chunks = rest.chunks(frame::MAX_PAYLOAD_BYTES).peekable();
        while let Some(chunk) = chunks.next() {
            let flags = end(chunks.peek().is_none());
            frame::write(&Head { kind: frame::CONTINUATION, flags, stream: self.head.stream }, &[chunk], out);
        }
    }
}

/// Reads the header blocks of one client, all of them and in their order: each builds on those before.
pub(super) struct Reader {
    decoder: Decoder<'static>,
}

/// A header block without table and Huffman code.
#[derive(Debug, PartialEq)]
pub(super) struct Plain {
    /// The new fragment.
    pub fragment: Vec<u8>,
    /// Whether an authority was put in place of another.
    pub replaced: bool,
}

impl Reader {
    pub(super) fn new() -> Reader {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE_BYTES);
        Reader { decoder }
    }

    /// Decodes a block and encodes it anew, with `localhost` for an authority that h2 would refuse.
    pub(super) fn read(&mut self, block: &Block) -> Result<Plain, BlockError> {
        let mut plain = Plain { fragment: Vec::with_capacity(block.fragment.len() * 2), replaced: false };
        // The decoder cannot be stopped half-way: what is too long is decoded to its end and dropped.
        self.decoder.decode_with_cb(&block.fragment, |name, value| plain.push(&name, value))?;
        if plain.fragment.len() > LIMIT_BYTES { Err(BlockError::TooLong) } else { Ok(plain) }
    }
}

impl Plain {
    fn push(&mut self, name: &[u8], mut value: Cow<'_, [u8]>) {
        if self.fragment.len() > LIMIT_BYTES {
            return;
        }
        if name == b":authority" && !is_authority(&value) {
            value = Cow::Borrowed(LOCALHOST);
            self.replaced = true;
        }
        // Section 6.2.2: a literal without indexing and with its name in full.
        self.fragment.push(0);
        push_string(name, &mut self.fragment);
        push_string(&value, &mut self.fragment);
    }
}

/// Asks the parser that h2 asks.
fn is_authority(value: &[u8]) -> bool {
    Authority::try_from(value).is_ok()
}

/// Section 5.2, without the Huffman code: a length with a prefix of seven bits, then the bytes.
fn push_string(bytes: &[u8], out: &mut Vec<u8>) {
    const PREFIX: usize = 0x7f;
    match bytes.len().checked_sub(PREFIX) {
        None => out.push(bytes.len() as u8),
        Some(mut left) => {
            out.push(PREFIX as u8);
            while left >= 0x80 {
                out.push(left as u8 | 0x80);
                left >>= 7;
            }
            out.push(left as u8);
        }
    }
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_paths_are_no_authority() {
        for (value, expected) in [
            ("localhost", true),
            ("localhost:80", true),
            ("[::1]:10", true),
            ("10.0.0.1", true),
            ("/run/cleat/cleat.sock", false),
            ("%2Frun%2Fcleat%2Fcleat.sock", false),
            ("unix:///run/cleat/cleat.sock", false),
            ("run/cleat.sock", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(is_authority(value.as_bytes()), expected, "{value}");
        }
        assert!(!is_authority(b"\xff"));
    }

    fn block(fragment: &[u8]) -> Block {
        let head = Head { kind: frame::HEADERS, flags: frame::END_HEADERS, stream: 1 };
        Block { head, priority: None, fragment: fragment.to_vec() }
    }

    /// What h2 will read.
    fn fields(fragment: &[u8]) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Decoder::new().decode(fragment).unwrap().into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    /// RFC 7541, C.4: three requests on one connection, Huffman coded and building on each other's table.
    #[test]
    fn the_examples_of_the_rfc_keep_their_fields() {
        let first = "828684418cf1e3c2e5f23a6ba0ab90f4ff";
        let second = "828684be5886a8eb10649cbf";
        let third = "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf";
        let common = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
        let mut reader = Reader::new();
        let mut read = |hex: &str| {
            let plain = reader.read(&block(&hex::decode(hex).unwrap())).unwrap();
            assert!(!plain.replaced);
            fields(&plain.fragment)
        };
        assert_eq!(read(first), pairs(&common));
        assert_eq!(read(second), pairs(&[&common[..], &[("cache-control", "no-cache")]].concat()));
        let https = [(":method", "GET"), (":scheme", "https"), (":path", "/index.html"), common[3]];
        assert_eq!(read(third), pairs(&[&https[..], &[("custom-key", "custom-value")]].concat()));
    }

    #[test]
    fn a_path_gives_way_to_localhost_each_time_it_comes() {
        let mut reader = Reader::new();
        let path = b"/run/cleat/cleat.sock";
        // Indexed name 1 into the table, then the entry it made: 62.
        let literal = [&[0x41, path.len() as u8], &path[..]].concat();
        for fragment in [&literal[..], &[0xbe]] {
            let plain = reader.read(&block(fragment)).unwrap();
            assert!(plain.replaced);
            assert_eq!(fields(&plain.fragment), pairs(&[(":authority", "localhost")]));
        }
    }

    #[test]
    fn the_table_obeys_size_updates() {
        let entry = [&[0x40, 1][..], b"a", &[1], b"b"].concat();
        let mut reader = Reader::new();
        reader.read(&block(&entry)).unwrap();
        // Zero evicts the entry: index 62 is gone, whatever size comes after.
        let error = reader.read(&block(&[0x20, 0x3f, 0xe1, 0x1f, 0xbe])).unwrap_err();
        assert_eq!(error, BlockError::Hpack(DecoderError::HeaderIndexOutOfBounds));
        // 4097 is more than the client was granted.
        let error = reader.read(&block(&[0x3f, 0xe2, 0x1f, 0x82])).unwrap_err();
        assert_eq!(error, BlockError::Hpack(DecoderError::InvalidMaxDynamicSize));
    }

    #[test]
    fn a_block_that_grows_in_decoding_is_refused() {
        let value = [b'x'; 4000];
        let mut bomb = [&[0x40, 1][..], b"a", &[0x7f, 0xa1, 0x1e], &value].concat();
        bomb.extend([0xbe; 1000]);
        assert_eq!(Reader::new().read(&block(&bomb)), Err(BlockError::TooLong));
    }

    #[test]
    fn lengths_are_encoded_as_the_rfc_says() {
        for (length, expected) in [
            (0, &[0][..]),
            (126, &[126]),
            (127, &[127, 0]),
            (128, &[127, 1]),
            (254, &[127, 127]),
            (255, &[127, 0x80, 1]),
            (16_511, &[127, 0x80, 0x80, 1]),
        ] {
            let mut out = Vec::new();
            push_string(&vec![b'x'; length], &mut out);
            assert_eq!(&out[..out.len() - length], expected, "{length}");
        }
    }

    /// One frame with any flags.
    fn raw(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::write(&Head { kind, flags, stream: 5 }, &[payload], &mut out);
        out
    }

    #[test]
    fn padding_goes_and_priority_stays() {
        let priority = [0x80, 0, 0, 1, 9];
        let flags = frame::PADDED | frame::PRIORITY | frame::END_STREAM;
        let payload = [&[3][..], &priority, b"abc", &[0; 3]].concat();
        let frames =
            [raw(frame::HEADERS, flags, &payload), raw(frame::CONTINUATION, frame::END_HEADERS, b"de")].concat();
        let block = Block::join(&frames).unwrap();
        assert_eq!(block.fragment, b"abcde");
        let mut out = Vec::new();
        block.frames(b"xyz", &mut out);
        let flags = frame::PRIORITY | frame::END_STREAM | frame::END_HEADERS;
        assert_eq!(out, raw(frame::HEADERS, flags, &[&priority[..], b"xyz"].concat()));
    }

    #[test]
    fn impossible_padding_and_priority_are_refused() {
        for (flags, payload) in [
            (frame::PADDED, &[][..]),
            (frame::PADDED, &[1]),
            (frame::PADDED, &[4, 1, 2, 3]),
            (frame::PRIORITY, &[1, 2, 3, 4]),
            (frame::PADDED | frame::PRIORITY, &[1, 0, 0, 0, 1, 9]),
        ] {
            let error = Block::join(&raw(frame::HEADERS, flags, payload)).err();
            assert_eq!(error, Some(BlockError::Padding), "{flags} {payload:?}");
        }
    }

    #[test]
    fn a_long_block_is_cut_into_frames_that_h2_takes() {
        let priority = [0, 0, 0, 0, 9];
        let frames = raw(frame::HEADERS, frame::PRIORITY | frame::END_HEADERS, &priority);
        let fragment: Vec<u8> = (0..40_000_u32).map(|i| i as u8).collect();
        let mut out = Vec::new();
        Block::join(&frames).unwrap().frames(&fragment, &mut out);
        let mut lengths = Vec::new();
        let mut rest = &out[..];
        while let Some((head, payload, after)) = frame::split(rest) {
            lengths.push((head.kind, payload.len(), head.has(frame::END_HEADERS)));
            rest = after;
        }
        let expected =
            [(frame::HEADERS, 16_384, false), (frame::CONTINUATION, 16_384, false), (frame::CONTINUATION, 7_237, true)];
        assert_eq!(lengths, expected);
        assert_eq!(Block::join(&out).unwrap().fragment, fragment);
    }
}
