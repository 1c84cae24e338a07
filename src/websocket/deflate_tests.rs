//! Round trips, and streams that nobody should send.

use super::*;
use proptest::prelude::*;

fn deflated(text: &[u8], narrow: bool) -> Vec<u8> {
    let mut out = Vec::new();
    Deflater::default().message(&[text], narrow, &mut out);
    out
}

fn inflated(payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, Violation> {
    let mut out = Vec::new();
    Inflater::default().message(payload, bytes_max, &mut out).map(|()| out)
}

/// A kilobyte or so in which nothing repeats much.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(next).collect()
}

proptest! {
    #[test]
    fn whatever_is_deflated_comes_back(
        text in prop::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..5000),
        narrow: bool,
    ) {
        prop_assert_eq!(inflated(&deflated(&text, narrow), text.len()), Ok(text));
    }

    #[test]
    fn arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(out) = inflated(&payload, 10_000) {
            prop_assert!(out.len() <= 10_000);
        }
    }

    #[test]
    fn parts_make_a_message(parts in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 1..900)), 1..6)) {
        let (mut deflater, mut payload, mut expected) = (Deflater::default(), Vec::new(), Vec::new());
        for (compress, part) in &parts {
            let before = payload.len();
            if *compress {
                deflater.part(&[part], false, &mut payload);
            } else {
                store(part, &mut payload);
                prop_assert_eq!(payload.len() - before, stored_bytes(part.len()));
            }
            expected.extend_from_slice(part);
        }
        payload.push(MESSAGE_END);
        prop_assert_eq!(inflated(&payload, expected.len()), Ok(expected));
    }
}

#[test]
fn the_examples_of_the_standard_are_understood() {
    // Section 7.2.3.1 to 7.2.3.5: one block, no compression, a last block, two blocks.
    let hello: [&[u8]; 4] = [
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        &[
            0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
        ],
    ];
    for payload in hello {
        assert_eq!(inflated(payload, 5).as_deref(), Ok(&b"Hello"[..]), "{payload:x?}");
    }
    assert_eq!(inflated(&[0], 0), Ok(Vec::new()), "section 7.2.3.6: an empty message");
}

#[test]
fn every_cut_of_a_message_is_noticed() {
    let text = noise(700);
    let text = [&text[..], &b"and again and again and again"[..]].concat();
    let payload = deflated(&text, false);
    for len in 0..payload.len() - 1 {
        // A single zero byte is the standard's empty message.
        if payload[..len] == [0] {
            continue;
        }
        assert_eq!(
            inflated(&payload[..len], 1 << 20),
            Err(Violation::MalformedDeflate),
            "cut after {len} bytes"
        );
    }
}

#[test]
fn a_reference_to_an_earlier_message_is_refused() {
    let mut compress = Compress::new(Compression::default(), false);
    let text = noise(400);
    let mut first = Vec::with_capacity(4096);
    compress.compress_vec(&text, &mut first, FlushCompress::Sync).unwrap();
    let mut second = Vec::with_capacity(4096);
    compress.compress_vec(&text, &mut second, FlushCompress::Sync).unwrap();
    assert!(second.len() < 50, "it does refer to the first message");
    assert_eq!(
        inflated(&second[..second.len() - 4], 1 << 20),
        Err(Violation::MalformedDeflate)
    );
}

#[test]
fn a_bomb_stops_at_the_limits() {
    let bomb = deflated(&vec![0; 64 << 20], false);
    assert!(bomb.len() < 400 << 10);
    let mut out = Vec::new();
    let outcome = Inflater::default().message(&bomb, 1 << 20, &mut out);
    assert_eq!(outcome, Err(Violation::MessageTooLarge));
    assert!(
        out.capacity() <= (1 << 20) + 1,
        "{} bytes were reserved",
        out.capacity()
    );

    let bomb = deflated(&vec![0; 4 << 20], false);
    let mut out = Vec::new();
    let outcome = Inflater::default().message(&bomb, usize::MAX, &mut out);
    assert_eq!(outcome, Err(Violation::CompressionRatio));
    assert!(out.capacity() <= bomb.len() * RATIO_MAX + 1);

    let harmless = vec![0; RATIO_FREE_BYTES];
    assert_eq!(inflated(&deflated(&harmless, false), usize::MAX), Ok(harmless));
}

#[test]
fn a_message_of_many_streams_is_refused() {
    let last_empty = [3u8, 0];
    assert_eq!(inflated(&last_empty.repeat(3), 10), Ok(Vec::new()));
    assert_eq!(inflated(&last_empty.repeat(1000), 10), Err(Violation::MalformedDeflate));
}

#[test]
fn a_narrow_message_refers_to_nothing_far_away() {
    let text = noise(8000).repeat(2);
    let narrow = deflated(&text, true);
    assert!(narrow.len() > 15_000, "nothing repeats within 512 bytes");
    let mut small = Decompress::new_with_window_bits(false, NARROW_WINDOW_BITS);
    let mut out = Vec::with_capacity(text.len() + 1);
    small.decompress_vec(&narrow, &mut out, FlushDecompress::None).unwrap();
    assert_eq!(out, text);
}
