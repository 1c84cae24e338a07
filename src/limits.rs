//! The single table of fixed bounds. Those an operator can change are in the configuration (docs/protocol.md §17, §20);
//! everything here holds whatever the configuration says. Every queue and every loop over a peer's input cites one.

/// Messages kept for a connection that has not authenticated yet (protocol §7.4).
pub const DEFERRED_UNAUTHENTICATED_MESSAGES_MAX: usize = 64;
/// Their bytes.
pub const DEFERRED_UNAUTHENTICATED_BYTES_MAX: usize = 1 << 20;
/// Messages kept for a connection that is over its message rate (protocol §17.4).
pub const DEFERRED_THROTTLED_MESSAGES_MAX: usize = 2000;
/// Their bytes.
pub const DEFERRED_THROTTLED_BYTES_MAX: usize = 4 << 20;
/// What one deferred message costs beside its bytes.
pub const DEFERRED_MESSAGE_OVERHEAD_BYTES: usize = 64;
/// Longest stretch of not reading from a throttled connection, so that its pings are answered in time.
pub const THROTTLED_PAUSE_US: u64 = 2_000_000;
/// A deferral queue that stays full this long makes further messages be refused.
pub const THROTTLED_FULL_US: u64 = 60_000_000;
/// Refused messages in a row until a throttled connection is closed.
pub const THROTTLED_REFUSALS_MAX: u32 = 200;
/// Unreadable messages in a row until a connection is closed (protocol §2.7).
pub const UNREADABLE_MESSAGES_MAX: u8 = 20;
/// Failed authentications allowed to Go-style clients on one connection (protocol §7.3).
pub const AUTH_FAILURES_MAX: u8 = 3;

/// Message bytes accepted before authentication (protocol §17.1).
pub const UNAUTHENTICATED_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// All partly received messages of the process together.
pub const PARTIAL_BYTES_TOTAL_MAX: usize = 1 << 30;
/// An HTTP request head.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 << 10;
/// An HTTP request body (protocol §16).
pub const HTTP_BODY_BYTES_MAX: usize = 1 << 20;
/// Time a connection may take for its first complete HTTP request, and for each further one.
pub const HTTP_REQUEST_US: u64 = 10_000_000;

/// Parts of a chunked message (protocol §15.1).
pub const CHUNKS_MAX: u64 = 256;
/// Chunked messages being collected per connection.
pub const CHUNK_SETS_MAX: usize = 8;
/// A chunk set without a new part for this long is discarded.
pub const CHUNK_SET_IDLE_US: u64 = 30_000_000;
/// Characters of a chunk set's id.
pub const CHUNK_ID_BYTES_MAX: usize = 256;

/// Characters of a client id (protocol §13.2).
pub const CLIENT_ID_BYTES_MAX: usize = 256;
/// A longer `id` or `messageId` of a request, as it is written, counts as absent: it would be copied into every answer.
pub const REQUEST_ID_BYTES_MAX: usize = 64 << 10;
/// Encoded presence state (protocol §13.2).
pub const AWARENESS_STATE_BYTES_MAX: usize = 64 << 10;
/// Presence entries one connection may own.
pub const AWARENESS_ENTRIES_PER_CONNECTION_MAX: usize = 100;
/// Presence entries of one document.
pub const AWARENESS_ENTRIES_PER_DOCUMENT_MAX: usize = 10_000;
/// Bytes of them: states and client ids.
pub const AWARENESS_BYTES_PER_DOCUMENT_MAX: usize = 16 << 20;

/// Longest field name in bytes (protocol §17.1).
pub const FIELD_NAME_BYTES_MAX: usize = 1024;
/// Tombstones sent to an SDK connection after a subscribe (protocol §9.6).
pub const TOMBSTONES_SENT_MAX: usize = 500;
/// Snapshots kept in memory per document; the oldest goes first.
pub const MEMORY_SNAPSHOTS_PER_DOCUMENT_MAX: usize = 10;
/// Bytes of all snapshots of one shard; a further one is refused.
pub const MEMORY_SNAPSHOT_BYTES_MAX: usize = 256 << 20;

/// Time a peer gets to answer our close frame before the socket is dropped.
pub const CLOSE_GRACE_US: u64 = 2_000_000;
/// A socket that accepts no byte for this long is closed (protocol §21).
pub const STALLED_SOCKET_US: u64 = 30_000_000;
/// Time without an application message after which an older connection of the same client counts as left over
/// (protocol §1, reconnect doubling).
pub const SUPERSEDED_IDLE_US: u64 = 45_000_000;
/// Time a presence entry survives its vanished connection is configurable; orphans are looked for this often.
pub const AWARENESS_SWEEP_US: u64 = 1_000_000;
/// Shortest time between two relays of one text (text-state.md R1).
pub const TEXT_RELAY_US: u64 = 50_000;
/// Time after the token's expiry until the connection is closed (protocol §7.5).
pub const TOKEN_EXPIRY_GRACE_S: u64 = 60;
/// Queued bytes at which a document's pending changes collapse to "dirty" for a connection (protocol §21).
pub const OUTBOX_SOFT_BYTES: usize = 256 << 10;
/// Bytes that all outboxes of a shard may own together; beyond it, connections that own more than
/// [`OUTBOX_SHARE_BYTES`] are closed as slow consumers.
pub const OUTBOX_SHARD_BYTES_MAX: usize = 512 << 20;
/// What one outbox may own while the shard is beyond its bound.
pub const OUTBOX_SHARE_BYTES: usize = 32 << 10;
/// Bytes handed to the kernel in one send.
pub const SEND_BYTES_MAX: usize = 256 << 10;
/// Requests of one connection that homes have not answered, each weighing 1 and 1 more for every
/// [`OUTSTANDING_UNIT_BYTES`]; from here on the connection is not read, so that it cannot fill the mailbox of another
/// shard.
pub const OUTSTANDING_MAX: u16 = 128;
/// What a request for a snapshot weighs, as bytes: its answer may be as large as a document.
pub const SNAPSHOT_WEIGHT_BYTES: usize = 31 * OUTSTANDING_UNIT_BYTES;
/// Queued bytes from which on a connection's further requests wait for the answers to earlier ones to leave.
pub const ANSWER_BACKLOG_BYTES: usize = 1 << 20;
/// Elements of one batch that get an error of their own; further refused ones are refused without one.
pub const ELEMENT_ERRORS_MAX: usize = 256;
/// A larger message is read and its elements are handled over several turns, so that nobody waits for all of it.
pub const LONG_MESSAGE_BYTES: usize = 128 << 10;
/// Bytes of a long message that are checked in one turn.
pub const LONG_MESSAGE_STEP_BYTES: usize = 256 << 10;
/// Elements of a long batch that leave for their homes in one turn, and their bytes.
pub const BATCH_STEP_ELEMENTS: usize = 1024;
/// See [`BATCH_STEP_ELEMENTS`].
pub const BATCH_STEP_BYTES: usize = 64 << 10;
/// A larger text state (as a JSON string) is merged by another thread.
pub const TEXT_STEP_BYTES: usize = 64 << 10;
/// How often a merge is asked for again because something else was merged meanwhile; then its home does it.
pub const TEXT_MERGE_TRIES: u8 = 5;
/// A longer map is read over several turns; and names and values of one map that are written in one turn.
pub const MAP_STEP_BYTES: usize = 64 << 10;
/// Members of such a map that are read in one turn, or that make up the bytes of a step.
pub const MAP_STEP_MEMBERS: usize = 4096;
/// Fields of one map that are written in one turn.
pub const MAP_STEP_FIELDS: usize = 1024;
/// Fields of one document that leave in one turn, and in one answer to a slow consumer that caught up.
pub const FLUSH_STEP_FIELDS: usize = 2048;
/// Bytes of a request that weigh as much as a request.
pub const OUTSTANDING_UNIT_BYTES: usize = 64 << 10;
/// Letters in the mailbox of any shard at which no shard reads from sockets, until it has drained.
pub const MAILBOX_LETTERS_MAX: u64 = 65_536;
/// A slab never has more connections than a session reference can name.
pub const SESSIONS_PER_SHARD_MAX: usize = (1 << 24) - 1;
/// Bytes of a message between nodes that travel in one envelope; more goes in parts.
pub const ENVELOPE_PART_BYTES: usize = 1 << 20;
/// Longest envelope that is read: a part whose every byte is escaped.
pub const ENVELOPE_BYTES_MAX: usize = 7 << 20;
/// Parts of one message between nodes.
pub const PARTS_MAX: u32 = 64;
/// Bytes of messages between nodes that a shard is putting together.
pub const ASSEMBLED_BYTES_MAX: usize = 256 << 20;
/// Longest name of a node.
pub const NODE_ID_BYTES_MAX: usize = 64;
/// Envelopes about a document that are kept while it is being loaded; beyond it they are dropped, and a repair makes up for
/// them.
pub const ENVELOPES_WAITING_MAX: usize = 256;
/// The same in bytes, exceeded by the last one at most.
pub const ENVELOPES_WAITING_BYTES_MAX: usize = 32 << 20;
