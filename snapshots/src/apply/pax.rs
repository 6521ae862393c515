//! Extended header records (pax(1), "pax Extended Header"): `LENGTH KEY=VALUE\n`, LENGTH counting the whole record.
//!
//! Read by their length, never by line: a value may hold a line break, as the binary `security.capability` does.

use super::header::Flaw;

/// What a pax header says about the entry after it. None: it says nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extension {
    /// Its name.
    pub path: Option<Vec<u8>>,
    /// Target of a link.
    pub link: Option<Vec<u8>>,
    /// Bytes of data.
    pub size: Option<u64>,
    /// Owner.
    pub uid: Option<i64>,
    /// Group.
    pub gid: Option<i64>,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: Option<(i64, u32)>,
    /// Extended attributes, in order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

/// More extended attributes than a file has on any filesystem that would hold them.
const XATTRS_MAX: usize = 512;

/// Reads all records of a header.
pub(super) fn parse(mut rest: &[u8]) -> Result<Extension, Flaw> {
    let mut out = Extension::default();
    while !rest.is_empty() {
        let (key, value, after) = record(rest)?;
        out.take(key, value)?;
        rest = after;
    }
    Ok(out)
}

/// Key, value, and what follows.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Reads the first record.
fn record(data: &[u8]) -> Result<Record<'_>, Flaw> {
    let flaw = "its extended header is malformed";
    let space = data.iter().position(|b| *b == b' ').ok_or(flaw)?;
    let len = decimal(data.get(..space).ok_or(flaw)?).ok_or(flaw)?;
    let len = usize::try_from(len).map_err(|_| flaw)?;
    let record = data.get(space + 1..len).ok_or(flaw)?;
    let pair = record.strip_suffix(b"\n").ok_or(flaw)?;
    let equals = pair.iter().position(|b| *b == b'=').filter(|at| *at > 0).ok_or(flaw)?;
    let after = data.get(len..).ok_or(flaw)?;
    Ok((pair.get(..equals).ok_or(flaw)?, pair.get(equals + 1..).ok_or(flaw)?, after))
}

impl Extension {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Flaw> {
        if key.contains(&0) {
            return Err("a key of its extended header holds a NUL");
        }
        if let Some(name) = key.strip_prefix(XATTR) {
            if self.xattrs.len() == XATTRS_MAX {
                return Err("its extended header holds too many attributes");
            }
            // The last of two wins, as for every other key.
            self.xattrs.retain(|(n, _)| n != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        if key.starts_with(b"GNU.sparse.") {
            return Err("sparse files are not supported");
        }
        let number = |flaw| decimal(value).map(Some).ok_or(flaw);
        match (key, value) {
            // Deletes what an earlier record said; the plain header counts again.
            (b"path", b"") => self.path = None,
            (b"linkpath", b"") => self.link = None,
            (b"size", b"") => self.size = None,
            (b"uid", b"") => self.uid = None,
            (b"gid", b"") => self.gid = None,
            (b"mtime", b"") => self.mtime = None,
            (b"path", _) => self.path = Some(value.to_vec()),
            (b"linkpath", _) => self.link = Some(value.to_vec()),
            (b"size", _) => {
                let size = number("the size in its extended header is not a number")?;
                self.size = size.map(i64::cast_unsigned);
            }
            (b"uid", _) => self.uid = number("the uid in its extended header is not a number")?,
            (b"gid", _) => self.gid = number("the gid in its extended header is not a number")?,
            (b"mtime", _) => self.mtime = Some(time(value).ok_or("the time in its extended header is not one")?),
            // Comments, access times, names of owners, other tools' records.
            _ => {}
        }
        Ok(())
    }
}

/// A number without sign, space or anything else.
fn decimal(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, b| match b {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

/// Seconds with an optional fraction, possibly negative; more than nine digits are cut.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = value.strip_prefix(b"-").map_or((false, value), |v| (true, v));
    let dot = value.iter().position(|b| *b == b'.');
    let (whole, fraction) = dot.map_or((value, &b""[..]), |at| (&value[..at], &value[at + 1..]));
    let seconds = decimal(whole)?;
    let mut nanos = 0;
    for i in 0..9 {
        nanos = nanos * 10 + fraction.get(i).map_or(Some(0), |b| b.is_ascii_digit().then(|| u32::from(b - b'0')))?;
    }
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        // The kernel counts nanoseconds forward from the second before.
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_by_length_not_by_line() {
        let got = parse(b"30 SCHILY.xattr.user.x=a\nb=c\n\n14 path=a/b\\c\n11 size=42\n").unwrap();
        assert_eq!(got.xattrs, [(b"user.x".to_vec(), b"a\nb=c\n".to_vec())]);
        assert_eq!(got.path.as_deref(), Some(&b"a/b\\c"[..]));
        assert_eq!(got.size, Some(42));
    }

    #[test]
    fn the_last_of_two_wins_and_an_empty_one_deletes() {
        assert_eq!(parse(b"10 size=1\n10 size=2\n").unwrap().size, Some(2));
        assert_eq!(parse(b"10 size=1\n8 size=\n").unwrap().size, None);
    }

    #[test]
    fn malformed_records() {
        for bad in [
            &b"10 size=12\n"[..],
            b"99 size=1\n",
            b"size=1\n",
            b" 10 size=1\n",
            b"5 a=b",
            b"5 =ab\n",
            b"6 abc\n",
            b"11 size=-1\n",
            b"11 size=0x\n",
            b"29 size=99999999999999999999\n",
            b"0 \n",
            b"18446744073709551616 a=b\n",
            b"22 GNU.sparse.major=1\n",
            b"16 mtime=1.2.34\n",
            b"12 uid=1.5e\n",
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times() {
        for (text, want) in [
            (&b"1700000000"[..], Some((1_700_000_000, 0))),
            (b"1.5", Some((1, 500_000_000))),
            (b"1.", Some((1, 0))),
            (b"-1.5", Some((-2, 500_000_000))),
            (b"-3", Some((-3, 0))),
            (b"0.0000000019", Some((0, 1))),
            (b"", None),
            (b".5", None),
            (b"1e9", None),
            (b"1.x", None),
        ] {
            assert_eq!(time(text), want, "{}", String::from_utf8_lossy(text));
        }
    }
}
