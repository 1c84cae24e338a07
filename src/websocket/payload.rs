//! What a message carries.

use bytes::Bytes;
use std::mem::take;
use std::ops::Deref;

/// The payload of a data message: where the read left it if all of it came with one, otherwise gathered.
#[derive(Debug)]
pub enum Payload<'a> {
    /// In the bytes of the read.
    InPlace(&'a [u8]),
    /// Gathered from several reads, or inflated.
    Gathered(&'a mut Vec<u8>),
}

impl<'a> Payload<'a> {
    pub(super) fn into_slice(self) -> &'a [u8] {
        match self {
            Payload::InPlace(bytes) => bytes,
            Payload::Gathered(bytes) => bytes,
        }
    }

    /// The payload to keep. What was gathered is not copied.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Payload::InPlace(bytes) => Bytes::copy_from_slice(bytes),
            Payload::Gathered(bytes) => Bytes::from(take(bytes).into_boxed_slice()),
        }
    }
}

impl Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Payload::InPlace(bytes) => bytes,
            Payload::Gathered(bytes) => bytes,
        }
    }
}

impl PartialEq for Payload<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Payload<'_> {}
