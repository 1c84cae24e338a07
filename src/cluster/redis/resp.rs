//! The part of RESP2 that pub/sub uses: commands out, answers and pushes in. Reads slices and copies nothing.

/// Longest string that is accepted; far above any envelope, so that only nonsense is refused.
const STRING_BYTES_MAX: usize = 64 << 20;

/// What Redis says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    /// An envelope, by its channel.
    Message { channel: &'a [u8], payload: &'a [u8] },
    /// A subscription is in force.
    Subscribed { channel: &'a [u8] },
    /// One has ended.
    Unsubscribed,
    /// A number.
    Integer(i64),
    /// A refusal.
    Error(&'a [u8]),
    /// Anything else.
    Other,
}

/// The answers to a `PING`, as Redis gives them before and after a subscription.
pub(super) const PONGS: [&[u8]; 2] = [b"+PONG\r\n", b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"];

/// What arrived is not RESP, or not what Redis sends in pub/sub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

#[derive(Clone, Copy)]
enum Item<'a> {
    Text(&'a [u8]),
    Error(&'a [u8]),
    Integer(i64),
    Null,
}

/// The first reply in `bytes` and its length; `None`: it is not complete.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>, Malformed> {
    if bytes.first() != Some(&b'*') {
        let parsed = item(bytes, 0)?;
        return Ok(parsed.map(|(item, end)| (single(item), end)));
    }
    let Some((count, mut at)) = number(bytes, 1)? else {
        return Ok(None);
    };
    let mut items = [Item::Null; 4];
    let count = usize::try_from(count).map_err(|_| Malformed)?;
    for slot in items.get_mut(..count).ok_or(Malformed)? {
        let Some((item, end)) = item(bytes, at)? else {
            return Ok(None);
        };
        (*slot, at) = (item, end);
    }
    Ok(Some((push(&items[..count]), at)))
}

fn single(item: Item<'_>) -> Reply<'_> {
    match item {
        Item::Integer(number) => Reply::Integer(number),
        Item::Error(text) => Reply::Error(text),
        Item::Text(_) | Item::Null => Reply::Other,
    }
}

fn push<'a>(items: &[Item<'a>]) -> Reply<'a> {
    match *items {
        [Item::Text(b"message"), Item::Text(channel), Item::Text(payload)]
        | [Item::Text(b"pmessage"), _, Item::Text(channel), Item::Text(payload)] => Reply::Message { channel, payload },
        [Item::Text(b"subscribe" | b"psubscribe"), Item::Text(channel), _] => Reply::Subscribed { channel },
        [Item::Text(b"unsubscribe" | b"punsubscribe"), ..] => Reply::Unsubscribed,
        _ => Reply::Other,
    }
}

fn item(bytes: &[u8], at: usize) -> Result<Option<(Item<'_>, usize)>, Malformed> {
    let Some(kind) = bytes.get(at) else { return Ok(None) };
    match kind {
        b'$' => {
            let Some((length, start)) = number(bytes, at + 1)? else {
                return Ok(None);
            };
            if length == -1 {
                return Ok(Some((Item::Null, start)));
            }
            let length = usize::try_from(length).map_err(|_| Malformed)?;
            if length > STRING_BYTES_MAX {
                return Err(Malformed);
            }
            let end = start + length;
            match bytes.get(start..end + 2) {
                None => Ok(None),
                Some(text) if text.ends_with(b"\r\n") => Ok(Some((Item::Text(&bytes[start..end]), end + 2))),
                Some(_) => Err(Malformed),
            }
        }
        b':' => Ok(number(bytes, at + 1)?.map(|(number, end)| (Item::Integer(number), end))),
        b'+' => Ok(line(bytes, at + 1).map(|(text, end)| (Item::Text(text), end))),
        b'-' => Ok(line(bytes, at + 1).map(|(text, end)| (Item::Error(text), end))),
        _ => Err(Malformed),
    }
}

fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = &bytes[at..];
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&rest[..end], at + end + 2))
}

/// A number up to the end of the line. Its digits are few, so a long line without an end is nonsense.
fn number(bytes: &[u8], at: usize) -> Result<Option<(i64, usize)>, Malformed> {
    const DIGITS_MAX: usize = 20;
    let (mut value, mut negative) = (0i64, false);
    for (offset, byte) in bytes[at..].iter().take(DIGITS_MAX + 1).enumerate() {
        match byte {
            b'-' if offset == 0 => negative = true,
            b'0'..=b'9' => {
                let next = value
                    .checked_mul(10)
                    .and_then(|value| value.checked_add(i64::from(byte - b'0')));
                value = next.ok_or(Malformed)?;
            }
            b'\r' => {
                return match bytes.get(at + offset + 1) {
                    None => Ok(None),
                    Some(b'\n') => Ok(Some((if negative { -value } else { value }, at + offset + 2))),
                    Some(_) => Err(Malformed),
                };
            }
            _ => return Err(Malformed),
        }
    }
    if bytes.len() - at > DIGITS_MAX {
        Err(Malformed)
    } else {
        Ok(None)
    }
}

/// Appends the head of a command with so many arguments, its name included.
pub(super) fn begin(out: &mut Vec<u8>, arguments: usize) {
    out.push(b'*');
    out.extend_from_slice(itoa::Buffer::new().format(arguments).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends an argument, given in parts.
pub(super) fn argument(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(b'$');
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(b"\r\n");
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b"\r\n");
}

/// Appends a `PUBLISH`; the channel is given in parts.
pub(super) fn publish(out: &mut Vec<u8>, channel: &[&[u8]], payload: &[u8]) {
    begin(out, 3);
    argument(out, &[b"PUBLISH"]);
    argument(out, channel);
    argument(out, &[payload]);
}

/// Appends a `PING`.
pub(super) fn ping(out: &mut Vec<u8>) {
    begin(out, 1);
    argument(out, &[b"PING"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_reply_of_pub_sub_is_read() {
        let cases: [(&[u8], Reply<'_>); 9] = [
            (
                b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\n\r\n\r\n",
                Reply::Message {
                    channel: b"c",
                    payload: b"\r\n",
                },
            ),
            (
                b"*4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$2\r\ncd\r\n$0\r\n\r\n",
                Reply::Message {
                    channel: b"cd",
                    payload: b"",
                },
            ),
            (
                b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
                Reply::Subscribed { channel: b"c" },
            ),
            (b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n", Reply::Unsubscribed),
            (PONGS[0], Reply::Other),
            (PONGS[1], Reply::Other),
            (b":-12\r\n", Reply::Integer(-12)),
            (b"-ERR no\r\n", Reply::Error(b"ERR no")),
            (b"+OK\r\n", Reply::Other),
        ];
        for (bytes, reply) in cases {
            assert_eq!(parse(bytes), Ok(Some((reply, bytes.len()))));
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut} bytes of {bytes:?}");
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [
            b"hello\r\n".as_slice(),
            b"*9\r\n",
            b"*-1\r\n",
            b"$1\r\nxyz",
            b":123456789012345678901234",
            b"$99999999999\r\n",
            b":1\rx",
        ] {
            assert_eq!(parse(bytes), Err(Malformed), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn commands_are_what_the_redis_crate_would_send(channel: Vec<u8>, payload: Vec<u8>) {
            let mut out = Vec::new();
            publish(&mut out, &[b"p:", &channel], &payload);
            let name = [b"p:".as_slice(), &channel].concat();
            let expected = redis::cmd("PUBLISH").arg(&name).arg(&payload).get_packed_command();
            prop_assert_eq!(out, expected);
        }
    }
}
