//! Very many connections on one thread: non-blocking sockets that are asked in turn, with just enough RFC 6455 to
//! talk to the server. Blocking clients would need a thread each.

use super::{Message, PATIENCE};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const UPGRADE_TAIL: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// What a member of the crowd received.
#[derive(Debug)]
pub enum Received {
    /// An application message.
    Message(Message),
    /// A protocol pong with its payload.
    Pong(Vec<u8>),
    /// A close frame.
    Close(u16, String),
    /// The end of the TCP connection.
    End,
}

/// One WebSocket connection without a thread, tungstenite's buffers or automatic answers (except to pings).
pub struct Member {
    stream: TcpStream,
    inbound: Vec<u8>,
    outbound: Vec<u8>,
    over: bool,
}

impl Member {
    /// Connects and upgrades, blocking; non-blocking from then on.
    pub fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, "")
    }

    /// The same with additional header lines, each ended by CRLF.
    pub fn connect_with(address: SocketAddr, header_lines: &str) -> Self {
        let mut stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        let head = format!("GET /ws HTTP/1.1\r\nHost: {address}\r\n{UPGRADE_TAIL}{header_lines}\r\n");
        stream.write_all(head.as_bytes()).expect("the request is sent");
        let mut answer = Vec::new();
        let mut piece = [0; 1024];
        let end = loop {
            let read = match stream.read(&mut piece) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read.expect("an answer to the upgrade"),
            };
            assert!(
                read > 0,
                "closed during the upgrade: {}",
                String::from_utf8_lossy(&answer)
            );
            answer.extend_from_slice(&piece[..read]);
            if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        assert!(
            answer.starts_with(b"HTTP/1.1 101 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        stream.set_nonblocking(true).expect("non-blocking");
        Self {
            stream,
            inbound: answer.split_off(end),
            outbound: Vec::new(),
            over: false,
        }
    }

    /// The TCP connection.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends a text message, as far as the socket takes it now; the rest goes with later calls.
    pub fn send_text(&mut self, text: &str) {
        self.send(0x1, text.as_bytes());
    }

    /// Sends a binary message.
    pub fn send_binary(&mut self, bytes: &[u8]) {
        self.send(0x2, bytes);
    }

    /// Sends one whole WebSocket frame with the opcode given.
    pub fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.outbound.push(0x80 | opcode);
        match payload.len() {
            short @ 0..=125 => self.outbound.push(0x80 | short as u8),
            medium @ 126..=0xFFFF => {
                self.outbound.push(0x80 | 126);
                self.outbound.extend_from_slice(&(medium as u16).to_be_bytes());
            }
            long => {
                self.outbound.push(0x80 | 127);
                self.outbound.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        let mask = [0x11, 0x22, 0x33, 0x44];
        self.outbound.extend_from_slice(&mask);
        self.outbound
            .extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        self.push();
    }

    /// Sends bytes that need not be a frame.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.outbound.extend_from_slice(bytes);
        self.push();
    }

    fn push(&mut self) {
        while !self.outbound.is_empty() {
            match self.stream.write(&self.outbound) {
                Ok(written) => drop(self.outbound.drain(..written)),
                Err(_) => return,
            }
        }
    }

    /// Takes what has arrived, without waiting.
    pub fn poll(&mut self) -> Vec<Received> {
        self.push();
        let mut piece = [0; 64 * 1024];
        let mut ended = false;
        while !self.over {
            match self.stream.read(&mut piece) {
                Ok(0) => ended = true,
                Ok(read) => self.inbound.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => ended = true,
            }
            self.over |= ended;
        }
        let mut received = Vec::new();
        let mut at = 0;
        while let Some((opcode, payload, next)) = split_frame(&self.inbound, at) {
            match opcode {
                0x1 | 0x2 => received.push(Received::Message(Message::parse(opcode == 0x1, payload))),
                0x8 => {
                    let code = payload
                        .get(..2)
                        .map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                    received.push(Received::Close(code, reason));
                }
                0x9 => {
                    let echo = payload.to_vec();
                    self.outbound
                        .extend_from_slice(&[0x8A, 0x80 | echo.len() as u8, 0, 0, 0, 0]);
                    self.outbound.extend_from_slice(&echo);
                }
                0xA => received.push(Received::Pong(payload.to_vec())),
                other => panic!("the server sent opcode {other:#x}"),
            }
            at = next;
        }
        self.inbound.drain(..at);
        self.push();
        if ended {
            received.push(Received::End);
        }
        received
    }

    /// Throws away what has arrived, unread: for members that only make up the numbers. Do not mix with [`Self::poll`].
    pub fn discard(&mut self) {
        let mut piece = [0; 64 * 1024];
        while matches!(self.stream.read(&mut piece), Ok(1..)) {}
    }

    /// Takes the messages that have arrived; the connection must not be over.
    pub fn messages(&mut self) -> Vec<Message> {
        let only_messages = |received| match received {
            Received::Message(message) => Some(message),
            Received::Pong(_) => None,
            other => panic!("the connection ended: {other:?}"),
        };
        self.poll().into_iter().filter_map(only_messages).collect()
    }

    /// Waits for a message that fits; drops the others.
    pub fn wait_for(&mut self, what: &str, fits: impl Fn(&Message) -> bool) -> Message {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(message) = self.messages().into_iter().find(&fits) {
                return message;
            }
            assert!(Instant::now() < deadline, "never got {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The frame at `at`: opcode, payload, where the next one begins. The server never masks and, for these tests, never
/// fragments.
fn split_frame(bytes: &[u8], at: usize) -> Option<(u8, &[u8], usize)> {
    let rest = bytes.get(at..)?;
    let (&first, &second) = (rest.first()?, rest.get(1)?);
    assert_eq!(first & 0xF0, 0x80, "a fragment or reserved bits from the server");
    assert_eq!(second & 0x80, 0, "a masked frame from the server");
    let (header, length) = match second {
        126 => (4, usize::from(u16::from_be_bytes(rest.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(rest.get(2..10)?.try_into().ok()?) as usize),
        short => (2, usize::from(short)),
    };
    let payload = rest.get(header..header + length)?;
    Some((first & 0x0F, payload, at + header + length))
}
