//! The decoder against tungstenite's own connection type, fed the same bytes in the same reads.
//!
//! Where the two may differ: this decoder fails earlier (at the header, or at a bad byte in the middle of a frame), refuses
//! lengths that are not in the shortest form, and names the protocol fault before the limit when a header has both.

use super::{Decoder, Event, Partial, Violation};
use proptest::prelude::*;
use std::io::{self, Read, Write};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

const LIMIT: usize = 400;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Protocol,
    Utf8,
    TooLarge,
}

/// One frame a client sends, right or wrong.
#[derive(Clone, Debug)]
struct Sent {
    first: u8,
    mask: Option<[u8; 4]>,
    payload: Vec<u8>,
}

impl Sent {
    fn write(&self, stream: &mut Vec<u8>) {
        stream.push(self.first);
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        match self.payload.len() {
            len @ 0..=125 => stream.push(masked | len as u8),
            len => {
                stream.push(masked | 126);
                stream.extend((len as u16).to_be_bytes());
            }
        }
        let mask = self.mask.unwrap_or_default();
        stream.extend(self.mask.iter().flatten());
        stream.extend(
            self.payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
    }
}

/// Yields the given reads, then would block for ever. Swallows what is written.
struct Reads(std::vec::IntoIter<Vec<u8>>);

impl Read for Reads {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.next().ok_or(io::ErrorKind::WouldBlock)?;
        buffer[..read.len()].copy_from_slice(&read);
        Ok(read.len())
    }
}

impl Write for Reads {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(reads: Vec<Vec<u8>>) -> (Vec<Seen>, Verdict) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(LIMIT))
        .max_frame_size(Some(LIMIT));
    let mut socket = WebSocket::from_raw_socket(Reads(reads.into_iter()), Role::Server, Some(config));
    let mut seen = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => seen.push(Seen::Text(text.as_str().to_owned())),
            Ok(Message::Binary(bytes)) => seen.push(Seen::Binary(bytes.to_vec())),
            Ok(Message::Ping(bytes)) => seen.push(Seen::Ping(bytes.to_vec())),
            Ok(Message::Pong(bytes)) => seen.push(Seen::Pong(bytes.to_vec())),
            // The library reports a close code that may not be sent as this very frame, ours as a violation.
            Ok(Message::Close(Some(close)))
                if close.code == CloseCode::Protocol && close.reason == "Protocol violation" =>
            {
                return (seen, Verdict::Protocol);
            }
            Ok(Message::Close(close)) => {
                seen.push(Seen::Close(
                    close.map(|close| (close.code.into(), close.reason.as_str().to_owned())),
                ));
            }
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return (seen, Verdict::Accepted),
            Err(Error::ConnectionClosed) => return (seen, Verdict::Accepted),
            Err(Error::Protocol(_)) => return (seen, Verdict::Protocol),
            Err(Error::Utf8(_)) => return (seen, Verdict::Utf8),
            Err(Error::Capacity(_)) => return (seen, Verdict::TooLarge),
            Err(other) => panic!("{other}"),
        }
    }
}

fn ours(reads: Vec<Vec<u8>>) -> (Vec<Seen>, Verdict, Option<Violation>) {
    let mut partial: Option<Box<Partial>> = None;
    let (mut seen, mut arrived) = (Vec::new(), 0);
    for mut read in reads {
        arrived += read.len();
        let mut decoder = Decoder::new(&mut partial, &mut read, LIMIT);
        loop {
            match decoder.next() {
                Ok(Some(Event::Text(text))) => seen.push(Seen::Text(String::from_utf8(text.to_vec()).unwrap())),
                Ok(Some(Event::Binary(bytes))) => seen.push(Seen::Binary(bytes.to_vec())),
                Ok(Some(Event::Ping(bytes))) => seen.push(Seen::Ping(bytes.to_vec())),
                Ok(Some(Event::Pong(bytes))) => seen.push(Seen::Pong(bytes.to_vec())),
                Ok(Some(Event::Close(close))) => {
                    seen.push(Seen::Close(close.map(|close| (close.code, close.reason.to_owned()))));
                }
                Ok(None) => break,
                Err(violation) => {
                    let verdict = match violation.close_code() {
                        1002 => Verdict::Protocol,
                        1007 => Verdict::Utf8,
                        1009 => Verdict::TooLarge,
                        other => panic!("{other}"),
                    };
                    return (seen, verdict, Some(violation));
                }
            }
        }
        let held = partial.as_ref().map_or(0, |partial| partial.bytes());
        assert!(
            held <= size_of::<Partial>() + 2 * arrived,
            "{held} bytes held for {arrived} that arrived"
        );
    }
    (seen, Verdict::Accepted, None)
}

/// Cuts the stream into reads whose sizes follow `sizes` round and round.
fn cut(stream: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut rest = stream;
    let mut reads = Vec::new();
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (read, later) = rest.split_at((*size).min(rest.len()));
        reads.push(read.to_vec());
        rest = later;
    }
    reads
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        Just(vec![100_000]),
        prop::collection::vec(1..60usize, 1..12)
    ]
}

/// Text of which pieces are often not UTF-8 by themselves, and sometimes not at all.
fn texts() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => "[a-z]{0,5}|é|€|😀|[^\\x00-\\x7f]{1,40}".prop_map(String::into_bytes),
        1 => prop::sample::select(vec![&b"\xff"[..], b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xe2\x82"])
            .prop_map(<[u8]>::to_vec),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn mask() -> impl Strategy<Value = Option<[u8; 4]>> {
    prop_oneof![30 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)]
}

/// A well-formed message in one or more fragments, cut anywhere, with control frames between them.
fn message() -> impl Strategy<Value = Vec<Sent>> {
    let body = prop_oneof![
        texts().prop_map(|text| (1, text)),
        prop::collection::vec(any::<u8>(), 0..150).prop_map(|bytes| (2, bytes)),
    ];
    let between = prop::option::weighted(0.3, (9..=10u8, prop::collection::vec(any::<u8>(), 0..20)));
    let cuts = prop::collection::vec((any::<prop::sample::Index>(), between, any::<[u8; 4]>()), 0..4);
    (body, cuts, any::<[u8; 4]>()).prop_map(|((opcode, body), cuts, mask)| {
        let mut ends: Vec<usize> = cuts.iter().map(|(at, ..)| at.index(body.len() + 1)).collect();
        ends.sort_unstable();
        let mut frames = Vec::new();
        let (mut start, mut first) = (0, opcode);
        for (end, (_, control, mask)) in ends.into_iter().zip(cuts) {
            frames.push(Sent {
                first,
                mask: Some(mask),
                payload: body[start..end].to_vec(),
            });
            (start, first) = (end, 0);
            frames.extend(control.map(|(opcode, payload)| Sent {
                first: 0x80 | opcode,
                mask: Some(mask),
                payload,
            }));
        }
        frames.push(Sent {
            first: 0x80 | first,
            mask: Some(mask),
            payload: body[start..].to_vec(),
        });
        frames
    })
}

/// Any single frame, often out of place or malformed.
fn stray() -> impl Strategy<Value = Vec<Sent>> {
    let first = prop_oneof![
        6 => prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8a]),
        2 => any::<u8>(),
    ];
    let payload = prop_oneof![texts(), prop::collection::vec(any::<u8>(), 0..500)];
    let data = (first, mask(), payload).prop_map(|(first, mask, payload)| Sent { first, mask, payload });
    let code = prop_oneof![Just(1000u16), 995..1020u16, any::<u16>()];
    let close = (code, texts(), mask(), 0..4u8).prop_map(|(code, reason, mask, shape)| {
        let body = [&code.to_be_bytes()[..], &reason].concat();
        let len = [body.len(), 2, 1, 0][usize::from(shape)];
        Sent {
            first: 0x88,
            mask,
            payload: body[..len].to_vec(),
        }
    });
    prop_oneof![3 => data, 1 => close].prop_map(|sent| vec![sent])
}

fn streams() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![4 => message(), 1 => stray()], 0..8).prop_map(|parts| {
        let mut stream = Vec::new();
        parts.iter().flatten().for_each(|sent| sent.write(&mut stream));
        stream
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn whole_frames_get_the_same_events_and_the_same_verdict(stream in streams(), sizes in sizes()) {
        let reads = cut(&stream, &sizes);
        let (their_events, their_verdict) = theirs(reads.clone());
        let (our_events, our_verdict, violation) = ours(reads);
        prop_assert_eq!(&our_events, &their_events, "{:?} against {:?}", violation, their_verdict);
        let both_apply = our_verdict == Verdict::Protocol && their_verdict == Verdict::TooLarge;
        prop_assert!(our_verdict == their_verdict || both_apply, "{:?} against {:?}", violation, their_verdict);
    }

    #[test]
    fn damaged_streams_get_the_same_events(
        stream in streams(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        sizes in sizes(),
    ) {
        let mut stream = stream;
        for (at, byte) in damage {
            if !stream.is_empty() {
                let at = at.index(stream.len());
                stream[at] = byte;
            }
        }
        let reads = cut(&stream, &sizes);
        let (their_events, their_verdict) = theirs(reads.clone());
        let (our_events, our_verdict, violation) = ours(reads);
        if violation == Some(Violation::MalformedLength) {
            prop_assert!(their_events.starts_with(&our_events));
        } else {
            prop_assert_eq!(&our_events, &their_events, "{:?} against {:?}", violation, their_verdict);
            prop_assert!(our_verdict != Verdict::Accepted || their_verdict == Verdict::Accepted, "{:?}", their_verdict);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_reserve_more_than_arrived(
        stream in prop::collection::vec(any::<u8>(), 0..400),
        sizes in sizes(),
    ) {
        let whole = ours(vec![stream.clone()]);
        let pieces = ours(cut(&stream, &sizes));
        prop_assert_eq!(whole, pieces);
    }
}
