//! One header block of a tar archive, its fields read as Go's archive/tar reads them: that is what builds and checks
//! nearly all images, and a reader that differs from it could be shown other files than a scanner saw.

/// Headers and data come in blocks of this size.
pub(super) const BLOCK_BYTES: usize = 512;

/// A header block whose checksum is right.
pub(super) struct Header<'a>(&'a [u8; BLOCK_BYTES]);

/// What is wrong with a header.
pub(super) type Flaw = &'static str;

impl<'a> Header<'a> {
    /// Checks the sum; None for a block of zeros, which ends an archive.
    pub fn parse(block: &'a [u8; BLOCK_BYTES]) -> Result<Option<Self>, Flaw> {
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let header = Header(block);
        let stored = number(header.field(148, 8)).ok_or("its checksum is not a number")?;
        let others = || block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { b' ' } else { *b });
        // Old archives summed signed bytes; POSIX says unsigned.
        let unsigned: i64 = others().map(i64::from).sum();
        let signed: i64 = others().map(|b| i64::from(b.cast_signed())).sum();
        if stored != unsigned && stored != signed {
            return Err("its checksum is wrong");
        }
        Ok(Some(header))
    }

    fn field(&self, from: usize, len: usize) -> &'a [u8] {
        self.0.get(from..from + len).unwrap_or(&[])
    }

    fn number(&self, from: usize, len: usize, flaw: Flaw) -> Result<i64, Flaw> {
        number(self.field(from, len)).ok_or(flaw)
    }

    /// The kind of entry, as a letter.
    pub fn kind(&self) -> u8 {
        self.0[156]
    }

    /// Name, with the prefix where the format has one.
    pub fn name(&self) -> Vec<u8> {
        let name = text(self.field(0, 100));
        let prefix = match self.field(257, 6) {
            b"ustar\0" if self.field(508, 4) == b"tar\0" => text(self.field(345, 131)),
            b"ustar\0" => text(self.field(345, 155)),
            _ => &[],
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// Target of a link.
    pub fn link(&self) -> Vec<u8> {
        text(self.field(157, 100)).to_vec()
    }

    /// Permission bits; other bits some writers put there are dropped.
    pub fn mode(&self) -> Result<u32, Flaw> {
        Ok((self.number(100, 8, "its mode is not a number")? & 0o7777) as u32)
    }

    /// Owner.
    pub fn uid(&self) -> Result<i64, Flaw> {
        self.number(108, 8, "its uid is not a number")
    }

    /// Group.
    pub fn gid(&self) -> Result<i64, Flaw> {
        self.number(116, 8, "its gid is not a number")
    }

    /// Bytes of data that follow, unless an extension says otherwise.
    pub fn size(&self) -> Result<u64, Flaw> {
        let size = self.number(124, 12, "its size is not a number")?;
        u64::try_from(size).map_err(|_| "its size is negative")
    }

    /// Seconds since the epoch.
    pub fn mtime(&self) -> Result<i64, Flaw> {
        self.number(136, 12, "its time is not a number")
    }

    /// Major and minor number of a device.
    pub fn device(&self) -> Result<(u32, u32), Flaw> {
        if !matches!(self.field(257, 5), b"ustar") {
            return Ok((0, 0));
        }
        let flaw = "its device is not a number";
        let half = |from| u32::try_from(self.number(from, 8, flaw)?).map_err(|_| flaw);
        Ok((half(329)?, half(337)?))
    }
}

/// A field up to its first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or(&[])
}

/// An octal number, or a big-endian one marked by its top bit. An empty field is 0.
fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => binary(field, *first),
        _ => octal(field),
    }
}

/// GNU's base-256: two's complement, the top bit of the first byte being the mark and the next one the sign.
fn binary(field: &[u8], first: u8) -> Option<i64> {
    let negative = first & 0x40 != 0;
    let head = if negative { first } else { first & 0x7f };
    let start: i64 = if negative { -1 } else { 0 };
    field.iter().enumerate().try_fold(start, |value, (i, byte)| {
        let byte = if i == 0 { head } else { *byte };
        value.checked_mul(256).map(|v| v | i64::from(byte))
    })
}

fn octal(field: &[u8]) -> Option<i64> {
    let blank = |b: &u8| matches!(b, b' ' | 0);
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = text(field.get(start..)?);
    let end = digits.iter().rposition(|b| !blank(b)).map_or(0, |i| i + 1);
    digits.get(..end)?.iter().try_fold(0_i64, |value, b| match b {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644     ", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"12345678", None),
            (b"-0000644", None),
            (b"77777777", Some(0o77_777_777)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), want, "{field:?}");
        }
    }

    #[test]
    fn what_the_tar_crate_writes_is_read_back() {
        let mut header = tar::Header::new_ustar();
        header.set_path("some/file").unwrap();
        header.set_mode(0o4755);
        header.set_uid(1000);
        header.set_gid(3_000_000);
        header.set_size(1 << 40);
        header.set_mtime(1_700_000_000);
        header.set_entry_type(tar::EntryType::Char);
        header.set_device_major(5).unwrap();
        header.set_device_minor(1).unwrap();
        header.set_cksum();
        let got = Header::parse(header.as_bytes()).unwrap().unwrap();
        assert_eq!(got.name(), b"some/file");
        assert_eq!((got.mode(), got.uid(), got.gid()), (Ok(0o4755), Ok(1000), Ok(3_000_000)));
        assert_eq!((got.size(), got.mtime(), got.device()), (Ok(1 << 40), Ok(1_700_000_000), Ok((5, 1))));
        assert_eq!(got.kind(), b'3');
    }

    #[test]
    fn a_flipped_bit_is_noticed_and_zeros_are_the_end() {
        let mut header = tar::Header::new_gnu();
        header.set_cksum();
        let mut block = *header.as_bytes();
        block[0] ^= 1;
        assert!(Header::parse(&block).is_err());
        assert!(matches!(Header::parse(&[0; BLOCK_BYTES]), Ok(None)));
    }
}
