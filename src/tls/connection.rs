//! One connection's TLS state: records in, plaintext out, and the other way round. No socket.

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{Error, ServerConfig};
use std::sync::Arc;

/// Plaintext of one record (RFC 8446 section 5.1).
pub(super) const RECORD_BYTES_MAX: usize = 1 << 14;
/// What a record adds: header, content type, and the longest tag or nonce and padding of our suites.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// What a connection owns. At rest both vectors are empty and own nothing.
pub struct Connection {
    tls: UnbufferedServerConnection,
    /// The beginning of a record or of a handshake message of which more is to come. Bounded by rustls: a record holds at
    /// most 16 KiB and a bit, a handshake message 64 KiB.
    unfinished: Vec<u8>,
    /// Records that wait to be sent: handshake, tickets, alerts.
    pub pending: Vec<u8>,
    /// Plaintext given out for sending, encrypted, that has not been reported as sent.
    pub in_flight: usize,
    /// Application data may be sent.
    is_open: bool,
    /// Something that looked like TLS has been received.
    has_begun: bool,
    /// The shard was told that it ended.
    pub is_over: bool,
}

/// How the peer's side stands after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Open,
    /// It said that nothing more comes.
    Closed,
}

impl Connection {
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            tls: UnbufferedServerConnection::new(config)?,
            unfinished: Vec::new(),
            pending: Vec::new(),
            in_flight: 0,
            is_open: false,
            has_begun: false,
            is_over: false,
        })
    }

    /// Whether the handshake is done, as far as sending goes.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Takes in what a socket received and appends what it says to `plaintext`. After an error an alert is pending.
    pub fn read(&mut self, received: &mut [u8], plaintext: &mut Vec<u8>) -> Result<Peer, Error> {
        let first = !std::mem::replace(&mut self.has_begun, true);
        let outcome = if self.unfinished.is_empty() {
            let outcome = self.process(received, plaintext);
            if let Ok((used, _)) = outcome
                && used < received.len()
            {
                self.unfinished = received[used..].to_vec();
            }
            outcome
        } else {
            let mut bytes = std::mem::take(&mut self.unfinished);
            bytes.extend_from_slice(received);
            let outcome = self.process(&mut bytes, plaintext);
            if let Ok((used, _)) = outcome
                && used < bytes.len()
            {
                bytes.drain(..used);
                self.unfinished = bytes;
            }
            outcome
        };
        match outcome {
            Ok((_, peer)) => Ok(peer),
            Err(error) => {
                self.unfinished = Vec::new();
                if first && looks_like_http(received) {
                    self.pending = PLAIN_HTTP_ANSWER.to_vec();
                } else {
                    self.queue_alert();
                }
                Err(error)
            }
        }
    }

    /// Works through records until more is needed. Returns how many bytes are done with.
    fn process(&mut self, bytes: &mut [u8], plaintext: &mut Vec<u8>) -> Result<(usize, Peer), Error> {
        let (mut used, mut peer) = (0, Peer::Open);
        loop {
            let UnbufferedStatus { mut discard, state, .. } = self.tls.process_tls_records(&mut bytes[used..]);
            let mut goes_on = true;
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plaintext.extend_from_slice(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => encode(&mut self.pending, |out| data.encode(out)),
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(_) => {
                    self.is_open = true;
                    goes_on = false;
                }
                ConnectionState::PeerClosed => peer = Peer::Closed,
                // Handshake blocked, closed on both sides, or a state that is never asked for here (early data).
                _ => goes_on = false,
            }
            used += discard;
            if !goes_on || peer == Peer::Closed {
                return Ok((used, peer));
            }
        }
    }

    fn queue_alert(&mut self) {
        while let Ok(ConnectionState::EncodeTlsData(mut data)) = self.tls.process_tls_records(&mut []).state {
            encode(&mut self.pending, |out| data.encode(out));
        }
    }

    /// Appends `plaintext`, at most [`RECORD_BYTES_MAX`] bytes, encrypted to `out`. `Err`: this connection cannot send any
    /// more.
    pub fn encrypt(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), ()> {
        let state = self.tls.process_tls_records(&mut []).state;
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = state else {
            return Err(());
        };
        let start = out.len();
        let mut room = plaintext.len() + RECORD_OVERHEAD_BYTES;
        loop {
            out.resize(start + room, 0);
            match traffic.encrypt(plaintext, &mut out[start..]) {
                Ok(written) => {
                    out.truncate(start + written);
                    return Ok(());
                }
                Err(EncryptError::InsufficientSize(size)) if size.required_size > room => room = size.required_size,
                Err(_) => {
                    out.truncate(start);
                    return Err(());
                }
            }
        }
    }

    /// The last bytes of this connection: what is pending, and the word that nothing follows.
    pub fn farewell(mut self) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.pending);
        if self.is_open
            && let Ok(ConnectionState::WriteTraffic(mut traffic)) = self.tls.process_tls_records(&mut []).state
        {
            let start = out.len();
            out.resize(start + RECORD_OVERHEAD_BYTES, 0);
            let written = traffic.queue_close_notify(&mut out[start..]).unwrap_or(0);
            out.truncate(start + written);
        }
        out
    }
}

/// Appends what rustls encodes, with as much room as it asks for.
fn encode(out: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let start = out.len();
    let mut room = 0;
    loop {
        out.resize(start + room, 0);
        match encode(&mut out[start..]) {
            Ok(written) => return out.truncate(start + written),
            Err(EncodeError::InsufficientSize(size)) if size.required_size > room => room = size.required_size,
            Err(_) => return out.truncate(start),
        }
    }
}

/// What somebody gets who speaks HTTP to a port that speaks TLS.
const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 49\r\n\r\n\
    This port speaks TLS: use https:// or wss:// URLs";

fn looks_like_http(bytes: &[u8]) -> bool {
    let methods: [&[u8]; 8] = [
        b"GET ",
        b"POST ",
        b"HEAD ",
        b"PUT ",
        b"DELETE ",
        b"OPTIONS ",
        b"PATCH ",
        b"CONNECT ",
    ];
    methods.iter().any(|method| bytes.starts_with(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_has_its_length() {
        let answer = std::str::from_utf8(PLAIN_HTTP_ANSWER).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
    }

    #[test]
    fn a_connection_is_not_larger_than_it_was() {
        let bytes = size_of::<Connection>();
        assert!(bytes <= 1400, "{bytes} bytes");
    }
}
