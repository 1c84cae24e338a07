//! From the bytes of one read to events.

use super::CONTROL_BYTES_MAX;
use super::deflate::Inflater;
use super::header::ClientHeader;
use super::mask;
use super::partial::{ControlKind, Frame, FrameKind, HEADER_BYTES_MAX, MessageKind, Partial, Phase};
use super::payload::Payload;
use super::violation::Violation;
use std::mem::take;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// Something complete that the peer sent. The bytes are valid until the next call of [`Decoder::next`].
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A text message. The bytes are known to be UTF-8.
    Text(Payload<'a>),
    /// A binary message.
    Binary(Payload<'a>),
    /// To be answered with [`pong_frame`](super::pong_frame) of the same payload, at most 125 bytes.
    Ping(&'a [u8]),
    /// The answer to a ping, or sent unasked.
    Pong(&'a [u8]),
    /// The peer closes, or confirms our close frame. Nothing follows.
    Close(Option<CloseReason<'a>>),
}

/// Why the peer closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseReason<'a> {
    /// A code that is allowed on the wire (RFC 6455 section 7.4).
    pub code: u16,
    /// At most 123 bytes, often empty.
    pub reason: &'a str,
}

/// A lending iterator over the events that one read completes.
///
/// Ask until it answers `Ok(None)`; what is incomplete has then moved into the connection's [`Partial`]. A caller that
/// stops earlier takes the unconsumed bytes from [`Decoder::rest`] and starts the next decoder with them.
#[must_use = "bytes that are neither decoded nor taken with `rest` are lost"]
#[derive(Debug)]
pub struct Decoder<'p, 'b> {
    partial: &'p mut Option<Box<Partial>>,
    input: &'b mut [u8],
    message_bytes_max: usize,
    /// The payload being lent out, when it had to be assembled or inflated.
    lent: Vec<u8>,
    /// Present where compression was negotiated.
    inflater: Option<&'p mut Inflater>,
}

/// A complete frame or message: what it is and where its payload lies.
enum Complete<'b> {
    /// Inside the read.
    InPlace(FrameKind, &'b [u8]),
    /// In [`Decoder::lent`].
    Assembled(FrameKind),
}

impl<'p, 'b> Decoder<'p, 'b> {
    /// Decodes `input`, the next bytes of the connection that `partial` belongs to. `message_bytes_max` bounds the payload of
    /// one message, all fragments together; it may differ from read to read.
    pub fn new(partial: &'p mut Option<Box<Partial>>, input: &'b mut [u8], message_bytes_max: usize) -> Self {
        Self {
            partial,
            input,
            message_bytes_max,
            lent: Vec::new(),
            inflater: None,
        }
    }

    /// For a connection that negotiated permessage-deflate: compressed messages are inflated with `inflater`, within the
    /// same bound. Without it they are violations.
    pub fn inflating(self, inflater: &'p mut Inflater) -> Self {
        Self {
            inflater: Some(inflater),
            ..self
        }
    }

    /// The next event; `None` when the input is used up or the connection is closed.
    // The trait of the same name cannot lend, and an event borrows from the decoder.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Event<'_>>, Violation> {
        self.lent = Vec::new();
        let (kind, payload) = match self.advance() {
            Ok(None) => return Ok(None),
            Ok(Some(complete)) => match self.inflate(complete) {
                Ok(Complete::InPlace(kind, payload)) => (kind, Payload::InPlace(payload)),
                Ok(Complete::Assembled(kind)) => (kind, Payload::Gathered(&mut self.lent)),
                Err(violation) => {
                    self.close();
                    return Err(violation);
                }
            },
            Err(violation) => {
                self.close();
                return Err(violation);
            }
        };
        Ok(Some(match kind {
            FrameKind::Data {
                message: MessageKind::Text | MessageKind::DeflatedText,
                ..
            } => Event::Text(payload),
            FrameKind::Data {
                message: MessageKind::Binary | MessageKind::DeflatedBinary,
                ..
            } => Event::Binary(payload),
            FrameKind::Control(ControlKind::Ping) => Event::Ping(payload.into_slice()),
            FrameKind::Control(ControlKind::Pong) => Event::Pong(payload.into_slice()),
            FrameKind::Control(ControlKind::Close) => {
                // Before the payload is looked at: whatever it says, nothing may follow.
                *self.partial = Some(Box::new(Partial::new(Phase::Closed)));
                self.input = &mut [];
                Event::Close(close_reason(payload.into_slice())?)
            }
        }))
    }

    /// The bytes that were not consumed yet, still masked, for a caller that stops before [`Decoder::next`] said `None`
    /// because the connection moves to another core or is paused.
    pub fn rest(self) -> &'b mut [u8] {
        self.input
    }

    fn close(&mut self) {
        *self.partial = Some(Box::new(Partial::new(Phase::Closed)));
        self.input = &mut [];
    }

    /// Inflates what came compressed; anything else stays as it is.
    fn inflate(&mut self, complete: Complete<'b>) -> Result<Complete<'b>, Violation> {
        let kind = match &complete {
            Complete::InPlace(kind, _) | Complete::Assembled(kind) => *kind,
        };
        let FrameKind::Data { message, .. } = kind else {
            return Ok(complete);
        };
        if !message.is_deflated() {
            return Ok(complete);
        }
        let mut payload = Vec::new();
        let inflater = self.inflater.as_mut().ok_or(Violation::ReservedBits)?;
        let compressed: &[u8] = match &complete {
            Complete::InPlace(_, piece) => piece,
            Complete::Assembled(_) => &self.lent,
        };
        inflater.message(compressed, self.message_bytes_max, &mut payload)?;
        if message == MessageKind::DeflatedText {
            simdutf8::basic::from_utf8(&payload).map_err(|_| Violation::InvalidUtf8)?;
        }
        self.lent = payload;
        Ok(Complete::Assembled(kind))
    }

    /// Consumes frames until one completes something.
    fn advance(&mut self) -> Result<Option<Complete<'b>>, Violation> {
        loop {
            let (mut frame, is_resumed) = match self.partial.as_deref() {
                Some(Partial {
                    phase: Phase::Closed, ..
                }) => {
                    self.input = &mut [];
                    return Ok(None);
                }
                Some(Partial {
                    phase: Phase::Payload(frame),
                    ..
                }) => (*frame, true),
                _ => match self.read_header()? {
                    Some(frame) => (frame, false),
                    None => return Ok(None),
                },
            };
            let piece = self.take_piece(&mut frame);
            let is_alone = match frame.kind {
                FrameKind::Control(_) => true,
                FrameKind::Data { fin, .. } => fin && self.partial.is_none(),
            };
            if !is_resumed && is_alone && frame.missing == 0 {
                if matches!(
                    frame.kind,
                    FrameKind::Data {
                        message: MessageKind::Text,
                        ..
                    }
                ) {
                    simdutf8::basic::from_utf8(piece).map_err(|_| Violation::InvalidUtf8)?;
                }
                return Ok(Some(Complete::InPlace(frame.kind, piece)));
            }
            if let Some(complete) = self.assemble(frame, piece)? {
                return Ok(Some(complete));
            }
            if frame.missing > 0 {
                return Ok(None);
            }
        }
    }

    /// Reads a frame header, whose beginning may have come with an earlier read. `None`: it is still incomplete.
    fn read_header(&mut self) -> Result<Option<Frame>, Violation> {
        if self.input.is_empty() {
            return Ok(None);
        }
        let (mut bytes, stashed) = match self.partial.as_deref() {
            Some(Partial {
                phase: Phase::Header { bytes, len },
                ..
            }) => (*bytes, usize::from(*len)),
            _ => ([0; HEADER_BYTES_MAX], 0),
        };
        let fresh = self.input.len().min(HEADER_BYTES_MAX - stashed);
        match self.input.first_chunk() {
            // Nearly always; a copy of known length is a few instructions instead of a call.
            Some(whole) if stashed == 0 => bytes = *whole,
            _ => bytes[stashed..stashed + fresh].copy_from_slice(&self.input[..fresh]),
        }
        let len = stashed + fresh;
        let Some(header) = ClientHeader::read(&bytes[..len]) else {
            // Fourteen bytes always make a header, so what is incomplete fits and is all there is.
            assert!(len < HEADER_BYTES_MAX && fresh == self.input.len());
            self.stash(Phase::Header { bytes, len: len as u8 });
            self.input = &mut [];
            return Ok(None);
        };
        let frame = self.check_header(&header)?;
        self.skip(header.bytes - stashed);
        if stashed > 0 {
            self.stash(Phase::Header {
                bytes: [0; HEADER_BYTES_MAX],
                len: 0,
            });
            self.release();
        }
        Ok(Some(frame))
    }

    /// Everything that can be wrong with a header, protocol faults before the limit.
    fn check_header(&self, header: &ClientHeader) -> Result<Frame, Violation> {
        let (opcode, fin) = (header.opcode(), header.is_final());
        if matches!(
            opcode,
            OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_))
        ) {
            return Err(Violation::ReservedOpcode);
        }
        if header.rsv2_or_rsv3() || (header.rsv1() && self.inflater.is_none()) {
            return Err(Violation::ReservedBits);
        }
        let Some(mask) = header.mask else {
            return Err(Violation::Unmasked);
        };
        if !header.is_length_well_formed() {
            return Err(Violation::MalformedLength);
        }
        let open = self.partial.as_deref().and_then(|partial| partial.message);
        let first = |message: MessageKind| FrameKind::Data {
            message: if header.rsv1() { message.deflated() } else { message },
            fin,
        };
        if header.rsv1() && !matches!(opcode, OpCode::Data(Data::Text | Data::Binary)) {
            return Err(Violation::ReservedBits);
        }
        let kind = match (opcode, open) {
            (OpCode::Control(control), _) => FrameKind::Control(check_control(control, fin, header.payload_bytes)?),
            (OpCode::Data(Data::Continue), Some(message)) => FrameKind::Data { message, fin },
            (OpCode::Data(Data::Continue), None) => return Err(Violation::UnexpectedContinuation),
            (OpCode::Data(Data::Text | Data::Binary), Some(_)) => return Err(Violation::ExpectedContinuation),
            (OpCode::Data(Data::Text), None) => first(MessageKind::Text),
            (OpCode::Data(Data::Binary), None) => first(MessageKind::Binary),
            (OpCode::Data(Data::Reserved(_)), _) => return Err(Violation::ReservedOpcode),
        };
        let room = match kind {
            FrameKind::Control(_) => CONTROL_BYTES_MAX,
            FrameKind::Data { message, .. } => {
                let received = self.partial.as_deref().map_or(0, Partial::payload_bytes);
                self.payload_bytes_max(message).saturating_sub(received)
            }
        };
        match usize::try_from(header.payload_bytes) {
            Ok(missing) if missing <= room => Ok(Frame { kind, mask, missing }),
            _ => Err(Violation::MessageTooLarge),
        }
    }

    /// Bytes on the wire that a message may have. What cannot be compressed grows a little by it.
    fn payload_bytes_max(&self, message: MessageKind) -> usize {
        match message.is_deflated() {
            false => self.message_bytes_max,
            true => self.message_bytes_max.saturating_add(self.message_bytes_max / 256 + 64),
        }
    }

    /// Takes what is here of the frame's payload, unmasked in place.
    fn take_piece(&mut self, frame: &mut Frame) -> &'b [u8] {
        let available = frame.missing.min(self.input.len());
        let (piece, rest) = take(&mut self.input).split_at_mut(available);
        self.input = rest;
        mask::apply(piece, frame.mask);
        frame.mask = mask::rotated(frame.mask, available);
        frame.missing -= available;
        piece
    }

    /// Adds a piece to what is incomplete. Returns what that completed.
    fn assemble(&mut self, frame: Frame, piece: &[u8]) -> Result<Option<Complete<'b>>, Violation> {
        let is_frame_complete = frame.missing == 0;
        let phase = match is_frame_complete {
            true => Phase::Header {
                bytes: [0; HEADER_BYTES_MAX],
                len: 0,
            },
            false => Phase::Payload(frame),
        };
        let payload_bytes_max = match frame.kind {
            FrameKind::Data { message, .. } => self.payload_bytes_max(message),
            FrameKind::Control(_) => CONTROL_BYTES_MAX,
        };
        let partial = self.stash(phase);
        let is_complete = match frame.kind {
            FrameKind::Control(_) => {
                partial.control.extend_from_slice(piece);
                is_frame_complete
            }
            FrameKind::Data { fin, .. } => {
                partial.append(piece, &frame, payload_bytes_max)?;
                is_frame_complete && fin
            }
        };
        if !is_complete {
            return Ok(None);
        }
        let payload = match frame.kind {
            FrameKind::Control(_) => take(&mut partial.control),
            FrameKind::Data { .. } => partial.finish()?,
        };
        self.lent = payload;
        self.release();
        Ok(Some(Complete::Assembled(frame.kind)))
    }

    /// Remembers where the stream stands.
    fn stash(&mut self, phase: Phase) -> &mut Partial {
        match self.partial {
            Some(partial) => {
                partial.phase = phase;
                partial
            }
            None => self.partial.insert(Box::new(Partial::new(phase))),
        }
    }

    /// Gives the memory back as soon as nothing is incomplete.
    fn release(&mut self) {
        if self.partial.as_ref().is_some_and(|partial| partial.is_idle()) {
            *self.partial = None;
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.input = &mut take(&mut self.input)[bytes..];
    }
}

fn check_control(control: Control, fin: bool, payload_bytes: u64) -> Result<ControlKind, Violation> {
    let kind = match control {
        Control::Close => ControlKind::Close,
        Control::Ping => ControlKind::Ping,
        Control::Pong => ControlKind::Pong,
        Control::Reserved(_) => return Err(Violation::ReservedOpcode),
    };
    match (fin, payload_bytes) {
        (false, _) => Err(Violation::FragmentedControl),
        (true, bytes) if bytes > CONTROL_BYTES_MAX as u64 => Err(Violation::ControlTooLong),
        (true, _) => Ok(kind),
    }
}

/// The body of a close frame (RFC 6455 section 5.5.1): nothing, or a code and a reason.
fn close_reason(payload: &[u8]) -> Result<Option<CloseReason<'_>>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(None)
        } else {
            Err(Violation::MalformedClose)
        };
    };
    let code = u16::from_be_bytes(*code);
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::InvalidUtf8)?;
    if !CloseCode::from(code).is_allowed() {
        return Err(Violation::InvalidCloseCode);
    }
    Ok(Some(CloseReason { code, reason }))
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
