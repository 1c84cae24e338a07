//! Message types, their codes and their names (protocol §2.2, §4).

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the protocol's own")]
pub enum Kind {
    Connect,
    Auth,
    AuthSuccess,
    AuthError,
    Subscribe,
    Unsubscribe,
    SyncRequest,
    SyncResponse,
    SyncStep1,
    SyncStep2,
    Delta,
    Ack,
    DeltaBatch,
    DeltaBatchChunk,
    Ping,
    Pong,
    AwarenessUpdate,
    AwarenessSubscribe,
    AwarenessState,
    SnapshotRequest,
    SnapshotUpload,
    Disconnect,
    Error,
}

/// The code of a `delta_batch` in the dialect of the Go and Python servers' clients.
pub const BATCH_CODE_GO: u8 = 0x22;

/// Every type with its name and, where binary frames know it, its code.
const TABLE: [(Kind, &str, Option<u8>); 23] = [
    (Kind::Connect, "connect", None),
    (Kind::Auth, "auth", Some(0x01)),
    (Kind::AuthSuccess, "auth_success", Some(0x02)),
    (Kind::AuthError, "auth_error", Some(0x03)),
    (Kind::Subscribe, "subscribe", Some(0x10)),
    (Kind::Unsubscribe, "unsubscribe", Some(0x11)),
    (Kind::SyncRequest, "sync_request", Some(0x12)),
    (Kind::SyncResponse, "sync_response", Some(0x13)),
    (Kind::SyncStep1, "sync_step1", Some(0x14)),
    (Kind::SyncStep2, "sync_step2", Some(0x15)),
    (Kind::Delta, "delta", Some(0x20)),
    (Kind::Ack, "ack", Some(0x21)),
    (Kind::DeltaBatch, "delta_batch", Some(0x50)),
    (Kind::DeltaBatchChunk, "delta_batch_chunk", Some(0x23)),
    (Kind::Ping, "ping", Some(0x30)),
    (Kind::Pong, "pong", Some(0x31)),
    (Kind::AwarenessUpdate, "awareness_update", Some(0x40)),
    (Kind::AwarenessSubscribe, "awareness_subscribe", Some(0x41)),
    (Kind::AwarenessState, "awareness_state", Some(0x42)),
    (Kind::SnapshotRequest, "snapshot_request", None),
    (Kind::SnapshotUpload, "snapshot_upload", None),
    (Kind::Disconnect, "disconnect", None),
    (Kind::Error, "error", Some(0xFF)),
];

impl Kind {
    /// How many kinds there are; [`Kind::index`] is below it.
    pub const COUNT: usize = TABLE.len();

    /// The kind at that place of the table.
    pub fn all() -> impl Iterator<Item = Kind> {
        TABLE.iter().map(|row| row.0)
    }

    /// Position in the table, for counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The kind with that binary code; both batch codes give [`Kind::DeltaBatch`].
    pub fn from_code(code: u8) -> Option<Kind> {
        if code == BATCH_CODE_GO {
            return Some(Kind::DeltaBatch);
        }
        TABLE.iter().find(|row| row.2 == Some(code)).map(|row| row.0)
    }

    /// The kind with that name.
    pub fn from_name(name: &str) -> Option<Kind> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The name used in JSON.
    pub fn name(self) -> &'static str {
        TABLE[self.index()].1
    }

    /// The code used in binary frames, `delta_batch` in the SDK's dialect. Kinds without a code are never sent by the
    /// server; they give the error code so that a mistake would be visible.
    pub fn code(self) -> u8 {
        TABLE[self.index()].2.unwrap_or(0xFF)
    }

    /// Whether clients may send it (protocol §4).
    pub fn is_client_sendable(self) -> bool {
        !matches!(
            self,
            Kind::AuthSuccess
                | Kind::AuthError
                | Kind::SyncResponse
                | Kind::SyncStep2
                | Kind::AwarenessState
                | Kind::Error
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, kind) in Kind::all().enumerate() {
            assert_eq!(kind.index(), index);
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            if kind.code() != 0xFF {
                assert_eq!(Kind::from_code(kind.code()), Some(kind));
            }
        }
        assert_eq!(Kind::from_code(0x22), Some(Kind::DeltaBatch));
        assert_eq!(Kind::from_code(0x77), None);
    }
}
