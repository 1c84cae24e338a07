//! Collects a request body, whole or in chunks (RFC 9112 §7.1), within its limit.

use super::request::{BodyLength, HttpError};

/// Longest request body, in bytes (docs/protocol.md §16).
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Longest chunk-size line and all trailers together, in bytes. Nobody needs chunk extensions or trailers.
const LINE_BYTES_MAX: usize = 256;
const TRAILER_BYTES_MAX: usize = 4096;
/// Hexadecimal digits of a chunk size: enough for [`BODY_BYTES_MAX`], and far from any overflow.
const SIZE_DIGITS_MAX: usize = 8;

/// What [`Body::push`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes taken from the buffer. What follows belongs to the next request.
    pub consumed: usize,
    /// Whether the body is complete.
    pub complete: bool,
}

/// A body in the making.
#[derive(Debug)]
pub struct Body {
    state: State,
    collected: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// That many plain bytes are missing.
    Plain {
        missing: usize,
    },
    /// In a chunk-size line of which `line` bytes were seen.
    Size {
        line: usize,
        digits: usize,
        size: usize,
        part: SizePart,
    },
    /// That many bytes of the chunk are missing.
    Data {
        missing: usize,
    },
    /// At the CR or LF that ends a chunk's data.
    DataEnd {
        cr: bool,
    },
    /// In the trailers: `seen` bytes in all, `line` of them in this line, the last one a CR or not.
    Trailer {
        seen: usize,
        line: usize,
        cr: bool,
    },
    Complete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SizePart {
    Digits,
    Extension,
    Cr,
}

const NEXT_SIZE: State = State::Size {
    line: 0,
    digits: 0,
    size: 0,
    part: SizePart::Digits,
};

impl Body {
    /// An empty body of the announced kind.
    pub fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::Bytes(0) => State::Complete,
            BodyLength::Bytes(missing) => State::Plain { missing },
            BodyLength::Chunked => NEXT_SIZE,
        };
        Self {
            state,
            collected: Vec::new(),
        }
    }

    /// Takes bytes that arrived. Call again with more until complete.
    ///
    /// # Errors
    /// The body is too large or its chunks are malformed; answer and close.
    pub fn push(&mut self, buf: &[u8]) -> Result<Progress, HttpError> {
        let mut consumed = 0;
        while self.state != State::Complete && consumed < buf.len() {
            consumed += self.step(&buf[consumed..])?;
        }
        Ok(Progress {
            consumed,
            complete: self.state == State::Complete,
        })
    }

    /// The body so far.
    pub fn bytes(&self) -> &[u8] {
        &self.collected
    }

    /// Takes at least one byte of the non-empty `buf` and returns how many.
    fn step(&mut self, buf: &[u8]) -> Result<usize, HttpError> {
        let byte = buf[0];
        match self.state {
            State::Plain { missing } => {
                let taken = missing.min(buf.len());
                self.collected.extend_from_slice(&buf[..taken]);
                self.state = if taken == missing {
                    State::Complete
                } else {
                    State::Plain {
                        missing: missing - taken,
                    }
                };
                return Ok(taken);
            }
            State::Data { missing } => {
                let taken = missing.min(buf.len());
                self.collected.extend_from_slice(&buf[..taken]);
                self.state = if taken == missing {
                    State::DataEnd { cr: false }
                } else {
                    State::Data {
                        missing: missing - taken,
                    }
                };
                return Ok(taken);
            }
            State::Size {
                line,
                digits,
                size,
                part,
            } => self.state = self.size(byte, line, digits, size, part)?,
            State::DataEnd { cr: false } if byte == b'\r' => self.state = State::DataEnd { cr: true },
            State::DataEnd { cr: true } if byte == b'\n' => self.state = NEXT_SIZE,
            State::DataEnd { .. } => return Err(HttpError::Malformed),
            State::Trailer { seen, line, cr } => self.state = trailer(byte, seen, line, cr)?,
            State::Complete => return Ok(0),
        }
        Ok(1)
    }

    fn size(&self, byte: u8, line: usize, digits: usize, size: usize, part: SizePart) -> Result<State, HttpError> {
        if line >= LINE_BYTES_MAX {
            return Err(HttpError::Malformed);
        }
        let line = line + 1;
        match (part, byte) {
            (SizePart::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits >= SIZE_DIGITS_MAX {
                    return Err(HttpError::BodyTooLarge);
                }
                let digit = (byte as char).to_digit(16).expect("matched as a hexadecimal digit") as usize;
                Ok(State::Size {
                    line,
                    digits: digits + 1,
                    size: size * 16 + digit,
                    part,
                })
            }
            (SizePart::Digits, b';') if digits > 0 => Ok(State::Size {
                line,
                digits,
                size,
                part: SizePart::Extension,
            }),
            (SizePart::Digits | SizePart::Extension, b'\r') if digits > 0 => Ok(State::Size {
                line,
                digits,
                size,
                part: SizePart::Cr,
            }),
            (SizePart::Extension, b'\t' | b' '..=b'~' | 0x80..) => Ok(State::Size {
                line,
                digits,
                size,
                part,
            }),
            (SizePart::Cr, b'\n') if size == 0 => Ok(State::Trailer {
                seen: 0,
                line: 0,
                cr: false,
            }),
            (SizePart::Cr, b'\n') if size > BODY_BYTES_MAX - self.collected.len() => Err(HttpError::BodyTooLarge),
            (SizePart::Cr, b'\n') => Ok(State::Data { missing: size }),
            _ => Err(HttpError::Malformed),
        }
    }
}

/// Trailers are read and thrown away; an empty line ends them.
fn trailer(byte: u8, seen: usize, line: usize, cr: bool) -> Result<State, HttpError> {
    if seen >= TRAILER_BYTES_MAX {
        return Err(HttpError::HeadTooLarge);
    }
    let seen = seen + 1;
    match (byte, cr) {
        (b'\n', true) if line == 0 => Ok(State::Complete),
        (b'\n', true) => Ok(State::Trailer {
            seen,
            line: 0,
            cr: false,
        }),
        (b'\n', false) | (_, true) => Err(HttpError::Malformed),
        (b'\r', false) => Ok(State::Trailer { seen, line, cr: true }),
        (_, false) => Ok(State::Trailer {
            seen,
            line: line + 1,
            cr: false,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunked(text: &[u8]) -> Result<(Vec<u8>, Progress), HttpError> {
        let mut body = Body::new(BodyLength::Chunked);
        let progress = body.push(text)?;
        Ok((body.collected, progress))
    }

    #[test]
    fn a_plain_body_ends_where_announced() {
        let mut body = Body::new(BodyLength::Bytes(5));
        assert_eq!(
            body.push(b"ab"),
            Ok(Progress {
                consumed: 2,
                complete: false
            })
        );
        assert_eq!(
            body.push(b"cdeNEXT"),
            Ok(Progress {
                consumed: 3,
                complete: true
            })
        );
        assert_eq!(body.bytes(), b"abcde");
        assert_eq!(
            Body::new(BodyLength::Bytes(0)).push(b"x"),
            Ok(Progress {
                consumed: 0,
                complete: true
            })
        );
    }

    #[test]
    fn chunks_are_joined_however_they_arrive() {
        let text = b"4\r\nWiki\r\n6;a=\"b\"\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nT: v\r\n\r\nNEXT";
        let (joined, progress) = chunked(text).unwrap();
        assert_eq!(joined, b"Wikipedia in \r\n\r\nchunks.");
        assert_eq!(
            progress,
            Progress {
                consumed: text.len() - 4,
                complete: true
            }
        );
        let mut body = Body::new(BodyLength::Chunked);
        let steps: Vec<_> = text.iter().map(|byte| body.push(&[*byte]).unwrap().complete).collect();
        assert_eq!(body.bytes(), joined);
        assert_eq!(steps.iter().position(|complete| *complete), Some(text.len() - 5));
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for bad in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            " 1\r\na",
            "1 \r\na",
            "1\na",
            "1\r\nab",
            "1\r\na\n",
            "0x1\r\n",
            ";a\r\n",
            "0\r\nT\n",
            "1\r\ra",
            "0\r\n\n",
            "1;\x01\r\n",
        ] {
            assert_eq!(chunked(bad.as_bytes()).unwrap_err(), HttpError::Malformed, "{bad:?}");
        }
        let extension = format!("1;{}\r\n", "a".repeat(LINE_BYTES_MAX));
        assert_eq!(chunked(extension.as_bytes()).unwrap_err(), HttpError::Malformed);
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(1000));
        assert_eq!(chunked(trailers.as_bytes()).unwrap_err(), HttpError::HeadTooLarge);
    }

    #[test]
    fn the_limit_holds_for_the_sum_of_chunks() {
        assert_eq!(chunked(b"100001\r\n").unwrap_err(), HttpError::BodyTooLarge);
        assert_eq!(chunked(b"fffffffffffffffff\r\n").unwrap_err(), HttpError::BodyTooLarge);
        let mut body = Body::new(BodyLength::Chunked);
        body.push(b"fffff\r\n").unwrap();
        body.push(&vec![b'a'; 0xf_ffff]).unwrap();
        assert_eq!(
            body.push(b"\r\n1\r\nb\r\n").unwrap().consumed,
            8,
            "exactly the limit is fine"
        );
        assert_eq!(body.push(b"1\r\n"), Err(HttpError::BodyTooLarge));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok((collected, progress)) = chunked(&bytes) {
                prop_assert!(collected.len() <= bytes.len() && progress.consumed <= bytes.len());
            }
        }

        #[test]
        fn any_cut_gives_the_same_body(data in proptest::collection::vec(any::<u8>(), 0..200), size in 1usize..50, cut in 1usize..20) {
            let mut text = Vec::new();
            for chunk in data.chunks(size) {
                text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            let mut body = Body::new(BodyLength::Chunked);
            for piece in text.chunks(cut) {
                prop_assert_eq!(body.push(piece).unwrap().consumed, piece.len());
            }
            prop_assert_eq!(body.bytes(), data.as_slice());
        }
    }
}
