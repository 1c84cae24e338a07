//! What shards say of connections, for the table of sessions (docs/protocol.md §18.4).

use crate::ids::SessionRef;

/// Takes a note on its way to storage. Never blocks; a note that finds no room is dropped.
pub type NoteSession = Box<dyn Fn(SessionNote) + Send + Sync>;

/// What there is to say of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionNote {
    /// It is there: said when it is known who it is, when its client id is learnt, and once a minute. Complete each time,
    /// so that a note that was dropped is made up for by the next.
    Here {
        /// Which connection.
        session: SessionRef,
        /// Whose.
        user: Box<str>,
        /// The client id it gave.
        client: Option<Box<str>>,
    },
    /// It has ended.
    Gone(SessionRef),
}

impl SessionNote {
    /// The connection it is about.
    pub fn session(&self) -> SessionRef {
        match self {
            SessionNote::Here { session, .. } | SessionNote::Gone(session) => *session,
        }
    }
}
