//! What a connection owns while a frame or a message is incomplete.

use super::violation::Violation;
use std::mem::size_of;

/// The longest frame header: two bytes, eight of length, four of mask (RFC 6455 section 5.2).
pub(super) const HEADER_BYTES_MAX: usize = 14;

/// A frame or a fragmented message of which more is to come, or the fact that the connection is closing.
///
/// A connection between messages has none: it holds `Option<Box<Partial>>::None`, eight bytes. It may move to another
/// thread together with its connection.
#[derive(Debug)]
pub struct Partial {
    pub(super) phase: Phase,
    /// The fragmented or partly received message that is open. Control frames may come in between.
    pub(super) message: Option<MessageKind>,
    /// The payload of that message so far, unmasked, and compressed if it came so.
    payload: Vec<u8>,
    /// For text: `payload` is UTF-8 up to here. At most three bytes, the start of one character, lie beyond.
    text_valid: usize,
    /// The payload of a partly received control frame, at most 125 bytes.
    pub(super) control: Vec<u8>,
}

// The whole cost of a connection at rest, as the module promises.
const _: () = assert!(size_of::<Option<Box<Partial>>>() == 8);
const _: () = assert!(size_of::<Partial>() <= 96);

/// Where in the byte stream the connection stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// Before or inside a frame header, of which `len` bytes are here.
    Header { bytes: [u8; HEADER_BYTES_MAX], len: u8 },
    /// Inside a frame's payload.
    Payload(Frame),
    /// A close frame or a violation was seen: whatever follows is ignored.
    Closed,
}

/// What a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageKind {
    Text,
    Binary,
    /// Compressed, and so is what is collected of it.
    DeflatedText,
    DeflatedBinary,
}

impl MessageKind {
    pub(super) fn is_deflated(self) -> bool {
        matches!(self, MessageKind::DeflatedText | MessageKind::DeflatedBinary)
    }

    pub(super) fn deflated(self) -> MessageKind {
        match self {
            MessageKind::Text | MessageKind::DeflatedText => MessageKind::DeflatedText,
            MessageKind::Binary | MessageKind::DeflatedBinary => MessageKind::DeflatedBinary,
        }
    }
}

/// What a control frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlKind {
    Close,
    Ping,
    Pong,
}

/// What a frame is for, once its header was found to be in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// A frame of a message: the first, a later or the only one. `fin`: it is the last one.
    Data {
        message: MessageKind,
        fin: bool,
    },
    Control(ControlKind),
}

/// A frame whose header was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) kind: FrameKind,
    /// Rotated so that its first byte belongs to the next payload byte.
    pub(super) mask: [u8; 4],
    /// Payload bytes that have not arrived yet.
    pub(super) missing: usize,
}

impl Partial {
    pub(super) fn new(phase: Phase) -> Self {
        Self {
            phase,
            message: None,
            payload: Vec::new(),
            text_valid: 0,
            control: Vec::new(),
        }
    }

    /// Heap bytes this connection uses for what is incomplete: this struct and what it has reserved. Budgets charge it.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.payload.capacity() + self.control.capacity()
    }

    /// Whether a close frame or a violation ended the stream: nothing more is ever delivered.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Whether nothing is incomplete, so that the connection can do without this.
    pub(super) fn is_idle(&self) -> bool {
        self.message.is_none() && matches!(self.phase, Phase::Header { len: 0, .. })
    }

    /// How much of the open message has arrived.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Adds a piece of `frame`'s payload to the open message, `frame.missing` bytes of which are still to come. A text
    /// fails at the first byte that no continuation can make valid.
    pub(super) fn append(&mut self, piece: &[u8], frame: &Frame, message_bytes_max: usize) -> Result<(), Violation> {
        let FrameKind::Data { message, fin } = frame.kind else {
            unreachable!("control frames have a buffer of their own");
        };
        self.message = Some(message);
        let end = if fin {
            self.payload.len() + piece.len() + frame.missing
        } else {
            message_bytes_max
        };
        grow(&mut self.payload, piece.len(), end);
        self.payload.extend_from_slice(piece);
        if message == MessageKind::Text {
            self.check_text()?;
        }
        Ok(())
    }

    /// The complete message. `self` is idle afterwards.
    pub(super) fn finish(&mut self) -> Result<Vec<u8>, Violation> {
        let is_text = self.message.take() == Some(MessageKind::Text);
        if is_text && self.text_valid < self.payload.len() {
            return Err(Violation::InvalidUtf8);
        }
        self.text_valid = 0;
        Ok(std::mem::take(&mut self.payload))
    }

    fn check_text(&mut self) -> Result<(), Violation> {
        let unchecked = &self.payload[self.text_valid..];
        match simdutf8::compat::from_utf8(unchecked) {
            Ok(_) => self.text_valid = self.payload.len(),
            // No error length: the bytes end inside a character that may still turn out well.
            Err(error) if error.error_len().is_none() => self.text_valid += error.valid_up_to(),
            Err(_) => return Err(Violation::InvalidUtf8),
        }
        Ok(())
    }
}

/// Makes room for `more` bytes. Doubling keeps the cost per byte constant, and since `end` (where the message will or
/// must end) caps it, the last step reserves exactly what is needed. Nothing is reserved that is not matched by as many
/// bytes that have arrived, whatever the header announces.
fn grow(payload: &mut Vec<u8>, more: usize, end: usize) {
    let needed = payload.len() + more;
    if needed > payload.capacity() {
        let target = needed.max((2 * payload.len()).min(end));
        payload.reserve_exact(target - payload.len());
    }
}
