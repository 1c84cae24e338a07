//! RFC 6455, server side: bytes in, events out, and frames back. No socket, no clock, no thread.
//!
//! The `tungstenite` crate supplies what is settled (accept key, opcodes, close codes). Its connection type is not
//! used: it keeps a read buffer of its own per connection, while a connection at rest here costs one null pointer. The
//! small assembler in [`Decoder`] takes the place of that type and holds state only in the middle of a frame or message.
//!
//! Invariants:
//! - A frame that lies completely inside one read is unmasked in place and delivered borrowed: no copy, no allocation. What
//!   was gathered from several is given away whole to who keeps it.
//! - [`Partial`] exists only while a frame or a fragmented message is incomplete, or once the connection is closing. It
//!   grows with the bytes that really arrived, never with the length a header claims.
//! - Text is checked as it arrives, so the first impossible byte fails the connection, even in the middle of a frame.
//! - After a close frame or a [`Violation`] nothing more is delivered, however often the caller asks.
//! - The only extension is permessage-deflate, where the caller negotiated it ([`extension`]): the first reserved bit is a
//!   violation unless the decoder was given an [`Inflater`], and then on anything but the first frame of a message. A
//!   compressed message is inflated when it is complete; until then a connection holds its compressed bytes only.
//!
//! Every fault found here is the peer's. The answer is a close frame with [`Violation::close_code`] and
//! [`Violation::reason`], then the end of the connection.
//!
//! ```
//! use synckit_server::websocket::{Decoder, Event, Payload};
//! let mut partial = None;
//! let mut read = [0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
//! let mut decoder = Decoder::new(&mut partial, &mut read, 1024);
//! assert_eq!(decoder.next(), Ok(Some(Event::Text(Payload::InPlace(b"hi")))));
//! assert_eq!(decoder.next(), Ok(None));
//! ```

mod decoder;
pub mod deflate;
#[cfg(test)]
mod differential;
pub mod extension;
mod frame;
pub mod handshake;
mod header;
mod mask;
mod partial;
mod payload;
mod violation;

pub use decoder::{CloseReason, Decoder, Event};
pub use deflate::{Deflater, Inflater};
pub use extension::Deflate;
pub use frame::{
    Opcode, close_frame, data_frame, deflated_frame_header, empty_close_frame, frame_header, ping_frame, pong_frame,
};
pub use header::HeaderBytes;
pub use partial::Partial;
pub use payload::Payload;
pub use violation::Violation;

/// The longest payload of a control frame (RFC 6455 section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
