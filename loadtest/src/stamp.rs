//! The mark inside every value the load tester writes: who wrote it, which of the writer's messages it is, and when it
//! was due. Subscribers find it in whatever the server made of the message, so latency and the proof of no loss need no
//! understanding of a dialect.

/// Begins and ends a stamp. Document ids, field names and everything else in a message never hold it.
const FENCE: u8 = b'~';
/// Bytes of a stamp.
pub const BYTES: usize = 34;

/// What a value says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the writer among those of its document.
    pub writer: u32,
    /// Number of the message among those of its writer, from 1.
    pub sequence: u32,
    /// When the message was due, in nanoseconds of the monotonic clock.
    pub due_ns: u64,
}

impl Stamp {
    /// Appends the stamp.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(FENCE);
        hex(out, u64::from(self.writer), 8);
        hex(out, u64::from(self.sequence), 8);
        hex(out, self.due_ns, 16);
        out.push(FENCE);
    }

    /// The first stamp of `bytes` and where the bytes after it begin.
    pub fn find(bytes: &[u8]) -> Option<(Stamp, usize)> {
        let mut from = 0;
        loop {
            let at = from + memchr::memchr(FENCE, &bytes[from..])?;
            let candidate = bytes.get(at..at + BYTES)?;
            if let Some(stamp) = Self::parse(candidate) {
                return Some((stamp, at + BYTES));
            }
            from = at + 1;
        }
    }

    fn parse(text: &[u8]) -> Option<Stamp> {
        if text[BYTES - 1] != FENCE {
            return None;
        }
        Some(Stamp {
            writer: u32::try_from(number(&text[1..9])?).ok()?,
            sequence: u32::try_from(number(&text[9..17])?).ok()?,
            due_ns: number(&text[17..33])?,
        })
    }
}

/// Appends a number in a fixed number of hexadecimal digits.
pub fn hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(value >> (4 * digit)) as usize & 15]);
    }
}

/// The number in hexadecimal digits.
pub fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_found_one_after_the_other() {
        let first = Stamp {
            writer: 3,
            sequence: u32::MAX,
            due_ns: 987_654_321_012_345,
        };
        let second = Stamp {
            writer: 0,
            sequence: 1,
            due_ns: 0,
        };
        let mut bytes = b"{\"a\":\"~not one~\",\"b\":\"".to_vec();
        first.write(&mut bytes);
        bytes.extend_from_slice(b"xxxx\",\"c\":\"");
        second.write(&mut bytes);
        let (found, next) = Stamp::find(&bytes).expect("the first");
        assert_eq!(found, first);
        let (found, next) = Stamp::find(&bytes[next..])
            .map(|(stamp, at)| (stamp, next + at))
            .expect("the second");
        assert_eq!((found, next), (second, bytes.len()));
        assert_eq!(Stamp::find(&bytes[next..]), None);
    }

    #[test]
    fn a_stamp_cut_off_is_none() {
        let mut bytes = Vec::new();
        Stamp {
            writer: 1,
            sequence: 2,
            due_ns: 3,
        }
        .write(&mut bytes);
        assert_eq!(bytes.len(), BYTES);
        for cut in 0..BYTES {
            assert_eq!(Stamp::find(&bytes[..cut]), None);
        }
    }
}
