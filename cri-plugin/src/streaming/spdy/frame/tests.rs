use proptest::prelude::*;

use super::*;

fn all(wire: &[u8]) -> Result<Vec<Event>, Violation> {
    let (mut decoder, mut read, mut events) = (Decoder::default(), BytesMut::from(wire), Vec::new());
    while let Some(event) = decoder.next(&mut read)? {
        events.push(event);
    }
    Ok(events)
}

fn some_headers() -> Headers {
    Headers(vec![("streamtype".into(), "stdin".into())])
}

#[test]
fn frames_are_read_as_they_are_written() {
    let (mut deflate, headers) = (Deflate::default(), some_headers());
    let settings = control(SETTINGS, 0, &[&[0, 0, 0, 1, 1][..], &[0, 0, 7], &[0, 1, 0, 0]].concat());
    let unknown = control(77, 0, &[9; 300]);
    let table = [
        (open(&mut deflate, 1, &headers, false), vec![Event::Open { id: 1, headers: headers.clone(), fin: false }]),
        (reply(&mut deflate, 3).expect("reply"), vec![Event::Headers { id: 3, fin: false }]),
        (open(&mut deflate, 5, &headers, true), vec![Event::Open { id: 5, headers, fin: true }]),
        (data(5, b"abc", true), vec![Event::Data { id: 5, bytes: Bytes::from_static(b"abc"), fin: true }]),
        (data(5, b"", true), vec![Event::Data { id: 5, bytes: Bytes::new(), fin: true }]),
        (reset(5, CANCEL), vec![Event::Reset(5)]),
        (ping(7), vec![Event::Ping(7)]),
        (go_away(5, 0), vec![Event::GoAway]),
        (window_update(0, 65536), vec![Event::Window(0, 65536)]),
        (settings, vec![Event::InitialWindow(65536)]),
        (unknown, vec![]),
    ];
    let wire: Vec<u8> = table.iter().flat_map(|(wire, _)| wire.iter().copied()).collect();
    let expected: Vec<Event> = table.iter().flat_map(|(_, events)| events.clone()).collect();
    assert_eq!(all(&wire).expect("decode"), expected);
    // The same, a byte at a time.
    let (mut decoder, mut read, mut events) = (Decoder::default(), BytesMut::new(), Vec::new());
    for byte in wire {
        read.extend_from_slice(&[byte]);
        while let Some(event) = decoder.next(&mut read).expect("decode") {
            events.push(event);
        }
    }
    let joined: Vec<u8> =
        events.iter().flat_map(|e| if let Event::Data { bytes, .. } = e { &bytes[..] } else { &[] }).copied().collect();
    assert_eq!(joined, b"abc");
    events.retain(|e| !matches!(e, Event::Data { .. }));
    assert_eq!(events, expected.into_iter().filter(|e| !matches!(e, Event::Data { .. })).collect::<Vec<_>>());
}

#[test]
fn violations_are_told_apart() {
    let mut version_2 = ping(1).to_vec();
    version_2[1] = 2;
    let long = control(PING, 0, &vec![0; CONTROL_MAX_BYTES + 1]);
    let table = [
        (version_2, Violation::Version(2)),
        (long.to_vec(), Violation::TooLong(CONTROL_MAX_BYTES + 1)),
        (data(0, b"x", false).to_vec(), Violation::StreamId(0)),
        (control(PING, 0, &[0; 3]).to_vec(), Violation::Length(PING)),
        (control(SYN_STREAM, 0, &[0, 0, 0, 1, 0]).to_vec(), Violation::Length(SYN_STREAM)),
        (control(SETTINGS, 0, &[0, 0, 0, 2]).to_vec(), Violation::Length(SETTINGS)),
        (control(SYN_STREAM, 0, &[1; 20]).to_vec(), Violation::Headers("no zlib data")),
    ];
    for (wire, violation) in table {
        assert_eq!(all(&wire), Err(violation));
    }
}

#[test]
fn a_frame_of_16_mib_is_handed_on_in_pieces() {
    let (mut decoder, mut read) = (Decoder::default(), BytesMut::new());
    let wire = data(1, &vec![7; (1 << 24) - 1], true);
    let (mut seen, mut ended) = (0, false);
    for part in wire.chunks(10_000) {
        read.extend_from_slice(part);
        while let Some(event) = decoder.next(&mut read).expect("decode") {
            let Event::Data { bytes, fin, .. } = event else { panic!("{event:?}") };
            assert!(bytes.len() <= PIECE_MAX_BYTES);
            seen += bytes.len();
            ended |= fin;
        }
        assert!(read.len() < PIECE_MAX_BYTES);
    }
    assert_eq!((seen, ended), ((1 << 24) - 1, true));
}

proptest! {
    #[test]
    fn no_bytes_panic_or_are_kept(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
        let (mut decoder, mut read) = (Decoder::default(), BytesMut::new());
        for part in parts {
            read.extend_from_slice(&part);
            while let Ok(Some(_)) = decoder.next(&mut read) {}
            prop_assert!(read.len() <= CONTROL_MAX_BYTES + HEADER_BYTES);
        }
    }

    /// Control frames of every type with a payload of garbage: the header of a frame is hit by luck only once in a while.
    #[test]
    fn no_payload_panics(frames in prop::collection::vec((0u16..12, any::<u8>(), prop::collection::vec(any::<u8>(), 0..80)), 0..20)) {
        let mut wire = Vec::new();
        for (kind, flags, payload) in frames {
            wire.extend_from_slice(&control(kind, flags, &payload));
        }
        let _ = all(&wire);
    }

    /// Header blocks damaged anywhere.
    #[test]
    fn no_header_block_panics(at in 0usize..60, with in any::<u8>(), cut in 0usize..80) {
        let mut wire = open(&mut Deflate::default(), 1, &some_headers(), false).to_vec();
        let end = wire.len() - cut.min(wire.len() - HEADER_BYTES);
        wire.truncate(end);
        let length = flags_and_length(0, end - HEADER_BYTES);
        wire[4..8].copy_from_slice(&length);
        if let Some(byte) = wire.get_mut(HEADER_BYTES + at) {
            *byte = with;
        }
        let _ = all(&wire);
    }
}
