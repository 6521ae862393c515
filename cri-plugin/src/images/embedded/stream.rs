//! A layer's bytes between the socket and the unpacker: hashed and stored as they pass, expanded, hashed again.
//!
//! Everything here runs on a blocking thread, inline: on the thread that inflates a chunk, the chunk is still in the
//! processor's cache. The channel to the socket is short, so memory stays bounded however slow the disk is.

use std::io::{BufRead, Error as IoError, Read, Result as IoResult};

use bytes::{Buf, Bytes};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::Receiver;

use super::content::Ingest;
use crate::images::digest::Digest;
use crate::{Error, Result};

/// Chunks on their way from a socket; each is some tens of kilobytes.
pub const CHUNKS_UNDER_WAY: usize = 16;
/// The largest window a zstd frame may ask for, as a power of two: 128 MiB, the format's own recommended limit.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// A layer that expands more than this is a bomb, unless it stays below `BOMB_FLOOR_BYTES`. Deflate cannot exceed 1032.
const MAX_RATIO: u64 = 2000;
const BOMB_FLOOR_BYTES: u64 = 1 << 30;

/// The compressed bytes of a layer.
pub trait Compressed: BufRead {
    /// The first bytes, fewer than `count` only if there are no more, without consuming them.
    ///
    /// # Errors
    /// Those of reading.
    fn peek(&mut self, count: usize) -> IoResult<Vec<u8>>;
}

/// Bytes from a socket, stored on their way.
#[derive(Debug)]
pub struct Incoming {
    chunks: Receiver<Bytes>,
    ingest: Ingest,
    current: Bytes,
    /// Why storing failed; reading has ended then.
    failure: Option<Error>,
}

impl Incoming {
    /// Chunks that go into `ingest` and then to whoever reads.
    pub fn new(chunks: Receiver<Bytes>, ingest: Ingest) -> Self {
        Self { chunks, ingest, current: Bytes::new(), failure: None }
    }

    /// Reads what nobody wanted, checks the whole and makes it a blob.
    ///
    /// # Errors
    /// Why storing failed; `Corrupt` for bytes that are not the digest's.
    pub fn finish(mut self) -> Result<()> {
        while self.failure.is_none() && self.next_chunk().unwrap_or(false) {}
        match self.failure {
            Some(e) => Err(e),
            None => self.ingest.finish(),
        }
    }

    /// Takes the next chunk, storing it; false at the end.
    fn next_chunk(&mut self) -> IoResult<bool> {
        if self.failure.is_some() {
            return Err(IoError::other("the blob could not be stored"));
        }
        let Some(chunk) = self.chunks.blocking_recv() else { return Ok(false) };
        if let Err(e) = self.ingest.write(&chunk) {
            let told = IoError::other(e.to_string());
            self.failure = Some(e);
            return Err(told);
        }
        self.current = chunk;
        Ok(true)
    }
}

impl Compressed for Incoming {
    fn peek(&mut self, count: usize) -> IoResult<Vec<u8>> {
        let mut start = std::mem::take(&mut self.current).to_vec();
        while start.len() < count && self.next_chunk()? {
            start.extend_from_slice(&self.current);
        }
        let peeked = start.iter().copied().take(count).collect();
        self.current = Bytes::from(start);
        Ok(peeked)
    }
}

impl BufRead for Incoming {
    fn fill_buf(&mut self) -> IoResult<&[u8]> {
        while self.current.is_empty() && self.next_chunk()? {}
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        self.current.advance(count);
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        read_buffered(self, buffer)
    }
}

/// Bytes of a blob that is in the store already, hashed again: a disk may have lost them.
#[derive(Debug)]
pub struct Stored {
    reader: std::io::BufReader<std::fs::File>,
    hasher: Sha256,
}

impl Stored {
    /// A stored blob.
    pub fn new(file: std::fs::File) -> Self {
        Self { reader: std::io::BufReader::with_capacity(1 << 18, file), hasher: Sha256::new() }
    }

    /// Reads what nobody wanted and answers the digest of it all.
    ///
    /// # Errors
    /// Those of reading.
    pub fn finish(mut self) -> IoResult<Digest> {
        while !self.fill_buf()?.is_empty() {
            let count = self.reader.buffer().len();
            self.consume(count);
        }
        Ok(Digest::finish(self.hasher))
    }
}

impl Compressed for Stored {
    fn peek(&mut self, count: usize) -> IoResult<Vec<u8>> {
        // A fresh reader of a file fills its buffer, which is larger than any count.
        Ok(self.reader.fill_buf()?.iter().copied().take(count).collect())
    }
}

impl BufRead for Stored {
    fn fill_buf(&mut self) -> IoResult<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.hasher.update(&self.reader.buffer()[..count]);
        self.reader.consume(count);
    }
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        read_buffered(self, buffer)
    }
}

fn read_buffered(from: &mut impl BufRead, buffer: &mut [u8]) -> IoResult<usize> {
    let available = from.fill_buf()?;
    let count = available.len().min(buffer.len());
    buffer[..count].copy_from_slice(&available[..count]);
    from.consume(count);
    Ok(count)
}

/// The decoder that a layer's first bytes ask for. Media types are not asked: pushers get them wrong, and the diff id
/// says whether the result is right.
///
/// # Errors
/// Those of reading, and of zstd's setting up.
pub fn decoder<'a>(from: &'a mut impl Compressed) -> IoResult<Box<dyn Read + 'a>> {
    let magic = from.peek(4)?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(from)));
    }
    let skippable = magic.len() == 4 && magic[0] & 0xf0 == 0x50 && magic[1..] == [0x2a, 0x4d, 0x18];
    if magic == [0x28, 0xb5, 0x2f, 0xfd] || skippable {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(from)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(from))
}

/// The expanded bytes, hashed and counted.
pub struct Expanded<'a> {
    inner: Box<dyn Read + 'a>,
    hasher: Sha256,
    bytes: u64,
    limit_bytes: u64,
}

impl<'a> Expanded<'a> {
    /// Expanded bytes of a layer of `size_bytes`, at most `limit_bytes`.
    pub fn new(inner: Box<dyn Read + 'a>, size_bytes: u64, limit_bytes: u64) -> Self {
        let by_ratio = size_bytes.saturating_mul(MAX_RATIO).max(BOMB_FLOOR_BYTES);
        Self { inner, hasher: Sha256::new(), bytes: 0, limit_bytes: limit_bytes.min(by_ratio) }
    }

    /// Reads to the end (a tar may be followed by zeros) and answers the diff id.
    ///
    /// # Errors
    /// Those of reading.
    pub fn finish(mut self) -> IoResult<Digest> {
        std::io::copy(&mut self, &mut std::io::sink())?;
        Ok(Digest::finish(self.hasher))
    }
}

impl Read for Expanded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        if self.bytes > self.limit_bytes {
            return Err(IoError::other(format!("it expands to more than {} bytes", self.limit_bytes)));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::images::embedded::content::Content;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("gzip");
        encoder.finish().expect("gzip")
    }

    fn expanded_of(blob: &[u8], chunk: usize, limit: u64) -> (Result<Vec<u8>, String>, Result<()>) {
        let dir = tempfile::tempdir().expect("tempdir");
        let content = Content::open(dir.path()).expect("open");
        let (sender, chunks) = tokio::sync::mpsc::channel(blob.len().max(1));
        for piece in blob.chunks(chunk) {
            sender.try_send(Bytes::copy_from_slice(piece)).expect("room");
        }
        drop(sender);
        let ingest = content.ingest(&Digest::of(blob), blob.len() as u64).expect("ingest");
        let mut incoming = Incoming::new(chunks, ingest);
        let result = decoder(&mut incoming).and_then(|inner| {
            let mut expanded = Expanded::new(inner, blob.len() as u64, limit);
            let mut bytes = Vec::new();
            expanded.read_to_end(&mut bytes)?;
            assert_eq!(expanded.finish()?, Digest::of(&bytes));
            Ok(bytes)
        });
        (result.map_err(|e| e.to_string()), incoming.finish())
    }

    #[test]
    fn all_compressions_come_out_the_same_in_any_chunks() {
        let plain: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let two_members = [gzip(&plain[..1000]), gzip(&plain[1000..])].concat();
        let frame = |bytes: &[u8]| zstd::encode_all(bytes, 1).expect("zstd");
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &frame(&plain)].concat();
        let two_frames = [frame(&plain[..5000]), frame(&plain[5000..])].concat();
        for blob in [plain.clone(), gzip(&plain), two_members, frame(&plain), skippable, two_frames] {
            for chunk in [3, 4096, 1 << 20] {
                let (bytes, stored) = expanded_of(&blob, chunk, 1 << 30);
                assert!(bytes.as_deref() == Ok(&plain[..]), "{:x?} by {chunk}", &blob[..4]);
                stored.expect("stored");
            }
        }
    }

    #[test]
    fn what_expands_too_far_is_refused_and_still_hashed() {
        let (bytes, stored) = expanded_of(&gzip(&vec![0; 1 << 20]), 100, 1 << 16);
        assert!(bytes.expect_err("bomb").contains("more than 65536 bytes"));
        stored.expect("the blob itself is whole");
    }

    #[test]
    fn truncated_streams_are_errors() {
        let whole = gzip(&[7; 5000]);
        let (bytes, stored) = expanded_of(&whole[..whole.len() - 9], 100, 1 << 20);
        assert!(bytes.is_err() && stored.is_ok());
        let frame = zstd::encode_all(&[7u8; 5000][..], 1).expect("zstd");
        assert!(expanded_of(&frame[..frame.len() - 3], 100, 1 << 20).0.is_err());
    }
}
