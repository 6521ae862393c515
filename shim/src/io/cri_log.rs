//! The CRI log format, pure: bytes of a stream in, records out.
//!
//! A record is `STAMP SP stdout|stderr SP F|P SP content LF`. `F` ends a line, `P` says that the line goes on in the next
//! record of that stream; a reader joins them again. A line is cut after `max_line` bytes of content, anywhere. What is left
//! without a newline when the stream ends is a `P`, so that the reader adds no newline the process never wrote, and a carriage
//! return before a newline is dropped: both as containerd does, whose logs users compare ours with.
//!
//! The records depend on the bytes only, never on how they were cut into batches: an unfinished line is held back, never
//! written early. Reading files, time and errors are elsewhere (`log_file`).

use super::stamp::{self, Stamp};

/// An output stream of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and all output of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The bytes of a record that are not content: stamp, spaces, stream, tag and newline.
pub const OVERHEAD: usize = HEADER + 1;
/// A page holding this much takes no further record: a batch that fits the processor's cache is written faster.
const FULL_AT: usize = 128 * 1024;
const HEADER: usize = stamp::LEN + 10;
const TAG_AT: usize = HEADER - 2;

/// Records on their way to the file: a piece of memory that belongs to someone else, and how much of it is filled.
#[derive(Debug)]
pub struct Page<'a> {
    memory: &'a mut [u8],
    filled: usize,
}

impl<'a> Page<'a> {
    /// The least memory a page needs for records of `max_line` bytes.
    pub const fn needed(max_line: usize) -> usize {
        FULL_AT + max_line + OVERHEAD
    }

    /// An empty page; it must be at least [`Page::needed`] bytes long for the lines to come.
    pub fn new(memory: &'a mut [u8]) -> Self {
        Self { memory, filled: 0 }
    }

    /// The records so far.
    pub fn records(&self) -> &[u8] {
        &self.memory[..self.filled]
    }

    fn is_full(&self, max_line: usize) -> bool {
        self.filled >= FULL_AT || self.memory.len() - self.filled < max_line + OVERHEAD
    }

    fn put(&mut self, bytes: &[u8]) {
        self.memory[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }
}

/// Cuts one stream into records.
#[derive(Debug)]
pub struct Splitter {
    stream: Stream,
    max_line: usize,
    /// The line that has no end yet: at most `max_line` bytes, no memory at all between lines.
    held: Vec<u8>,
}

impl Splitter {
    /// A splitter at the beginning of `stream`, cutting lines after `max_line` bytes (at least 1).
    pub fn new(stream: Stream, max_line: usize) -> Self {
        Self { stream, max_line: max_line.max(1), held: Vec::new() }
    }

    /// The stream the records are for.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// Turns the next bytes of the stream into records until they are used up or the page is full; returns how many were
    /// used. Call again with the rest and an empty page.
    pub fn push(&mut self, input: &[u8], stamp: &Stamp, page: &mut Page<'_>) -> usize {
        let mut header = self.header(stamp);
        let mut rest = input;
        while !rest.is_empty() && !page.is_full(self.max_line) {
            let room = self.max_line - self.held.len();
            let window = &rest[..rest.len().min(room + 1)];
            if let Some(end) = memchr::memchr(b'\n', window) {
                self.line(&mut header, &window[..end], page);
                rest = &rest[end + 1..];
            } else if window.len() > room {
                self.part(&mut header, &window[..room], page);
                rest = &rest[room..];
            } else {
                self.held.extend_from_slice(rest);
                rest = &[];
            }
        }
        input.len() - rest.len()
    }

    /// The stream has ended: what is held becomes the last record. The page must be empty.
    pub fn finish(&mut self, stamp: &Stamp, page: &mut Page<'_>) {
        if !self.held.is_empty() {
            let mut header = self.header(stamp);
            self.part(&mut header, &[], page);
        }
    }

    /// A whole line of our own, such as a note on lost records; it does not touch what is held.
    pub fn note(stream: Stream, stamp: &Stamp, text: &str) -> Vec<u8> {
        let header = Self::new(stream, 1).header(stamp);
        [&header[..], text.as_bytes(), b"\n"].concat()
    }

    fn header(&self, stamp: &Stamp) -> [u8; HEADER] {
        let mut header = *b"0000-00-00T00:00:00.000000000Z stdout F ";
        header[..stamp::LEN].copy_from_slice(stamp.as_bytes());
        if self.stream == Stream::Stderr {
            header[stamp::LEN + 4..stamp::LEN + 7].copy_from_slice(b"err");
        }
        header
    }

    fn line(&mut self, header: &mut [u8; HEADER], end: &[u8], page: &mut Page<'_>) {
        header[TAG_AT] = b'F';
        page.put(header);
        let content = page.filled;
        page.put(&self.held);
        page.put(end);
        if page.memory[content..page.filled].ends_with(b"\r") {
            page.filled -= 1;
        }
        page.put(b"\n");
        self.held = Vec::new();
    }

    fn part(&mut self, header: &mut [u8; HEADER], end: &[u8], page: &mut Page<'_>) {
        header[TAG_AT] = b'P';
        page.put(header);
        page.put(&self.held);
        page.put(end);
        page.put(b"\n");
        self.held = Vec::new();
    }
}

/// One record, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The timestamp, RFC 3339.
    pub stamp: &'a [u8],
    /// The stream it was written to.
    pub stream: Stream,
    /// Whether it ends its line (`F`).
    pub ends_line: bool,
    /// What the process wrote.
    pub content: &'a [u8],
}

impl<'a> Record<'a> {
    /// Parses a record without its newline; `None` if it is none.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |&byte| byte == b' ');
        let stamp = fields.next().filter(|stamp| stamp.contains(&b'T'))?;
        let stream = match fields.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        // Tags are a list separated by colons, of which the first says partial or full (CRI log format).
        let ends_line = match fields.next()?.split(|&byte| byte == b':').next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self { stamp, stream, ends_line, content: fields.next()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records(stream: Stream, max_line: usize, batches: &[&[u8]]) -> Vec<u8> {
        let mut splitter = Splitter::new(stream, max_line);
        let mut memory = vec![0; Page::needed(max_line)];
        let mut all = Vec::new();
        let stamp = Stamp::of(0, 0);
        for batch in batches {
            let mut rest = *batch;
            while !rest.is_empty() {
                let mut page = Page::new(&mut memory);
                let used = splitter.push(rest, &stamp, &mut page);
                all.extend_from_slice(page.records());
                rest = &rest[used..];
            }
        }
        let mut page = Page::new(&mut memory);
        splitter.finish(&stamp, &mut page);
        all.extend_from_slice(page.records());
        all
    }

    fn shown(max_line: usize, input: &[u8]) -> String {
        let text = String::from_utf8(records(Stream::Stdout, max_line, &[input])).unwrap();
        text.replace("1970-01-01T00:00:00.000000000Z stdout ", "")
    }

    #[test]
    fn lines_become_records() {
        let table = [
            ("", ""),
            ("a\n", "F a\n"),
            ("\n\n", "F \nF \n"),
            ("a\nb", "F a\nP b\n"),
            ("a\r\nb\r", "F a\nP b\r\n"),
            ("1234", "P 1234\n"),
            ("1234\n", "F 1234\n"),
            ("12345\n", "P 1234\nF 5\n"),
            ("123456789", "P 1234\nP 5678\nP 9\n"),
            ("12345678\n", "P 1234\nF 5678\n"),
        ];
        for (input, expected) in table {
            assert_eq!(shown(4, input.as_bytes()), expected, "{input:?}");
        }
    }

    #[test]
    fn a_record_names_its_stream() {
        let out = records(Stream::Stderr, 100, &[b"oops\n"]);
        assert_eq!(out, b"1970-01-01T00:00:00.000000000Z stderr F oops\n");
    }

    #[test]
    fn more_records_than_a_page_holds_take_several_pages() {
        let input = vec![b'\n'; FULL_AT];
        let out = records(Stream::Stdout, 10, &[&input]);
        assert_eq!(out.len(), FULL_AT * OVERHEAD);
    }

    fn joined(records: &[u8]) -> Vec<u8> {
        let mut joined = Vec::new();
        for line in records.split_inclusive(|&byte| byte == b'\n') {
            let record = Record::parse(&line[..line.len() - 1]).unwrap();
            joined.extend_from_slice(record.content);
            joined.extend_from_slice(if record.ends_line { b"\n" } else { b"" });
        }
        joined
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for line in ["", "x", "T stdout", "T stdin F x", "T stdout X x", "nostamp stdout F x"] {
            assert_eq!(Record::parse(line.as_bytes()), None, "{line}");
        }
        assert!(Record::parse(b"2024-01-01T00:00:00Z stdout P:x text").is_some_and(|record| !record.ends_line));
    }

    proptest! {
        #[test]
        fn batches_do_not_matter(
            input in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..300),
            cuts in prop::collection::vec(0usize..300, 0..10),
            max_line in 1usize..40,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).chain([0, input.len()]).collect();
            cuts.sort_unstable();
            let batches: Vec<&[u8]> = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect();
            prop_assert_eq!(records(Stream::Stdout, max_line, &batches), records(Stream::Stdout, max_line, &[&input]));
        }

        #[test]
        fn records_join_to_what_was_written(
            input in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..300),
            max_line in 1usize..40,
        ) {
            let input: Vec<u8> = input.into_iter().filter(|&byte| byte != b'\r').collect();
            let records = records(Stream::Stderr, max_line, &[&input]);
            prop_assert!(records.split(|&byte| byte == b'\n').all(|line| line.len() <= max_line + OVERHEAD));
            prop_assert_eq!(joined(&records), input);
        }

        #[test]
        fn no_line_panics_the_parser(line in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Record::parse(&line);
        }
    }
}
