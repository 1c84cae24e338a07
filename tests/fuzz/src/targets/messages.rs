//! Messages in both encodings, held against a second reading of docs/protocol.md §2 with serde_json.

use serde_json::{Map, Value};
use synckit_server::json::Raw;
use synckit_server::protocol::{Encoding, Kind, Message, parse};

/// A binary WebSocket message.
pub fn binary_message(data: &[u8]) {
    if data.first() == Some(&b'{') {
        return;
    }
    let ours = parse(data, false);
    let payload = (data.len() >= 13).then(|| {
        let length = u64::from(u32::from_be_bytes([data[9], data[10], data[11], data[12]]));
        let end = 13_u64.checked_add(length).expect("far below 2^64");
        (end <= data.len() as u64).then(|| &data[13..end as usize])
    });
    let Some(payload) = payload.flatten() else {
        assert!(
            ours.is_err_and(|refused| refused.unreadable),
            "the header is incomplete or lies"
        );
        return;
    };
    let payload = if payload.is_empty() { b"{}" } else { payload };
    let Some(Value::Object(members)) = tree(payload) else {
        if serde_json::from_slice::<Value>(payload).is_ok() {
            assert!(ours.is_err_and(|refused| refused.unreadable), "no object");
        }
        return;
    };
    let named = members.get("type").and_then(Value::as_str).and_then(Kind::from_name);
    let named = named.filter(|kind| kind.is_client_sendable());
    let described = members.contains_key("id") && members.contains_key("timestamp");
    let expected = match (Kind::from_code(data[0]), named) {
        // A binary 0x01 is always `auth` (protocol §4).
        (Some(Kind::Auth), Some(Kind::Connect)) => Some(Kind::Auth),
        (Some(_), Some(named)) if described => Some(named),
        (Some(known), _) => Some(known),
        (None, named) => named,
    };
    match ours {
        Ok(message) => {
            assert_eq!(Some(message.kind), expected);
            assert_eq!(message.encoding, Encoding::Binary);
            assert_eq!(message.go_batch, data[0] == 0x22);
            assert_eq!(message.described, members.get("type").is_some_and(Value::is_string));
            compare(&message, &members);
        }
        Err(refused) => {
            assert!(
                !expected.is_some_and(Kind::is_client_sendable),
                "{expected:?}: {refused:?}"
            );
            assert_eq!(refused.type_code.is_some(), expected.is_none());
        }
    }
}

/// A text message, or JSON in a binary one.
pub fn json_message(data: &[u8]) {
    let ours = parse(data, true);
    let Some(Value::Object(envelope)) = tree(data) else {
        if serde_json::from_slice::<Value>(data).is_ok() {
            assert!(ours.is_err_and(|refused| refused.unreadable), "no object");
        }
        return;
    };
    let mut members = envelope.clone();
    if let Some(Value::Object(payload)) = envelope.get("payload") {
        for (name, value) in payload {
            if !["type", "id", "timestamp", "payload"].contains(&name.as_str()) {
                members.insert(name.clone(), value.clone());
            }
        }
    }
    let name = members
        .get("type")
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty());
    let kind = name.and_then(Kind::from_name).filter(|kind| kind.is_client_sendable());
    match ours {
        Ok(message) => {
            assert_eq!(Some(message.kind), kind);
            assert_eq!(message.encoding, Encoding::Json);
            assert!(!message.described && !message.go_batch);
            compare(&message, &members);
        }
        Err(refused) => {
            assert_eq!(kind, None, "{refused:?}");
            assert_eq!(refused.unreadable, name.is_none());
        }
    }
}

/// The text as the other reader sees it, with what only that reader minds left aside: it refuses lone surrogates and
/// numbers beyond doubles, and it counts levels from another one on.
fn tree(text: &[u8]) -> Option<Value> {
    serde_json::from_slice(text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)).ok()
}

fn compare(message: &Message<'_>, members: &Map<String, Value>) {
    let fields = &message.fields;
    let named = [
        ("type", fields.kind),
        ("id", fields.id),
        ("timestamp", fields.timestamp),
        ("documentId", fields.document_id),
        ("docId", fields.doc_id),
        ("vectorClock", fields.vector_clock),
        ("clock", fields.clock),
        ("messageId", fields.message_id),
        ("clientId", fields.client_id),
        ("userId", fields.user_id),
        ("token", fields.token),
        ("apiKey", fields.api_key),
        ("delta", fields.delta),
        ("field", fields.field),
        ("value", fields.value),
        ("changes", fields.changes),
        ("deltas", fields.deltas),
        ("operation", fields.operation),
        ("state", fields.state),
        ("chunkId", fields.chunk_id),
        ("totalChunks", fields.total_chunks),
        ("chunkIndex", fields.chunk_index),
        ("data", fields.data),
    ];
    for (name, raw) in named {
        let ours = raw.map(|raw: Raw<'_>| serde_json::from_str::<Value>(raw.text()).expect("the whole was read"));
        assert_eq!(ours.as_ref(), members.get(name), "{name}");
    }
}
