//! Header blocks: name and value pairs, compressed with one zlib stream per direction for the life of a connection.
//!
//! A few compressed bytes can stand for a thousand times as many, so what comes out is capped before it is kept.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::Violation;
use super::dictionary::dictionary;

/// Of one block, inflated. Kubernetes' clients send three short headers.
const BLOCK_MAX_BYTES: usize = 64 << 10;
const HEADERS_MAX: usize = 100;

/// Names in lower case, each with its value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The value of a header; the name's case does not matter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The peer's zlib stream.
#[derive(Debug)]
pub struct Inflate(Decompress);

impl Default for Inflate {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflate {
    /// Reads one block. Every block must pass here, wanted or not: the next one builds on it.
    pub fn block(&mut self, mut compressed: &[u8]) -> Result<Headers, Violation> {
        let mut plain = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let (read_before, made_before) = (self.0.total_in(), self.0.total_out());
            let done = self.0.decompress(compressed, &mut chunk, FlushDecompress::Sync);
            let read = (self.0.total_in() - read_before) as usize;
            let made = (self.0.total_out() - made_before) as usize;
            compressed = compressed.get(read..).unwrap_or_default();
            match done {
                Err(e) if e.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(|_| Violation::Headers("another dictionary"))?;
                    continue;
                }
                Err(_) => return Err(Violation::Headers("no zlib data")),
                Ok(Status::StreamEnd) => return Err(Violation::Headers("the zlib stream has ended")),
                Ok(Status::Ok | Status::BufError) => {}
            }
            plain.extend_from_slice(&chunk[..made]);
            if plain.len() > BLOCK_MAX_BYTES {
                return Err(Violation::Headers("inflated beyond 64 KiB"));
            }
            // A chunk that was not filled means that there is no more inside.
            if made < chunk.len() && (compressed.is_empty() || (read == 0 && made == 0)) {
                break;
            }
        }
        if compressed.is_empty() { parse(&plain) } else { Err(Violation::Headers("bytes behind the block")) }
    }
}

fn parse(plain: &[u8]) -> Result<Headers, Violation> {
    let (count, mut rest) = number(plain)?;
    if count > HEADERS_MAX {
        return Err(Violation::Headers("more than 100 headers"));
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let (name, after_name) = text(rest)?;
        let (value, after_value) = text(after_name)?;
        headers.push((name.to_ascii_lowercase(), value));
        rest = after_value;
    }
    if rest.is_empty() { Ok(Headers(headers)) } else { Err(Violation::Headers("bytes behind the last header")) }
}

fn number(bytes: &[u8]) -> Result<(usize, &[u8]), Violation> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(Violation::Headers("it is cut short"))?;
    Ok((u32::from_be_bytes(*number) as usize, rest))
}

fn text(bytes: &[u8]) -> Result<(String, &[u8]), Violation> {
    let (length, rest) = number(bytes)?;
    let (text, rest) = rest.split_at_checked(length).ok_or(Violation::Headers("it is cut short"))?;
    Ok((String::from_utf8_lossy(text).into_owned(), rest))
}

/// Our zlib stream.
#[derive(Debug)]
pub struct Deflate(Option<Compress>);

impl Default for Deflate {
    fn default() -> Self {
        let mut zlib = Compress::new(Compression::fast(), true);
        // A fresh stream takes any dictionary; without it no peer could read us, so there is nothing to fall back to.
        Self(zlib.set_dictionary(&dictionary()).is_ok().then_some(zlib))
    }
}

impl Deflate {
    /// Writes one block behind `out`.
    pub fn block(&mut self, headers: &Headers, out: &mut Vec<u8>) -> Result<(), Violation> {
        let mut plain = (headers.0.len() as u32).to_be_bytes().to_vec();
        for text in headers.0.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let zlib = self.0.as_mut().ok_or(Violation::Headers("zlib takes no dictionary"))?;
        let mut rest = plain.as_slice();
        loop {
            out.reserve(plain.len() + 64);
            let (read_before, room) = (zlib.total_in(), out.capacity() - out.len());
            let made_before = out.len();
            zlib.compress_vec(rest, out, FlushCompress::Sync).map_err(|_| Violation::Headers("zlib refused them"))?;
            rest = &rest[(zlib.total_in() - read_before) as usize..];
            if rest.is_empty() && out.len() - made_before < room {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&str, &str)]) -> Headers {
        Headers(of.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn blocks_of_one_stream_build_on_each_other() {
        let (mut deflate, mut inflate) = (Deflate::default(), Inflate::default());
        let long = "x".repeat(40_000);
        for block in [headers(&[("streamtype", "stdin"), ("port", "80")]), headers(&[]), headers(&[("a", &long)])] {
            let mut wire = Vec::new();
            deflate.block(&block, &mut wire).expect("deflate");
            assert_eq!(inflate.block(&wire).expect("inflate"), block);
        }
    }

    /// Written by Go's `compress/zlib` with the same dictionary.
    #[test]
    fn a_block_of_another_implementation_is_read() {
        let wire = hex::decode(GO_BLOCK).expect("hex");
        let read = Inflate::default().block(&wire).expect("inflate");
        assert_eq!(read.get("StreamType"), Some("error"));
    }

    const GO_BLOCK: &str = "78f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff";

    #[test]
    fn a_bomb_is_refused_before_it_is_kept() {
        let mut wire = Vec::new();
        Deflate::default().block(&headers(&[("a", &"0".repeat(4 << 20))]), &mut wire).expect("deflate");
        assert!(wire.len() < 64 << 10, "{} bytes", wire.len());
        assert_eq!(Inflate::default().block(&wire), Err(Violation::Headers("inflated beyond 64 KiB")));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let name = |length: u32| [&1u32.to_be_bytes()[..], &length.to_be_bytes(), b"ab"].concat();
        for plain in
            [vec![], vec![0, 0, 1], 101u32.to_be_bytes().to_vec(), name(3), name(u32::MAX), vec![0, 0, 0, 0, 1]]
        {
            assert!(parse(&plain).is_err(), "{plain:?}");
        }
        assert_eq!(parse(&[0; 4]), Ok(Headers::default()));
    }
}
