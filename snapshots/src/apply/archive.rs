//! A tar archive as a stream of entries, each header joined with the extensions before it.
//!
//! There is exactly one place where an entry's size is decided, and it is what skips the data too: archives whose pax
//! and ustar sizes differ made other readers take file contents for headers (CVE-2025-62518). Extension headers are
//! held in memory, so they are capped. The crate `tar` is not used: it splits pax records at line breaks, which a
//! binary `security.capability` may hold, and holds extension headers of any size.
//!
//! Deliberately absent: sparse files, which are refused; no builder of images writes them.

use std::io::{BufRead, BufReader, Read};

use super::header::{BLOCK_BYTES, Flaw, Header, text};
use super::pax::{self, Extension};
use crate::error::{Error, Result};

/// Read ahead, and the largest single write of a file's data.
const BUFFER_BYTES: usize = 1 << 20;

/// The largest pax header, as in Go's archive/tar.
const PAX_MAX_BYTES: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Folder,
    Fifo,
}

/// One entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// As the archive has it.
    pub name: Vec<u8>,
    /// What a link points to.
    pub link: Vec<u8>,
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes of data; 0 for all but files.
    pub size: u64,
    /// Major, minor.
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Extensions that wait for the entry they are about.
#[derive(Default)]
struct Waiting {
    pax: Extension,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

/// An archive being read.
pub(super) struct Archive<R> {
    reader: BufReader<R>,
    /// Bytes of the current entry's data not read yet, and of its padding.
    left: u64,
    padding: u64,
    /// The longest name and link accepted.
    path_max_bytes: u64,
}

impl<R: Read> Archive<R> {
    pub fn new(reader: R, path_max_bytes: u64) -> Self {
        Archive { reader: BufReader::with_capacity(BUFFER_BYTES, reader), left: 0, padding: 0, path_max_bytes }
    }

    /// The next entry; what was not read of the one before is skipped. None at the end.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let mut waiting = Waiting::default();
        loop {
            self.skip()?;
            let Some(block) = self.block()? else { return Ok(None) };
            let bad = |why: Flaw| Error::invalid("layer header", why);
            let Some(header) = Header::parse(&block).map_err(bad)? else { return self.end().map(|()| None) };
            let body = header.size().map_err(bad)?;
            match header.kind() {
                b'x' => waiting.pax = pax::parse(&self.body(body, PAX_MAX_BYTES)?).map_err(bad)?,
                // Go's reader, and with it everybody who builds images, gives no meaning to global headers.
                b'g' => drop(self.body(body, PAX_MAX_BYTES)?),
                b'L' => waiting.long_name = Some(text(&self.body(body, self.path_max_bytes + 1)?).to_vec()),
                b'K' => waiting.long_link = Some(text(&self.body(body, self.path_max_bytes + 1)?).to_vec()),
                _ => return self.entry(&header, waiting).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header<'_>, waiting: Waiting) -> Result<Entry> {
        let pax = waiting.pax;
        let name = waiting.long_name.or(pax.path).unwrap_or_else(|| header.name());
        let shown = String::from_utf8_lossy(&name).into_owned();
        let bad = |why: Flaw| Error::invalid(format!("layer entry {shown:?}"), why);
        let kind = kind(header.kind(), &name).map_err(bad)?;
        let size = match (kind, pax.size) {
            // Nothing but a file has data, whatever its header says (archive/tar, isHeaderOnly).
            (Kind::File, Some(size)) => size,
            (Kind::File, None) => header.size().map_err(bad)?,
            _ => 0,
        };
        let owner = |pax: Option<i64>, plain: Result<i64, Flaw>| -> Result<u32, Flaw> {
            let id = pax.map_or(plain, Ok)?;
            // The highest value is chown(2)'s "leave it alone".
            u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or("its owner is out of range")
        };
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK_BYTES as u64;
        let entry = Entry {
            link: waiting.long_link.or(pax.link).unwrap_or_else(|| header.link()),
            kind,
            mode: header.mode().map_err(bad)?,
            uid: owner(pax.uid, header.uid()).map_err(bad)?,
            gid: owner(pax.gid, header.gid()).map_err(bad)?,
            mtime: pax.mtime.map_or_else(|| header.mtime().map(|s| (s, 0)), Ok).map_err(bad)?,
            size,
            device: header.device().map_err(bad)?,
            xattrs: pax.xattrs,
            name,
        };
        for path in [&entry.name, &entry.link] {
            if path.len() as u64 > self.path_max_bytes {
                let start: String = shown.chars().take(64).collect();
                let what = format!("layer entry {start:?}...: bytes of its path");
                return Err(Error::TooLarge { what, limit: self.path_max_bytes });
            }
            if path.contains(&0) {
                return Err(bad("its path holds a NUL"));
            }
        }
        Ok(entry)
    }

    /// Hands the current entry's data to `sink`, in pieces as large as the buffer has them.
    pub fn data(&mut self, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while self.left > 0 {
            let piece = fill(&mut self.reader, self.left)?;
            if piece.is_empty() {
                return Err(truncated("a file's data"));
            }
            sink(piece)?;
            let n = piece.len();
            self.reader.consume(n);
            self.left -= n as u64;
        }
        Ok(())
    }

    fn skip(&mut self) -> Result<()> {
        let mut rest = std::mem::take(&mut self.left).saturating_add(std::mem::take(&mut self.padding));
        while rest > 0 {
            let n = fill(&mut self.reader, rest)?.len();
            if n == 0 {
                return Err(truncated("padding"));
            }
            self.reader.consume(n);
            rest -= n as u64;
        }
        Ok(())
    }

    /// A whole block; None if the archive ends before it, which archives without an end mark do.
    fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>> {
        let mut block = [0; BLOCK_BYTES];
        let mut have = 0;
        while let Some(rest) = block.get_mut(have..).filter(|r| !r.is_empty()) {
            match self.reader.read(rest) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(truncated("a header")),
                Ok(n) => have += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", "layer", e)),
            }
        }
        Ok(Some(block))
    }

    /// The body of an extension header, with its padding.
    fn body(&mut self, size: u64, limit: u64) -> Result<Vec<u8>> {
        if size > limit {
            return Err(Error::TooLarge { what: "layer: bytes of an extended header".into(), limit });
        }
        let mut body = Vec::new();
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK_BYTES as u64;
        self.data(|piece| {
            body.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(body)
    }

    /// After the first block of zeros: a second one or nothing.
    fn end(&mut self) -> Result<()> {
        match self.block()? {
            Some(block) if block.iter().any(|b| *b != 0) => Err(Error::invalid("layer", "data after its end mark")),
            _ => Ok(()),
        }
    }

    /// Reads what follows the archive, so that who hashes the stream has seen all of it; `limit_bytes` at most.
    pub fn drain(&mut self, limit_bytes: u64) -> Result<()> {
        let mut seen = 0_u64;
        loop {
            let n = fill(&mut self.reader, u64::MAX)?.len();
            if n == 0 {
                return Ok(());
            }
            self.reader.consume(n);
            seen += n as u64;
            if seen > limit_bytes {
                return Err(Error::TooLarge { what: "layer: bytes after its end mark".into(), limit: limit_bytes });
            }
        }
    }
}

/// What the buffer holds, refilled if it is empty; `max_bytes` at most. Empty at the end of the stream.
fn fill<R: Read>(reader: &mut BufReader<R>, max_bytes: u64) -> Result<&[u8]> {
    loop {
        match reader.fill_buf() {
            Ok(_) => break,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", "layer", e)),
        }
    }
    let piece = reader.buffer();
    let n = usize::try_from(max_bytes).map_or(piece.len(), |max| piece.len().min(max));
    Ok(piece.get(..n).unwrap_or(piece))
}

fn truncated(within: &str) -> Error {
    Error::invalid("layer", format!("it ends within {within}"))
}

fn kind(letter: u8, name: &[u8]) -> Result<Kind, Flaw> {
    Ok(match letter {
        // Before ustar a folder was told by its slash.
        0 if name.ends_with(b"/") => Kind::Folder,
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Folder,
        b'6' => Kind::Fifo,
        b'S' => return Err("sparse files are not supported"),
        _ => return Err("its type is unknown"),
    })
}
