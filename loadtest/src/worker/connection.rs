//! What a worker keeps for each connection: 16 bytes, and buffers only in the middle of a frame or behind a full socket.

use std::os::fd::RawFd;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// No socket.
    Closed,
    /// TCP handshake.
    Connecting,
    /// Upgrade request sent.
    Upgrading,
    /// `auth` sent.
    Authenticating,
    /// `subscribe` sent.
    Subscribing,
    /// `awareness_subscribe` sent.
    AwarenessSubscribing,
    /// Everything asked for has been answered.
    Ready,
}

impl Step {
    /// What a failure at this step is called in results.
    pub fn name(self) -> &'static str {
        match self {
            Step::Closed => "closed",
            Step::Connecting => "connect",
            Step::Upgrading => "upgrade",
            Step::Authenticating => "auth",
            Step::Subscribing => "subscribe",
            Step::AwarenessSubscribing => "awareness_subscribe",
            Step::Ready => "ready",
        }
    }
}

/// No entry in the table of buffers.
pub const NO_BUFFERS: u32 = u32::MAX;

/// One connection. Its number, document and identity follow from its place in the table.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// The socket, or -1.
    pub fd: RawFd,
    /// When it was opened, in tenths of a millisecond since the worker began.
    pub opened_at: u32,
    /// Its entry in the table of buffers.
    pub buffers: u32,
    /// Its group.
    pub group: u16,
    /// How far it has come.
    pub step: Step,
}

/// Per-connection memory is this tool's claim (`loadtest --help`): a change of the struct must be noticed.
const _: () = assert!(size_of::<Connection>() == 16);

impl Connection {
    /// A place in the table without a socket.
    pub fn closed(group: u16) -> Self {
        Self {
            fd: -1,
            opened_at: 0,
            buffers: NO_BUFFERS,
            group,
            step: Step::Closed,
        }
    }

    /// Whether its handshake is under way.
    pub fn is_opening(&self) -> bool {
        !matches!(self.step, Step::Closed | Step::Ready)
    }
}

/// Bytes that could not be handled at once.
#[derive(Debug, Default)]
pub struct Buffers {
    /// The beginning of a frame whose end has not arrived.
    pub inbound: Vec<u8>,
    /// What the socket did not take.
    pub outbound: Vec<u8>,
}

/// Buffers of those connections that need some now.
#[derive(Debug, Default)]
pub struct BufferTable {
    entries: Vec<Buffers>,
    free: Vec<u32>,
}

impl BufferTable {
    /// The connection's buffers, made if there are none.
    pub fn of(&mut self, connection: &mut Connection) -> &mut Buffers {
        if connection.buffers == NO_BUFFERS {
            connection.buffers = self.free.pop().unwrap_or_else(|| {
                self.entries.push(Buffers::default());
                self.entries.len() as u32 - 1
            });
        }
        &mut self.entries[connection.buffers as usize]
    }

    /// The connection's buffers if there are any.
    pub fn existing(&mut self, connection: &Connection) -> Option<&mut Buffers> {
        self.entries.get_mut(connection.buffers as usize)
    }

    /// Gives the entry back if both buffers are empty, or in any case when `ended`.
    pub fn tidy(&mut self, connection: &mut Connection, ended: bool) {
        let Some(buffers) = self.entries.get_mut(connection.buffers as usize) else {
            return;
        };
        if ended || (buffers.inbound.is_empty() && buffers.outbound.is_empty()) {
            *buffers = Buffers::default();
            self.free.push(connection.buffers);
            connection.buffers = NO_BUFFERS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_used_again_and_come_back_empty() {
        let mut table = BufferTable::default();
        let mut connection = Connection::closed(0);
        assert!(table.existing(&connection).is_none());
        table.of(&mut connection).inbound.push(1);
        table.tidy(&mut connection, false);
        assert_eq!(connection.buffers, 0, "not empty, so kept");
        table.tidy(&mut connection, true);
        assert_eq!(connection.buffers, NO_BUFFERS);
        let mut other = Connection::closed(0);
        assert!(table.of(&mut other).inbound.is_empty());
        assert_eq!(other.buffers, 0);
    }
}
