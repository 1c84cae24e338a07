//! A WebSocket message as it came, on its way through the session.
//!
//! A short one is copied where it has to be kept, because it lies in a read. A long one was gathered from many reads and is
//! kept from the beginning: whoever needs it, or its JSON text, shares it. Copying many megabytes, and touching as many
//! pages for the first time, is more than one turn may take.

use crate::json::Raw;
use bytes::Bytes;
use bytestring::ByteString;

/// A received message; its bytes are lent.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    bytes: &'a [u8],
    /// The same bytes, where they are kept.
    kept: Option<&'a Bytes>,
    /// It came as text.
    pub is_text: bool,
    /// It has been counted for the rate limit already.
    pub paid: bool,
}

/// A received message, kept whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedMessage {
    /// Its bytes.
    pub bytes: Bytes,
    /// It came as text.
    pub is_text: bool,
    /// It has been counted for the rate limit already.
    pub paid: bool,
}

impl<'a> Received<'a> {
    /// A message that lies in a read and has not been counted.
    pub fn lent(bytes: &'a [u8], is_text: bool) -> Received<'a> {
        Received {
            bytes,
            kept: None,
            is_text,
            paid: false,
        }
    }

    /// Its bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The same as one that has been counted.
    pub fn paid(self) -> Received<'a> {
        Received { paid: true, ..self }
    }

    /// The message to keep.
    pub fn keep(self) -> OwnedMessage {
        OwnedMessage {
            bytes: self.kept.cloned().unwrap_or_else(|| Bytes::copy_from_slice(self.bytes)),
            is_text: self.is_text,
            paid: self.paid,
        }
    }

    /// The JSON text of a message that was read from these bytes, to keep.
    pub fn text_of(self, body: Raw<'_>) -> ByteString {
        match self.kept {
            None => body.text().into(),
            Some(kept) => {
                let part = kept.slice_ref(body.text().as_bytes());
                // SAFETY: these are the bytes of a `str`, and nobody can change them.
                unsafe { ByteString::from_bytes_unchecked(part) }
            }
        }
    }
}

impl OwnedMessage {
    /// The message as one that was received.
    pub fn lend(&self) -> Received<'_> {
        Received {
            bytes: &self.bytes,
            kept: Some(&self.bytes),
            is_text: self.is_text,
            paid: self.paid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::parse;

    #[test]
    fn what_is_kept_is_shared_and_what_is_lent_is_copied() {
        let json = r#"{"type":"delta","documentId":"d","delta":{"grün":1}}"#;
        let mut binary = vec![0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, json.len() as u8];
        binary.extend_from_slice(json.as_bytes());
        for (bytes, is_text) in [(json.as_bytes(), true), (&binary[..], false)] {
            let lent = Received::lent(bytes, is_text);
            let owned = lent.keep();
            assert_eq!(owned.bytes, bytes);
            let message = parse(&owned.bytes, is_text).expect("a valid message");
            let text = owned.lend().text_of(message.body);
            assert_eq!(text, json);
            assert!(owned.bytes.as_ptr_range().contains(&text.as_ptr()), "it was copied");
            assert_eq!(owned.lend().paid().keep(), OwnedMessage { paid: true, ..owned });
            let message = parse(bytes, is_text).expect("a valid message");
            let text = lent.text_of(message.body);
            assert_eq!(text, json);
            assert!(
                !bytes.as_ptr_range().contains(&text.as_ptr()),
                "it lives on borrowed bytes"
            );
        }
    }
}
