//! Content digests: `sha256:` and 64 lowercase hex digits, checked before one ever becomes a path.
//!
//! Other algorithms are absent on purpose: no registry in use serves them, and each is one more way to name a blob.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

const PREFIX: &str = "sha256:";

/// The digest of some content.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(bytes))
    }

    /// The digest a hasher has come to.
    pub fn finish(hasher: Sha256) -> Self {
        Self(format!("{PREFIX}{}", hex::encode(hasher.finalize())))
    }

    /// The whole of it, `sha256:...`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hex digits, safe as a file name.
    pub fn hex(&self) -> &str {
        self.0.strip_prefix(PREFIX).unwrap_or_default()
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.strip_prefix(PREFIX);
        if digits.is_some_and(|d| d.len() == 64 && d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))) {
            return Ok(Self(text.to_string()));
        }
        let why = match text.split_once(':') {
            Some((algorithm, _)) if algorithm != "sha256" => "only sha256 is supported",
            _ => "a digest is sha256: and 64 lowercase hex digits",
        };
        Err(Error::invalid(format!("digest {:?}", shortened(text)), why))
    }
}

/// Foreign text is cut before it goes into an error.
fn shortened(text: &str) -> &str {
    text.char_indices().nth(100).map_or(text, |(end, _)| &text[..end])
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sha256_with_64_lowercase_digits_is_a_digest() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        assert_eq!(Digest::of(b"").hex().len(), 64);
        let upper = empty.to_uppercase();
        let long = format!("{empty}0");
        for bad in ["", "sha256:", "sha256:../../../etc/passwd", &empty[..70], &upper, &long, &empty[7..], "sha512:ab"]
        {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
    }
}
