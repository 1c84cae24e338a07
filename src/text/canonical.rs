//! Reads a state that has exactly the layout the clients write: fixed member order, no white space, plain strings.
//!
//! This is the reader of the hot path, several times as fast as a general one because it compares whole runs of
//! punctuation. It only ever says "this is such a state" or "I don't know"; in the second case
//! [`lenient`](super::lenient) reads the state again from its start and alone decides what is refused and why.

use super::blocks::{Client, Origin};
use super::builder::{Builder, Entry, INTEGER_MAX};

/// Whether the state was understood. If not, the builder holds rubbish.
pub(super) fn read(json: &str, builder: &mut Builder) -> bool {
    Reader {
        json,
        at: 0,
        recent: [("", 0); RECENT],
        recent_len: 0,
    }
    .state(builder)
    .is_some()
}

/// Client ids that are tried first, before scanning and hashing. Most texts have few authors at a time.
const RECENT: usize = 4;

struct Reader<'j> {
    json: &'j str,
    at: usize,
    /// Ids with their closing quote, the latest new one first.
    recent: [(&'j str, Client); RECENT],
    recent_len: usize,
}

impl<'j> Reader<'j> {
    fn state(&mut self, builder: &mut Builder) -> Option<()> {
        self.expect("{\"blocks\":[")?;
        if !self.take("]") {
            loop {
                builder.check_room().ok()?;
                self.block(builder)?;
                if !self.take(",") {
                    break;
                }
            }
            self.expect("]")?;
        }
        self.expect(",\"clock\":{\"value\":")?;
        builder.clock = Some(self.integer()?);
        self.expect("},\"client_id\":\"")?;
        let id = self.plain_string()?;
        builder.check_client_id(id).ok()?;
        builder.has_client_id = true;
        self.expect("\"}")?;
        (self.at == self.json.len()).then_some(())
    }

    fn block(&mut self, builder: &mut Builder) -> Option<()> {
        self.expect("[")?;
        let key_start = self.at;
        let (client, clock) = self.id(builder)?;
        let key = &self.json[key_start..self.at];
        self.expect(",{\"id\":")?;
        self.expect(key)?;
        self.expect(",\"text\":\"")?;
        let start = builder.text.len();
        self.text(&mut builder.text)?;
        self.expect(",\"left_origin\":")?;
        let left = self.origin(builder)?;
        self.expect(",\"right_origin\":")?;
        let right = self.origin(builder)?;
        self.expect(",\"deleted\":")?;
        let deleted = self.take("true");
        if !deleted {
            self.expect("false")?;
        }
        self.expect("}]")?;
        builder.push(Entry {
            client,
            clock,
            left,
            right,
            deleted,
            start,
        });
        Some(())
    }

    fn origin(&mut self, builder: &mut Builder) -> Option<Origin> {
        if self.take("null") {
            return Some(Origin::NONE);
        }
        let (client, clock) = self.id(builder)?;
        Some(Origin::new(client, clock))
    }

    fn id(&mut self, builder: &mut Builder) -> Option<(Client, u64)> {
        self.expect("{\"client_id\":\"")?;
        let client = self.client(builder)?;
        self.expect(",\"clock\":")?;
        let clock = self.integer()?;
        self.expect(",\"offset\":0}")?;
        Some((client, clock))
    }

    /// A client id up to and including its closing quote.
    fn client(&mut self, builder: &mut Builder) -> Option<Client> {
        let rest = &self.json.as_bytes()[self.at..];
        for &(id, client) in &self.recent[..self.recent_len] {
            if rest.starts_with(id.as_bytes()) {
                self.at += id.len();
                return Some(client);
            }
        }
        let start = self.at;
        let id = self.plain_string()?;
        let client = builder.client(id).ok()?;
        self.expect("\"")?;
        self.recent.rotate_right(1);
        self.recent[0] = (&self.json[start..self.at], client);
        self.recent_len = (self.recent_len + 1).min(RECENT);
        Some(client)
    }

    /// A string without escapes, up to but without its closing quote.
    fn plain_string(&mut self) -> Option<&'j str> {
        let rest = &self.json[self.at..];
        let len = rest
            .bytes()
            .position(|byte| byte == b'"' || byte == b'\\' || byte < 0x20)?;
        if rest.as_bytes()[len] != b'"' {
            return None;
        }
        self.at += len;
        Some(&rest[..len])
    }

    /// A string with the short escapes, appended to `out`, up to and including its closing quote.
    fn text(&mut self, out: &mut String) -> Option<()> {
        loop {
            let rest = &self.json[self.at..];
            let len = rest
                .bytes()
                .position(|byte| byte == b'"' || byte == b'\\' || byte < 0x20)?;
            out.push_str(&rest[..len]);
            self.at += len + 1;
            match rest.as_bytes()[len] {
                b'"' => return Some(()),
                b'\\' => out.push(short_escape(*rest.as_bytes().get(len + 1)?)?),
                _ => return None,
            }
            self.at += 1;
        }
    }

    /// An integer in 0 ... 2^53-1 without leading zeros. Whatever follows (a point, say) fails at the next literal.
    fn integer(&mut self) -> Option<u64> {
        let rest = &self.json.as_bytes()[self.at..];
        let digits = rest.iter().take(17).take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 || digits > 16 || (rest[0] == b'0' && digits > 1) {
            return None;
        }
        let value = rest[..digits]
            .iter()
            .fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
        self.at += digits;
        (value <= INTEGER_MAX).then_some(value)
    }

    fn expect(&mut self, literal: &str) -> Option<()> {
        self.take(literal).then_some(())
    }

    #[inline(always)]
    fn take(&mut self, literal: &str) -> bool {
        let found = self.json.as_bytes()[self.at..].starts_with(literal.as_bytes());
        if found {
            self.at += literal.len();
        }
        found
    }
}

fn short_escape(byte: u8) -> Option<char> {
    Some(match byte {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        _ => return None,
    })
}
