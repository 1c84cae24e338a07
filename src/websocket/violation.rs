//! What a peer can do wrong at the frame layer, and the close frame each fault is answered with.

use thiserror::Error;

/// A breach of RFC 6455 or of the message limit, always the peer's fault. The connection must be closed with
/// [`Violation::close_code`] and [`Violation::reason`]; the decoder delivers nothing more for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// A reserved bit is set that no extension gives a meaning to (section 5.2).
    #[error("{}", self.reason())]
    ReservedBits,
    /// An opcode that the standard does not define (section 5.2).
    #[error("{}", self.reason())]
    ReservedOpcode,
    /// Frames from a client must be masked (section 5.1).
    #[error("{}", self.reason())]
    Unmasked,
    /// The length does not use the shortest form, or its top bit is set (section 5.2).
    #[error("{}", self.reason())]
    MalformedLength,
    /// Control frames must not be fragmented (section 5.4).
    #[error("{}", self.reason())]
    FragmentedControl,
    /// Control frames carry at most 125 bytes (section 5.5).
    #[error("{}", self.reason())]
    ControlTooLong,
    /// A continuation frame without a message to continue (section 5.4).
    #[error("{}", self.reason())]
    UnexpectedContinuation,
    /// A new message began before the fragmented one ended (section 5.4).
    #[error("{}", self.reason())]
    ExpectedContinuation,
    /// A close frame of one byte: too long for no code, too short for one (section 5.5.1).
    #[error("{}", self.reason())]
    MalformedClose,
    /// A close code that must not appear on the wire (section 7.4).
    #[error("{}", self.reason())]
    InvalidCloseCode,
    /// A text message or close reason is not UTF-8 (section 8.1).
    #[error("{}", self.reason())]
    InvalidUtf8,
    /// The message, or what a frame header announces of it, exceeds the limit (docs/protocol.md §17.1).
    #[error("{}", self.reason())]
    MessageTooLarge,
    /// A compressed message is not made of complete blocks, or refers to an earlier message (RFC 7692 section 7.2.2).
    #[error("{}", self.reason())]
    MalformedDeflate,
    /// A compressed message grows beyond all proportion.
    #[error("{}", self.reason())]
    CompressionRatio,
}

impl Violation {
    /// The code of the close frame that answers this fault (RFC 6455 section 7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Violation::InvalidUtf8 | Violation::MalformedDeflate => 1007,
            Violation::MessageTooLarge | Violation::CompressionRatio => 1009,
            _ => 1002,
        }
    }

    /// The reason that goes into the close frame, short enough for every close frame.
    pub fn reason(self) -> &'static str {
        match self {
            Violation::ReservedBits => "Reserved bits set",
            Violation::ReservedOpcode => "Reserved opcode",
            Violation::Unmasked => "Unmasked frame",
            Violation::MalformedLength => "Malformed frame length",
            Violation::FragmentedControl => "Fragmented control frame",
            Violation::ControlTooLong => "Control frame too long",
            Violation::UnexpectedContinuation => "Unexpected continuation frame",
            Violation::ExpectedContinuation => "Expected a continuation frame",
            Violation::MalformedClose => "Malformed close frame",
            Violation::InvalidCloseCode => "Invalid close code",
            Violation::InvalidUtf8 => "Invalid UTF-8",
            Violation::MessageTooLarge => "Message too large",
            Violation::MalformedDeflate => "Invalid compressed data",
            Violation::CompressionRatio => "Compression ratio too high",
        }
    }
}
