//! What servers of the family tell each other on `<prefix>presence` (docs/protocol.md §19.1): that they are there, and that
//! they go.

use hashbrown::HashMap;
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a node says that it is there.
pub(super) const ANNOUNCE_PERIOD: Duration = Duration::from_secs(30);
/// After this much silence a node is gone.
const PEER_SILENCE_MAX: Duration = Duration::from_secs(75);
/// Nodes that are remembered.
const PEERS_MAX: usize = 4096;

/// This node is there.
pub(super) fn online(node: &str) -> String {
    json!({
        "type": "server_online",
        "serverId": node,
        "timestamp": unix_ms(),
        "metadata": { "implementation": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") },
    })
    .to_string()
}

/// This node goes.
pub(super) fn offline(node: &str) -> String {
    json!({ "type": "server_offline", "serverId": node, "timestamp": unix_ms() }).to_string()
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}

/// The other nodes, by when they were last heard of.
#[derive(Debug, Default)]
pub(super) struct Peers {
    heard: HashMap<String, Instant>,
}

impl Peers {
    /// Takes an announcement in; anything else is ignored. Returns whether somebody new is there, who does not know us.
    pub fn heard(&mut self, announcement: &[u8], own: &str, now: Instant) -> bool {
        let said: Value = serde_json::from_slice(announcement).unwrap_or_default();
        match (said["type"].as_str(), said["serverId"].as_str()) {
            (Some("server_online"), Some(id)) if id != own && self.heard.len() < PEERS_MAX => {
                self.heard.insert(id.to_owned(), now).is_none()
            }
            (Some("server_offline"), Some(id)) => {
                self.heard.remove(id);
                false
            }
            _ => false,
        }
    }

    /// How many others there are.
    pub fn count(&mut self, now: Instant) -> usize {
        self.heard
            .retain(|_, at| now.saturating_duration_since(*at) < PEER_SILENCE_MAX);
        self.heard.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_come_and_go_and_are_forgotten() {
        let (mut peers, start) = (Peers::default(), Instant::now());
        assert!(!peers.heard(online("me").as_bytes(), "me", start));
        assert!(peers.heard(online("a").as_bytes(), "me", start));
        assert!(!peers.heard(online("a").as_bytes(), "me", start));
        assert!(peers.heard(online("b").as_bytes(), "me", start));
        assert!(!peers.heard(b"{\"type\":7}", "me", start) && !peers.heard(b"not json", "me", start));
        assert_eq!(peers.count(start), 2);
        assert!(!peers.heard(offline("a").as_bytes(), "me", start));
        assert_eq!(peers.count(start), 1);
        assert_eq!(peers.count(start + PEER_SILENCE_MAX), 0);
    }
}
