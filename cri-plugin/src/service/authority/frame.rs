//! The head of an HTTP/2 frame (RFC 9113, section 4.1), as far as header blocks need it.

/// Bytes of a head.
pub(super) const HEAD_BYTES: usize = 9;
/// The longest payload a peer takes that has not announced more; h2 has not.
pub(super) const MAX_PAYLOAD_BYTES: usize = 16_384;

/// A frame that begins a header block.
pub(super) const HEADERS: u8 = 0x1;
/// A frame that goes on with one.
pub(super) const CONTINUATION: u8 = 0x9;

/// The stream ends with this block.
pub(super) const END_STREAM: u8 = 0x1;
/// The block ends with this frame.
pub(super) const END_HEADERS: u8 = 0x4;
/// The payload begins with the length of padding at its end.
pub(super) const PADDED: u8 = 0x8;
/// Five bytes of priority stand before the fragment.
pub(super) const PRIORITY: u8 = 0x20;

/// What a head says beside the payload's length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Head {
    pub kind: u8,
    pub flags: u8,
    /// With the reserved bit, as it came.
    pub stream: u32,
}

impl Head {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The head and the length of its payload.
pub(super) fn parse(bytes: &[u8; HEAD_BYTES]) -> (Head, usize) {
    let [a, b, c, kind, flags, stream @ ..] = *bytes;
    (Head { kind, flags, stream: u32::from_be_bytes(stream) }, u32::from_be_bytes([0, a, b, c]) as usize)
}

/// The first frame, its payload and what comes after; nothing if the frame is not whole.
pub(super) fn split(bytes: &[u8]) -> Option<(Head, &[u8], &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    let (head, length) = parse(first);
    let (payload, rest) = rest.split_at_checked(length)?;
    Some((head, payload, rest))
}

/// Appends a frame whose payload is `parts`, at most [`MAX_PAYLOAD_BYTES`] together.
pub(super) fn write(head: &Head, parts: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(length <= MAX_PAYLOAD_BYTES);
    out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[head.kind, head.flags]);
    out.extend_from_slice(&head.stream.to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_frame_reads_back() {
        let head = Head { kind: HEADERS, flags: END_HEADERS, stream: 0x8000_0001 };
        let mut out = Vec::new();
        write(&head, &[b"ab", b"", b"c"], &mut out);
        assert_eq!(out, [0, 0, 3, 1, 4, 0x80, 0, 0, 1, b'a', b'b', b'c']);
        out.push(b'!');
        assert_eq!(split(&out), Some((head, &b"abc"[..], &b"!"[..])));
    }

    #[test]
    fn half_a_frame_is_none() {
        let mut out = Vec::new();
        write(&Head { kind: 0, flags: 0, stream: 0 }, &[b"abc"], &mut out);
        for end in 0..out.len() {
            assert_eq!(split(&out[..end]), None, "{end}");
        }
    }
}
