//! A WebSocket echo on `std::net`, one thread per connection: the smallest program around `synckit_server::websocket`.
//! The conformance test drives it. `cargo run --example echo [port]` prints the port it listens on.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;
use synckit_server::config::CorsOrigins;
use synckit_server::http::{Framing, Head, upgrade_key};
use synckit_server::websocket::handshake::switching_protocols;
use synckit_server::websocket::{
    Decoder, Deflate, Deflater, Event, Inflater, Opcode, close_frame, deflated_frame_header, empty_close_frame,
    extension, frame_header, pong_frame,
};

/// Like the server's own hard limit (docs/protocol.md §17.1).
const MESSAGE_BYTES_MAX: usize = 17 << 20;
const READ_BYTES: usize = 64 << 10;
/// How long to wait for the peer's end after our close frame before the socket is dropped.
const LINGER: Duration = Duration::from_secs(2);

#[allow(dead_code, reason = "the conformance test takes this file as a module")]
fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(0);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    println!("{}", listener.local_addr()?.port());
    serve(listener)
}

/// Accepts for ever.
pub fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (socket, peer) = listener.accept()?;
        thread::spawn(move || {
            if let Err(error) = connection(socket) {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

fn connection(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let Some((mut early, deflate)) = upgrade(&mut socket)? else {
        return Ok(());
    };
    let mut compression = deflate.map(|deflate| (deflate, Deflater::default(), Inflater::default()));
    let (mut partial, mut outgoing) = (None, Vec::new());
    let mut scratch = vec![0; READ_BYTES];
    loop {
        // Whatever followed the request head in the same read comes first.
        let read = if early.is_empty() {
            match socket.read(&mut scratch)? {
                0 => return Ok(()),
                len => &mut scratch[..len],
            }
        } else {
            &mut early[..]
        };
        let decoder = Decoder::new(&mut partial, read, MESSAGE_BYTES_MAX);
        let is_open = match &mut compression {
            None => answer(decoder, &mut outgoing, None),
            Some((deflate, deflater, inflater)) => {
                answer(decoder.inflating(inflater), &mut outgoing, Some((*deflate, deflater)))
            }
        };
        early.clear();
        socket.write_all(&outgoing)?;
        outgoing.clear();
        if !is_open {
            return end(socket);
        }
    }
}

/// Writes the answers to everything one read completed. Whether the connection stays open.
fn answer(mut decoder: Decoder<'_, '_>, outgoing: &mut Vec<u8>, mut compression: Compression<'_>) -> bool {
    loop {
        match decoder.next() {
            Ok(None) => return true,
            Ok(Some(Event::Text(text))) => echo(Opcode::Text, &text, outgoing, &mut compression),
            Ok(Some(Event::Binary(bytes))) => echo(Opcode::Binary, &bytes, outgoing, &mut compression),
            Ok(Some(Event::Ping(payload))) => outgoing.extend_from_slice(&pong_frame(payload)),
            Ok(Some(Event::Pong(_))) => {}
            Ok(Some(Event::Close(reason))) => {
                let reply = match reason {
                    Some(reason) => close_frame(reason.code, reason.reason),
                    None => empty_close_frame(),
                };
                outgoing.extend_from_slice(&reply);
                return false;
            }
            Err(violation) => {
                outgoing.extend_from_slice(&close_frame(violation.close_code(), violation.reason()));
                return false;
            }
        }
    }
}

/// How to compress, where that was agreed on.
type Compression<'a> = Option<(Deflate, &'a mut Deflater)>;

/// One message back. Every message is compressed where that was agreed on, however little it brings.
fn echo(opcode: Opcode, message: &[u8], outgoing: &mut Vec<u8>, compression: &mut Compression<'_>) {
    match compression {
        None => {
            outgoing.extend_from_slice(&frame_header(opcode, message.len()));
            outgoing.extend_from_slice(message);
        }
        Some((deflate, deflater)) => {
            let mut payload = Vec::new();
            deflater.message(&[message], deflate.is_narrow(), &mut payload);
            outgoing.extend_from_slice(&deflated_frame_header(opcode, payload.len()));
            outgoing.extend_from_slice(&payload);
        }
    }
}

/// Ends our side and swallows what still arrives: dropping a socket with unread bytes resets the connection, and the
/// reset may overtake our close frame.
fn end(mut socket: TcpStream) -> io::Result<()> {
    socket.shutdown(Shutdown::Write)?;
    socket.set_read_timeout(Some(LINGER))?;
    let mut ignored = [0; 4096];
    while matches!(socket.read(&mut ignored), Ok(1..)) {}
    Ok(())
}

/// The opening handshake. `None`: refused. Otherwise the bytes that followed the request head, and the compression.
fn upgrade(socket: &mut TcpStream) -> io::Result<Option<(Vec<u8>, Option<Deflate>)>> {
    let mut received = Vec::new();
    let mut scratch = [0; 4096];
    let head = loop {
        let len = socket.read(&mut scratch)?;
        if len == 0 {
            return Ok(None);
        }
        received.extend_from_slice(&scratch[..len]);
        if let Some(head) = Head::parse(&received).map_err(io::Error::other)? {
            break head;
        }
    };
    received.drain(..head.head_bytes);
    match upgrade_key(&head) {
        Ok(key) => {
            let deflate = extension::negotiate(head.headers("sec-websocket-extensions"));
            socket
                .write_all(&switching_protocols(key, deflate))
                .map(|()| Some((received, deflate)))
        }
        Err(refusal) => {
            socket.write_all(&refusal.closing().encode(&Framing::closing(&CorsOrigins::Any)))?;
            end(socket.try_clone()?).map(|()| None)
        }
    }
}
