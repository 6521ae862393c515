//! What a client sends, byte by byte: where header blocks begin and end, and what goes on to h2.
//!
//! ```text
//! Looking --first block has an authority, or cannot be read--> Plain: the rest is not looked at
//!    |
//!    +-----first block has none--------------------------> Rewriting: every block is written anew
//! ```
//!
//! Pure code, fed with whatever pieces the socket gives. Bytes outside header blocks go on at once; of a block at most
//! [`LIMIT_BYTES`] are held. While looking, whatever is wrong is left to h2, which answers it as HTTP/2 says; once
//! rewriting, a block that cannot be read ends the connection, for nothing after it could be read either.

use super::block::{Block, BlockError, LIMIT_BYTES, Reader};
use super::frame::{self, HEAD_BYTES};

/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is kept of a buffer between two blocks.
const KEPT_BYTES: usize = 8 << 10;

/// One client's bytes.
pub(super) struct Scan {
    phase: Phase,
    at: At,
    /// A head that is not whole yet, or the frames of a header block.
    held: Vec<u8>,
    /// What goes on to h2, but for the first `taken` bytes, which have.
    out: Vec<u8>,
    taken: usize,
    reader: Reader,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Looking,
    Rewriting,
    Plain,
}

/// Where in the stream the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Preface {
        seen: usize,
    },
    /// In a frame's head, which begins at `start` of what is held.
    Head {
        start: usize,
    },
    /// In a payload that is passed on.
    Payload {
        left: usize,
    },
    /// In a payload that is held.
    Held {
        left: usize,
        last: bool,
    },
}

impl Scan {
    pub(super) fn new() -> Scan {
        Scan {
            phase: Phase::Looking,
            at: At::Preface { seen: 0 },
            held: Vec::new(),
            out: Vec::new(),
            taken: 0,
            reader: Reader::new(),
        }
    }

    /// Whether all further bytes may pass by this scan, once nothing is [`ready`](Scan::ready).
    pub(super) fn is_plain(&self) -> bool {
        self.phase == Phase::Plain
    }

    /// What goes on to h2 and has not been [`taken`](Scan::took).
    pub(super) fn ready(&self) -> &[u8] {
        &self.out[self.taken..]
    }

    /// `count` bytes of what was ready have gone on.
    pub(super) fn took(&mut self, count: usize) {
        self.taken += count;
        if self.ready().is_empty() {
            self.out.clear();
            self.out.shrink_to(KEPT_BYTES);
            self.taken = 0;
        }
    }

    /// Takes bytes from the client and says how many: fewer than there are if much is ready already, because a few
    /// bytes of HPACK can stand for a long block.
    pub(super) fn push(&mut self, input: &[u8]) -> Result<usize, BlockError> {
        let mut used = 0;
        while used < input.len() && self.out.len() < LIMIT_BYTES {
            used += self.step(&input[used..])?;
        }
        Ok(used)
    }

    /// Takes some of the input, which is not empty, and says how much.
    fn step(&mut self, input: &[u8]) -> Result<usize, BlockError> {
        if self.phase == Phase::Plain {
            self.out.extend_from_slice(input);
            return Ok(input.len());
        }
        match self.at {
            At::Preface { seen } => Ok(self.preface(seen, input)),
            At::Head { start } => {
                let (piece, left) = cut(input, HEAD_BYTES - (self.held.len() - start));
                self.held.extend_from_slice(piece);
                if left == 0 {
                    self.head(start)?;
                }
                Ok(piece.len())
            }
            At::Payload { left } => {
                let (piece, left) = cut(input, left);
                self.out.extend_from_slice(piece);
                self.pass(left);
                Ok(piece.len())
            }
            At::Held { left, last } => {
                let (piece, left) = cut(input, left);
                self.held.extend_from_slice(piece);
                self.hold(left, last)?;
                Ok(piece.len())
            }
        }
    }

    /// Compares with the preface; whoever sends another is no HTTP/2 client.
    fn preface(&mut self, seen: usize, input: &[u8]) -> usize {
        let (piece, left) = cut(input, PREFACE.len() - seen);
        let next = seen + piece.len();
        if *piece != PREFACE[seen..next] {
            self.phase = Phase::Plain;
            return 0;
        }
        self.out.extend_from_slice(piece);
        self.at = if left > 0 { At::Preface { seen: next } } else { At::Head { start: 0 } };
        piece.len()
    }

    /// `left` bytes are still to be passed on; with none the next frame begins.
    fn pass(&mut self, left: usize) {
        self.at = if left > 0 { At::Payload { left } } else { At::Head { start: 0 } };
    }

    /// A head is whole: its payload passes or is held.
    fn head(&mut self, start: usize) -> Result<(), BlockError> {
        let Some(bytes) = self.held[start..].first_chunk() else { return Ok(()) };
        let (head, length) = frame::parse(bytes);
        let belongs = match frame::split(&self.held[..start]) {
            None => head.kind == frame::HEADERS,
            Some((first, ..)) => head.kind == frame::CONTINUATION && head.stream == first.stream,
        };
        match (belongs, start) {
            (true, _) if self.held.len() + length > LIMIT_BYTES => self.give_up(BlockError::TooLong),
            (true, _) => self.hold(length, head.has(frame::END_HEADERS)),
            (false, 0) => {
                self.out.append(&mut self.held);
                self.pass(length);
                Ok(())
            }
            (false, _) => self.give_up(BlockError::Broken),
        }
    }

    /// `left` bytes are still to be held; with none the frame is whole.
    fn hold(&mut self, left: usize, last: bool) -> Result<(), BlockError> {
        match (left, last) {
            (0, true) => return self.block(),
            (0, false) => self.at = At::Head { start: self.held.len() },
            _ => self.at = At::Held { left, last },
        }
        Ok(())
    }

    /// A header block is whole: it goes on as it came or anew.
    fn block(&mut self) -> Result<(), BlockError> {
        let read = Block::join(&self.held).and_then(|block| Ok((self.reader.read(&block)?, block)));
        let (plain, block) = match read {
            Ok(read) => read,
            Err(error) => return self.give_up(error),
        };
        if self.phase == Phase::Looking && !plain.replaced {
            self.pass_on();
            return Ok(());
        }
        self.phase = Phase::Rewriting;
        block.frames(&plain.fragment, &mut self.out);
        self.held = Vec::new();
        self.at = At::Head { start: 0 };
        Ok(())
    }

    /// While looking, h2 gets what is held and says what is wrong with it; later nobody can.
    fn give_up(&mut self, error: BlockError) -> Result<(), BlockError> {
        if self.phase == Phase::Rewriting {
            return Err(error);
        }
        self.pass_on();
        Ok(())
    }

    fn pass_on(&mut self) {
        self.phase = Phase::Plain;
        self.out.append(&mut self.held);
    }
}

/// The first `wanted` bytes, and how many of those are missing.
fn cut(input: &[u8], wanted: usize) -> (&[u8], usize) {
    let piece = &input[..wanted.min(input.len())];
    (piece, wanted - piece.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS, Head};
    use super::*;

    const DATA: u8 = 0;
    const SETTINGS: u8 = 4;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::write(&Head { kind, flags, stream }, &[payload], &mut out);
        out
    }

    /// A block of `:authority` alone, put into the table as entry 62.
    fn authority(value: &str) -> Vec<u8> {
        [&[0x41, value.len() as u8], value.as_bytes()].concat()
    }

    /// The same block as this module writes it.
    fn plain(value: &str) -> Vec<u8> {
        [&[0, 10], &b":authority"[..], &[value.len() as u8], value.as_bytes()].concat()
    }

    /// All that goes on, with the socket giving `piece` bytes at a time.
    fn through(input: &[u8], piece: usize) -> (Vec<u8>, Result<Phase, BlockError>) {
        let (mut scan, mut out) = (Scan::new(), Vec::new());
        for mut chunk in input.chunks(piece) {
            while !chunk.is_empty() {
                let pushed = scan.push(chunk);
                assert!(scan.held.len() < LIMIT_BYTES + HEAD_BYTES && scan.out.len() < 3 * LIMIT_BYTES + chunk.len());
                out.extend_from_slice(scan.ready());
                scan.took(scan.ready().len());
                match pushed {
                    Ok(used) => chunk = &chunk[used..],
                    Err(error) => return (out, Err(error)),
                }
            }
        }
        (out, Ok(scan.phase))
    }

    #[test]
    fn a_client_with_an_authority_is_not_touched() {
        let input = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &[0; 12]),
            frame(HEADERS, END_HEADERS, 1, &authority("localhost")),
            frame(HEADERS, END_HEADERS, 3, &authority("/later/ones/are/not/looked/at")),
        ]
        .concat();
        for piece in [1, 2, 9, 10, 33, 1000] {
            assert_eq!(through(&input, piece), (input.clone(), Ok(Phase::Plain)), "{piece}");
        }
    }

    #[test]
    fn all_blocks_of_a_client_with_a_path_are_written_anew() {
        let path = authority("/run/cleat/cleat.sock");
        let (first, second) = path.split_at(4);
        let data = frame(DATA, END_STREAM, 1, b"request");
        let input = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &[]),
            frame(HEADERS, 0, 1, first),
            frame(CONTINUATION, 0, 1, second),
            frame(CONTINUATION, END_HEADERS, 1, &[]),
            data.clone(),
            frame(HEADERS, END_HEADERS | END_STREAM, 3, &[0xbe]),
            frame(HEADERS, END_HEADERS, 5, &authority("proper")),
            data.clone(),
        ]
        .concat();
        let expected = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &[]),
            frame(HEADERS, END_HEADERS, 1, &plain("localhost")),
            data.clone(),
            frame(HEADERS, END_HEADERS | END_STREAM, 3, &plain("localhost")),
            frame(HEADERS, END_HEADERS, 5, &plain("proper")),
            data,
        ]
        .concat();
        for piece in [1, 2, 9, 10, 33, 1000] {
            assert_eq!(through(&input, piece), (expected.clone(), Ok(Phase::Rewriting)), "{piece}");
        }
    }

    #[test]
    fn the_servers_first_answer_is_not_held_up() {
        let mut scan = Scan::new();
        let input = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[0; 6])].concat();
        scan.push(&input).unwrap();
        assert_eq!(scan.ready(), input);
    }

    /// Each of these is a mistake h2 has an answer to, so h2 gets it as it came.
    #[test]
    fn what_is_wrong_in_the_first_block_is_left_to_h2() {
        let path = authority("/run/cleat.sock");
        let long: Vec<u8> = (0..5).flat_map(|_| frame(CONTINUATION, 0, 1, &[0; 16_000])).collect();
        let mut huge = frame(HEADERS, END_HEADERS, 1, b"");
        huge[0] = 0xff;
        for tail in [
            frame(HEADERS, END_HEADERS, 1, &[0xff]),
            frame(HEADERS, END_HEADERS | frame::PADDED, 1, &[200]),
            [frame(HEADERS, 0, 1, &path), frame(DATA, 0, 1, b"x")].concat(),
            [frame(HEADERS, 0, 1, &path), frame(CONTINUATION, END_HEADERS, 3, b"")].concat(),
            [frame(HEADERS, 0, 1, &path), long].concat(),
            huge,
        ] {
            let input = [PREFACE, &tail].concat();
            for piece in [1, 7, 100_000] {
                assert_eq!(through(&input, piece), (input.clone(), Ok(Phase::Plain)));
            }
        }
        for input in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!", b"!"] {
            assert_eq!(through(input, 3), (input.to_vec(), Ok(Phase::Plain)));
        }
    }

    #[test]
    fn what_is_wrong_later_ends_the_connection() {
        let start = [PREFACE, &frame(HEADERS, END_HEADERS, 1, &authority("/run/cleat.sock"))].concat();
        let flood: Vec<u8> = (0..8_000).flat_map(|_| frame(CONTINUATION, 0, 3, b"")).collect();
        let mut huge = frame(HEADERS, END_HEADERS, 3, b"");
        huge[0] = 0xff;
        for (tail, expected) in [
            (frame(HEADERS, END_HEADERS | frame::PADDED, 3, &[200]), BlockError::Padding),
            ([frame(HEADERS, 0, 3, &[0x82]), frame(DATA, 0, 3, b"x")].concat(), BlockError::Broken),
            ([frame(HEADERS, 0, 3, &[0x82]), frame(CONTINUATION, END_HEADERS, 5, b"")].concat(), BlockError::Broken),
            ([frame(HEADERS, 0, 3, &[0x82]), flood].concat(), BlockError::TooLong),
            (huge, BlockError::TooLong),
        ] {
            assert_eq!(through(&[&start[..], &tail].concat(), 11).1, Err(expected));
        }
        let (_, end) = through(&[&start[..], &frame(HEADERS, END_HEADERS, 3, &[0xff])].concat(), 100);
        assert!(matches!(end, Err(BlockError::Hpack(_))), "{end:?}");
    }

    /// Many small blocks that each stand for a long one: `through` checks what is kept.
    #[test]
    fn little_input_cannot_make_much_output_at_once() {
        let value = [b'x'; 4000];
        let entry = [&[0x40, 1][..], b"a", &[0x7f, 0xa1, 0x1e], &value].concat();
        let mut input =
            [PREFACE, &frame(HEADERS, END_HEADERS, 1, &authority("/s")), &frame(HEADERS, 4, 3, &entry)].concat();
        for _ in 0..200 {
            input.extend(frame(HEADERS, END_HEADERS, 5, &[0xbe; 15]));
        }
        let (out, end) = through(&input, 4096);
        assert_eq!(end, Ok(Phase::Rewriting));
        assert!(out.len() > 200 * 15 * 4000, "{}", out.len());
    }

    /// Frames that are nearly right, so that the interesting paths are reached.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![4 => Just(HEADERS), 3 => Just(CONTINUATION), 1 => Just(DATA), 1 => any::<u8>()];
        let payload = prop_oneof![
            Just(authority("/run/cleat.sock")),
            Just(authority("localhost")),
            Just(vec![0xbe]),
            prop::collection::vec(any::<u8>(), 0..80),
        ];
        let one = (kind, any::<u8>(), 0..3_u32, payload).prop_map(|(k, f, s, p)| frame(k, f, s, &p));
        prop::collection::vec(one, 0..12).prop_map(|frames| frames.concat())
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_pieces_do_not_matter(
            start in prop::sample::select(vec![&b""[..], PREFACE]),
            frames in frames(),
            noise in prop::collection::vec(any::<u8>(), 0..200),
            piece in 1..50_usize,
        ) {
            let input = [start, &frames, &noise].concat();
            let (whole, end) = through(&input, usize::MAX);
            prop_assert_eq!(&through(&input, piece), &(whole.clone(), end.clone()));
            if end == Ok(Phase::Plain) {
                prop_assert_eq!(whole, input);
            }
        }
    }
}
