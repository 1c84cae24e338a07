//! The one table of what a peer can be told when something is refused (protocol §6.7).

use std::borrow::Cow;

/// A refusal: the machine-readable code and the text beside it. It never closes a connection by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `code` and `details.code`.
    pub code: &'static str,
    /// `error`.
    pub text: Cow<'static, str>,
    /// `details.retryable`: the same request may well be taken later.
    pub retryable: bool,
}

const fn fault(code: &'static str, text: &'static str) -> Fault {
    Fault {
        code,
        text: Cow::Borrowed(text),
        retryable: false,
    }
}

const fn retryable(text: &'static str) -> Fault {
    Fault {
        code: "INTERNAL_ERROR",
        text: Cow::Borrowed(text),
        retryable: true,
    }
}

#[allow(missing_docs, reason = "each constant is its text")]
impl Fault {
    pub const INVALID_FORMAT: Fault = fault("INVALID_MESSAGE", "Invalid message format");
    pub const RATE_LIMITED: Fault = fault("RATE_LIMIT_EXCEEDED", "Too many messages. Please slow down.");
    pub const NOT_AUTHENTICATED: Fault = fault("NOT_AUTHENTICATED", "Not authenticated");
    pub const EMPTY_DELTA: Fault = fault("INVALID_REQUEST", "Invalid delta message: missing or empty delta");
    pub const EMPTY_BATCH: Fault = fault("INVALID_REQUEST", "Invalid delta batch: missing or empty deltas array");
    pub const INVALID_DELTAS: Fault = fault("INVALID_REQUEST", "Invalid deltas");
    pub const INVALID_CHUNK: Fault = fault("INVALID_REQUEST", "Invalid chunk");
    pub const INVALID_AWARENESS: Fault = fault("INVALID_REQUEST", "Invalid awareness state format");
    pub const PERMISSION_DENIED: Fault = fault("PERMISSION_DENIED", "Permission denied");
    pub const AWARENESS_LIMIT: Fault = fault("LIMIT_EXCEEDED", "Permission denied");
    pub const DOCUMENT_TOO_LARGE: Fault = fault("LIMIT_EXCEEDED", "Document too large");
    pub const FIELD_NAME_TOO_LONG: Fault = fault("LIMIT_EXCEEDED", "Field name too long");
    pub const TOO_MANY_SUBSCRIPTIONS: Fault = fault("LIMIT_EXCEEDED", "Too many subscriptions");
    pub const BATCH_FAILED: Fault = fault("INTERNAL_ERROR", "Delta batch application failed");

    /// The database did not answer in time.
    pub const NOT_LOADED: Fault = retryable("Subscribe failed");
    pub const NOT_SYNCED: Fault = retryable("Sync request failed");
    /// The same for a write. It may have been applied, and is stored when the database is back.
    pub const NOT_STORED: Fault = retryable("Delta application failed");
    /// The database does not take the document for its content.
    pub const UNSTORABLE: Fault = fault("INTERNAL_ERROR", "Delta application failed");
    /// The document's row is not what it should be.
    pub const UNREADABLE: Fault = fault("INTERNAL_ERROR", "Internal server error");

    /// A refusal whose code and text another room decided.
    pub fn of(code: &'static str, text: &'static str) -> Fault {
        fault(code, text)
    }

    /// The message is over the soft limit for its kind.
    pub fn too_large(bytes: usize, bytes_max: usize) -> Fault {
        let text = format!("Message too large ({bytes} bytes, max {bytes_max})");
        Fault {
            code: "INVALID_MESSAGE",
            text: Cow::Owned(text),
            retryable: false,
        }
    }

    /// The type is no client's to send. `name` is cut to what an error should carry.
    pub fn invalid_type(name: &str) -> Fault {
        let name: String = name.chars().take(64).collect();
        Fault {
            code: "INVALID_MESSAGE",
            text: Cow::Owned(format!("Invalid message type: {name}")),
            retryable: false,
        }
    }

    /// The type exists but no server of the family implements it.
    pub fn unknown_type(name: &'static str) -> Fault {
        Fault {
            code: "UNKNOWN_MESSAGE_TYPE",
            text: Cow::Owned(format!("Unknown message type: {name}")),
            retryable: false,
        }
    }

    /// The server holds as many documents as it may.
    pub fn documents(max: u32) -> Fault {
        Fault {
            code: "LIMIT_EXCEEDED",
            text: Cow::Owned(format!("Maximum {max} documents in memory reached")),
            retryable: false,
        }
    }

    /// An address has made as many documents as it may, in total or within an hour.
    pub fn documents_per_address(max: u32, hourly: bool) -> Fault {
        let text = if hourly {
            format!("Maximum {max} documents per hour reached")
        } else {
            format!("Maximum {max} documents per IP reached")
        };
        Fault {
            code: "LIMIT_EXCEEDED",
            text: Cow::Owned(text),
            retryable: false,
        }
    }
}
