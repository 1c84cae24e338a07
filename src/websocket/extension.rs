//! Which compression a handshake settles on (RFC 7692 section 7.1): one extension, permessage-deflate, or none.
//!
//! Neither side keeps its window from one message to the next: `server_no_context_takeover` because an idle connection
//! must own no compressor, `client_no_context_takeover` because it must own no decompressor. A client that cannot do the
//! latter cannot use compression here. An offer with anything unknown, malformed or repeated in it is declined, and the
//! next one is looked at; when none is left the connection goes on without compression.

use std::fmt::Write as _;

/// The window of every compressor that is not told otherwise, in bits.
pub const WINDOW_BITS_MAX: u8 = 15;
/// The smallest window zlib can compress with; offers of 8 bits are declined.
const WINDOW_BITS_MIN: u8 = 9;

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deflate {
    /// `server_max_window_bits` of the accepted offer.
    server_max_window_bits: Option<u8>,
}

impl Deflate {
    /// Whether the client's window is smaller than the usual 32 KiB.
    pub fn is_narrow(self) -> bool {
        self.server_max_window_bits.is_some_and(|bits| bits < WINDOW_BITS_MAX)
    }

    /// The value of `Sec-WebSocket-Extensions` in the response.
    pub fn response(self) -> String {
        let mut value = "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
        if let Some(bits) = self.server_max_window_bits {
            write!(value, "; server_max_window_bits={bits}").expect("writing to a String never fails");
        }
        value
    }
}

/// The first acceptable offer in the `Sec-WebSocket-Extensions` lines of a request.
pub fn negotiate<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Deflate> {
    lines.flat_map(|line| line.split(',')).find_map(accept)
}

fn accept(offer: &str) -> Option<Deflate> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let mut seen: [bool; 4] = [false; 4];
    let mut server_max_window_bits = None;
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquoted(value.trim_start())?)),
            None => (part, None),
        };
        let known = [
            "server_no_context_takeover",
            "client_no_context_takeover",
            "server_max_window_bits",
            "client_max_window_bits",
        ];
        let which = known.iter().position(|known| name.eq_ignore_ascii_case(known))?;
        if std::mem::replace(&mut seen[which], true) {
            return None;
        }
        match (which, value) {
            (0 | 1, None) | (3, None) => {}
            (2, Some(value)) => {
                let bits = window_bits(value)?;
                if bits < WINDOW_BITS_MIN {
                    return None;
                }
                server_max_window_bits = Some(bits);
            }
            // Whatever window the client compresses with, ours to decompress is the largest.
            (3, Some(value)) => drop(window_bits(value)?),
            _ => return None,
        }
    }
    Some(Deflate { server_max_window_bits })
}

/// A token, or a quoted string that holds one (section 5.1).
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    }
}

/// A whole number from 8 to 15 without leading zeroes (section 7.1.2).
fn window_bits(text: &str) -> Option<u8> {
    match text {
        "8" => Some(8),
        "9" => Some(9),
        _ => match text.as_bytes() {
            [b'1', digit @ b'0'..=b'5'] => Some(10 + (digit - b'0')),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(offer: &str) -> Option<String> {
        negotiate(std::iter::once(offer)).map(Deflate::response)
    }

    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn offers_of_browsers_and_libraries_are_taken() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "Permessage-Deflate;client_max_window_bits=15 ; server_no_context_takeover",
            "permessage-deflate; client_max_window_bits=\"8\"",
            "x-webkit-deflate-frame, permessage-deflate",
            "permessage-deflate; nonsense, permessage-deflate; client_no_context_takeover",
        ] {
            assert_eq!(answer(offer).as_deref(), Some(PLAIN), "{offer}");
        }
    }

    #[test]
    fn a_smaller_window_is_promised_back() {
        let offer = "permessage-deflate; server_max_window_bits=10";
        assert_eq!(answer(offer), Some(format!("{PLAIN}; server_max_window_bits=10")));
        assert!(negotiate(std::iter::once(offer)).unwrap().is_narrow());
        let full = "permessage-deflate; server_max_window_bits=15";
        assert_eq!(answer(full), Some(format!("{PLAIN}; server_max_window_bits=15")));
        assert!(!negotiate(std::iter::once(full)).unwrap().is_narrow());
        // The fallback of a client that would rather have something zlib cannot do.
        let offer = "permessage-deflate; server_max_window_bits=8, permessage-deflate";
        assert_eq!(answer(offer).as_deref(), Some(PLAIN));
    }

    #[test]
    fn anything_odd_declines_an_offer() {
        for parameters in [
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=8",
            "server_max_window_bits=16",
            "server_max_window_bits=010",
            "server_max_window_bits=\"10",
            "server_max_window_bits=",
            "client_max_window_bits=16",
            "client_max_window_bits=0",
            "client_max_window_bits=+9",
            "client_max_window_bits; client_max_window_bits",
            "server_no_context_takeover=1",
            "client_no_context_takeover=\"\"",
            "unknown",
            "unknown=1",
            "",
        ] {
            assert_eq!(
                answer(&format!("permessage-deflate; {parameters}")),
                None,
                "{parameters}"
            );
        }
        assert_eq!(answer("permessage-deflat"), None);
        assert_eq!(answer(""), None);
        assert_eq!(negotiate(std::iter::empty()), None);
    }

    #[test]
    fn several_lines_are_one_list() {
        let lines = [
            "permessage-deflate; unknown",
            "permessage-deflate; client_max_window_bits",
        ];
        assert_eq!(
            negotiate(lines.into_iter()).map(Deflate::response).as_deref(),
            Some(PLAIN)
        );
    }
}
