//! The end of the opening handshake (RFC 6455 section 4.2.2). Whether a request is a handshake at all is HTTP's business
//! ([`crate::http::upgrade_key`]).
//!
//! The library's own `create_response` reads only the first `Connection` and `Upgrade` line and owns the request, so only
//! its accept key is used.

use super::Deflate;
use bytes::Bytes;
use tungstenite::handshake::derive_accept_key;

/// The response that turns the connection into a WebSocket, for a key that was checked. Offers of subprotocols and
/// other extensions are declined by silence.
pub fn switching_protocols(key: &str, deflate: Option<Deflate>) -> Bytes {
    let accept = derive_accept_key(key.as_bytes());
    let extensions = deflate.map_or_else(String::new, |deflate| {
        format!("Sec-WebSocket-Extensions: {}\r\n", deflate.response())
    });
    Bytes::from(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{extensions}\r\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_of_the_standard_gets_its_answer() {
        let response = switching_protocols("dGhlIHNhbXBsZSBub25jZQ==", None);
        let expected = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert_eq!(response, expected);
    }
}
