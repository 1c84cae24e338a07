use super::*;

const MASK: [u8; 4] = [0x11, 0x82, 0xf3, 0x04];
const LIMIT: usize = 100_000;

/// A masked frame. `first` is the first header byte: FIN, reserved bits and opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=65535 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// Feeds the stream in reads of the given sizes (the last one repeats) and lists what came out, and how it ended.
fn decode(stream: &[u8], sizes: &[usize]) -> (Vec<String>, Option<Violation>, Option<Box<Partial>>) {
    let (mut seen, mut partial, mut rest) = (Vec::new(), None, stream);
    let mut sizes = sizes.iter().copied().chain(std::iter::repeat(*sizes.last().unwrap()));
    while !rest.is_empty() {
        let (read, later) = rest.split_at(sizes.next().unwrap().clamp(1, rest.len()));
        rest = later;
        let mut read = read.to_vec();
        let mut decoder = Decoder::new(&mut partial, &mut read, LIMIT);
        loop {
            match decoder.next() {
                Ok(Some(event)) => seen.push(describe(&event)),
                Ok(None) => break,
                Err(violation) => return (seen, Some(violation), partial),
            }
        }
        assert!(decoder.rest().is_empty());
    }
    (seen, None, partial)
}

fn describe(event: &Event<'_>) -> String {
    match event {
        Event::Text(text) => format!("text {}", std::str::from_utf8(text).expect("text events are UTF-8")),
        Event::Binary(bytes) => format!("binary {:02x?}", &**bytes),
        Event::Ping(bytes) => format!("ping {}", bytes.escape_ascii()),
        Event::Pong(bytes) => format!("pong {}", bytes.escape_ascii()),
        Event::Close(reason) => format!("close {reason:?}"),
    }
}

fn violation(stream: &[u8]) -> Option<Violation> {
    let whole = decode(stream, &[usize::MAX]).1;
    assert_eq!(
        decode(stream, &[1]).1,
        whole,
        "the verdict depends on how the bytes were cut"
    );
    whole
}

#[test]
fn a_whole_frame_is_delivered_in_place_and_leaves_nothing_behind() {
    let mut read = [frame(0x81, "grüße".as_bytes()), frame(0x82, &[1, 2, 3])].concat();
    let range = read.as_ptr_range();
    let mut partial = None;
    let mut decoder = Decoder::new(&mut partial, &mut read, LIMIT);
    match decoder.next() {
        Ok(Some(Event::Text(text))) => {
            assert_eq!(&*text, "grüße".as_bytes());
            assert!(range.contains(&text.as_ptr()), "the payload was copied");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(decoder.next(), Ok(Some(Event::Binary(Payload::InPlace(&[1, 2, 3])))));
    assert_eq!(decoder.next(), Ok(None));
    assert!(partial.is_none());
}

#[test]
fn every_way_to_cut_a_stream_gives_the_same_events() {
    let stream = [
        frame(0x01, "a€".as_bytes().split_at(2).0),
        frame(0x89, b"ping"),
        frame(0x00, "a€".as_bytes().split_at(2).1),
        frame(0x8a, b""),
        frame(0x80, b"!"),
        frame(0x82, &[7; 130]),
        frame(0x81, b""),
        frame(0x88, b"\x03\xe8bye"),
    ]
    .concat();
    let (expected, violation, partial) = decode(&stream, &[usize::MAX]);
    assert_eq!(violation, None);
    assert!(partial.is_some_and(|partial| partial.is_closed()));
    assert_eq!(expected[..3], ["ping ping", "pong ", "text a€!"]);
    assert_eq!(expected[5], r#"close Some(CloseReason { code: 1000, reason: "bye" })"#);
    let step = if cfg!(miri) { 13 } else { 1 };
    for size in (1..stream.len()).step_by(step) {
        assert_eq!(decode(&stream, &[size]).0, expected, "reads of {size}");
        assert_eq!(decode(&stream, &[size, usize::MAX]).0, expected, "cut at {size}");
    }
}

#[test]
fn nothing_is_owned_between_messages() {
    let stream = [
        frame(0x02, b"one"),
        frame(0x80, b"two"),
        frame(0x89, b"three"),
        frame(0x82, &[0; 200]),
    ]
    .concat();
    for size in 1..stream.len() {
        assert!(decode(&stream, &[size]).2.is_none(), "reads of {size}");
    }
}

#[test]
fn rest_gives_back_what_was_not_consumed() {
    let second = frame(0x82, b"two");
    let mut read = [frame(0x82, b"one"), second.clone()].concat();
    let mut partial = None;
    let mut decoder = Decoder::new(&mut partial, &mut read, LIMIT);
    assert!(matches!(decoder.next(), Ok(Some(Event::Binary(_)))));
    assert_eq!(decoder.rest(), second);
    assert!(partial.is_none());
}

#[test]
fn headers_that_break_the_standard_are_refused() {
    for (first, expected) in [
        (0xc1, Violation::ReservedBits),
        (0xa2, Violation::ReservedBits),
        (0x99, Violation::ReservedBits),
        (0x83, Violation::ReservedOpcode),
        (0x87, Violation::ReservedOpcode),
        (0x8b, Violation::ReservedOpcode),
        (0x8f, Violation::ReservedOpcode),
        (0x09, Violation::FragmentedControl),
        (0x08, Violation::FragmentedControl),
        (0x00, Violation::UnexpectedContinuation),
        (0x80, Violation::UnexpectedContinuation),
    ] {
        assert_eq!(violation(&frame(first, b"x")), Some(expected), "{first:#x}");
        assert_eq!(expected.close_code(), 1002);
    }
    assert_eq!(violation(&frame(0x89, &[b'x'; 126])), Some(Violation::ControlTooLong));
    assert_eq!(violation(&frame(0x89, &[b'x'; 125])), None);
    assert_eq!(violation(b"\x81\x01x"), Some(Violation::Unmasked));
    assert_eq!(
        violation(&[frame(0x01, b"a"), frame(0x81, b"b")].concat()),
        Some(Violation::ExpectedContinuation)
    );
    assert_eq!(
        violation(&[frame(0x02, b"a"), frame(0x02, b"b")].concat()),
        Some(Violation::ExpectedContinuation)
    );
}

#[test]
fn lengths_must_be_in_the_shortest_form() {
    let long = |length: &[u8]| [&[0x82], length, &MASK].concat();
    assert_eq!(
        violation(&long(&[0x80 | 126, 0, 125])),
        Some(Violation::MalformedLength)
    );
    assert_eq!(
        violation(&long(&[0x80 | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff])),
        Some(Violation::MalformedLength)
    );
    assert_eq!(
        violation(&long(&[0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0])),
        Some(Violation::MalformedLength)
    );
    assert_eq!(violation(&long(&[0x80 | 126, 0, 126])), None);
}

#[test]
fn the_limit_counts_all_fragments_and_strikes_at_the_header() {
    let header_only = |first: u8, len: usize| frame(first, &vec![0; len])[..8].to_vec();
    assert_eq!(violation(&frame(0x82, &vec![0; LIMIT])), None);
    let announced = [&[0x82, 0x80 | 127][..], &(LIMIT as u64 + 1).to_be_bytes(), &MASK].concat();
    assert_eq!(violation(&announced), Some(Violation::MessageTooLarge));
    assert_eq!(Violation::MessageTooLarge.close_code(), 1009);
    let first = frame(0x02, &vec![0; LIMIT - 200]);
    assert_eq!(violation(&[first.clone(), frame(0x80, &[0; 200])].concat()), None);
    let over = [first, header_only(0x80, 201)].concat();
    assert_eq!(
        violation(&over),
        Some(Violation::MessageTooLarge),
        "the payload need not arrive"
    );
}

#[test]
fn memory_follows_what_arrived_and_not_what_was_announced() {
    let mut partial = None;
    let mut read = [&[0x82, 0x80 | 127][..], &(1u64 << 62).to_be_bytes(), &MASK, &[0; 100]].concat();
    let mut decoder = Decoder::new(&mut partial, &mut read, usize::MAX);
    assert_eq!(decoder.next(), Ok(None));
    assert!(partial.as_ref().is_some_and(|partial| partial.bytes() < 300));
    for arrived in 1..2000 {
        let mut read = [0; 50];
        assert_eq!(Decoder::new(&mut partial, &mut read, usize::MAX).next(), Ok(None));
        assert!(
            partial
                .as_ref()
                .is_some_and(|partial| partial.bytes() <= 100 + 2 * (100 + 50 * arrived))
        );
    }
}

#[test]
fn text_fails_at_the_first_impossible_byte() {
    // 0xf4 may begin a character, 0xf4 0x90 may not: beyond U+10FFFF.
    let long = frame(0x81, b"ok \xf4\x90\x80\x80 and more");
    assert_eq!(decode(&long[..6 + 4], &[1]).1, None);
    assert_eq!(
        decode(&long[..6 + 5], &[1]).1,
        Some(Violation::InvalidUtf8),
        "in the middle of the frame"
    );
    assert_eq!(decode(&long[..6 + 5], &[usize::MAX]).1, Some(Violation::InvalidUtf8));
    assert_eq!(Violation::InvalidUtf8.close_code(), 1007);
    assert_eq!(
        violation(&frame(0x01, b"\xce\xba\xed\xa0")),
        Some(Violation::InvalidUtf8),
        "in the first fragment"
    );
    assert_eq!(
        violation(&frame(0x81, b"\xce\xba\xe2\x82")),
        Some(Violation::InvalidUtf8),
        "ends in a character"
    );
    assert_eq!(
        violation(&[frame(0x01, b"\xe2\x82"), frame(0x80, b"")].concat()),
        Some(Violation::InvalidUtf8)
    );
    assert_eq!(
        violation(&[frame(0x01, b"\xe2\x82"), frame(0x80, b"\xac")].concat()),
        None
    );
    assert_eq!(violation(&frame(0x82, b"\xff\xfe")), None, "binary is not looked at");
}

#[test]
fn close_bodies_are_checked() {
    let close = |body: &[u8]| violation(&frame(0x88, body));
    assert_eq!(close(b""), None);
    assert_eq!(close(b"\x03"), Some(Violation::MalformedClose));
    for code in [
        1000u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999,
    ] {
        assert_eq!(close(&code.to_be_bytes()), None, "{code}");
    }
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        assert_eq!(close(&code.to_be_bytes()), Some(Violation::InvalidCloseCode), "{code}");
    }
    assert_eq!(close(b"\x03\xe8\xce\xba\xed\xa0\x80"), Some(Violation::InvalidUtf8));
}

#[test]
fn nothing_follows_a_close_frame_or_a_violation() {
    for end in [frame(0x88, b""), frame(0x88, b"x"), frame(0x83, b"")] {
        let mut partial = None;
        let mut read = [end, frame(0x81, b"late")].concat();
        let mut decoder = Decoder::new(&mut partial, &mut read, LIMIT);
        assert!(!matches!(decoder.next(), Ok(None)));
        assert_eq!(decoder.next(), Ok(None));
        assert!(decoder.rest().is_empty());
        let mut read = frame(0x81, b"later");
        assert_eq!(Decoder::new(&mut partial, &mut read, LIMIT).next(), Ok(None));
        assert!(partial.is_some_and(|partial| partial.is_closed()));
    }
}
