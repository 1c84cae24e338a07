//! The frame decoder against tungstenite's own connection type, fed the same bytes in the same reads, and against itself
//! with other reads. Where the two may differ stands in `src/websocket/differential.rs`, which draws well-formed streams;
//! here the bytes are the fuzzer's.

use std::io::{self, Read, Write};
use synckit_server::websocket::{Decoder, Event, Partial, Violation};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

/// Longest message, small so that the limit is met.
const LIMIT: usize = 400;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

/// The first byte says how the rest is cut into reads.
pub fn websocket(data: &[u8]) {
    let Some((recipe, stream)) = data.split_first() else {
        return;
    };
    let reads = super::cut(stream, *recipe);
    let (their_events, they_accept) = theirs(reads.clone());
    let (our_events, violation) = ours(reads);
    assert_eq!((our_events.clone(), violation), ours(vec![stream.to_vec()]), "whole");
    if violation == Some(Violation::MalformedLength) {
        assert!(their_events.starts_with(&our_events));
    } else {
        assert_eq!(our_events, their_events, "{violation:?}");
        assert!(violation.is_some() || they_accept, "they refuse, we do not");
    }
}

/// Yields the given reads, then would block for ever. Swallows what is written.
struct Reads(std::vec::IntoIter<Vec<u8>>);

impl Read for Reads {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.next().ok_or(io::ErrorKind::WouldBlock)?;
        let (now, later) = read.split_at(read.len().min(buffer.len()));
        buffer[..now.len()].copy_from_slice(now);
        if !later.is_empty() {
            let rest: Vec<_> = std::iter::once(later.to_vec()).chain(self.0.by_ref()).collect();
            self.0 = rest.into_iter();
        }
        Ok(now.len())
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

fn theirs(reads: Vec<Vec<u8>>) -> (Vec<Seen>, bool) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(LIMIT))
        .max_frame_size(Some(LIMIT))
        .read_buffer_size(4096);
    let mut socket = WebSocket::from_raw_socket(Reads(reads.into_iter()), Role::Server, Some(config));
    let mut seen = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => seen.push(Seen::Text(text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => seen.push(Seen::Binary(bytes.to_vec())),
            Ok(Message::Ping(bytes)) => seen.push(Seen::Ping(bytes.to_vec())),
            Ok(Message::Pong(bytes)) => seen.push(Seen::Pong(bytes.to_vec())),
            // The library reports a close code that may not be sent as this very frame, ours as a violation.
            Ok(Message::Close(Some(close)))
                if close.code == CloseCode::Protocol && close.reason == "Protocol violation" =>
            {
                return (seen, false);
            }
            Ok(Message::Close(close)) => {
                let close = close.map(|close| (close.code.into(), close.reason.as_str().to_owned()));
                seen.push(Seen::Close(close));
            }
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return (seen, true),
            Err(Error::ConnectionClosed) => return (seen, true),
            Err(Error::Protocol(_) | Error::Utf8(_) | Error::Capacity(_)) => return (seen, false),
            Err(other) => panic!("{other}"),
        }
    }
}

fn ours(reads: Vec<Vec<u8>>) -> (Vec<Seen>, Option<Violation>) {
    let mut partial: Option<Box<Partial>> = None;
    let (mut seen, mut arrived) = (Vec::new(), 0);
    for mut read in reads {
        arrived += read.len();
        let mut decoder = Decoder::new(&mut partial, &mut read, LIMIT);
        loop {
            match decoder.next() {
                Ok(Some(Event::Text(text))) => {
                    assert!(std::str::from_utf8(&text).is_ok());
                    seen.push(Seen::Text(text.to_vec()));
                }
                Ok(Some(Event::Binary(bytes))) => seen.push(Seen::Binary(bytes.to_vec())),
                Ok(Some(Event::Ping(bytes))) => seen.push(Seen::Ping(bytes.to_vec())),
                Ok(Some(Event::Pong(bytes))) => seen.push(Seen::Pong(bytes.to_vec())),
                Ok(Some(Event::Close(close))) => {
                    seen.push(Seen::Close(close.map(|close| (close.code, close.reason.to_owned()))));
                }
                Ok(None) => break,
                Err(violation) => {
                    assert!(matches!(violation.close_code(), 1002 | 1007 | 1009));
                    return (seen, Some(violation));
                }
            }
        }
        let held = partial.as_ref().map_or(0, |partial| partial.bytes());
        assert!(
            held <= size_of::<Partial>() + 2 * arrived,
            "{held} bytes held for {arrived} that arrived"
        );
    }
    (seen, None)
}
