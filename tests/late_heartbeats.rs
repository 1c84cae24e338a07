//! A connection is closed for its silence only after it was asked for a sign of life (docs/protocol.md §14): a server that
//! got no processor time for longer than the heartbeat time-out must not take that out on its clients. Played on a real
//! shard with a clock of its own.

#[path = "support/bare_shard.rs"]
mod bare_shard;
#[path = "support/quiet_shard.rs"]
mod quiet_shard;
use test_support as support;

use quiet_shard::QuietShard;
use std::time::Duration;

const PING: [u8; 2] = [0x89, 0];
const PONG: [u8; 6] = [0x8A, 0x80, 0, 0, 0, 0];
const WHILE: Duration = Duration::from_secs(20);

#[test]
fn a_server_that_was_held_up_asks_before_it_closes() {
    let mut node = QuietShard::new(&[("SYNCKIT_AUTH_REQUIRED", "false")]);
    let alive = node.connect(false, 1);
    let dead = node.connect(false, 1);
    node.skip(Duration::from_secs(300));
    node.pass(WHILE);
    assert_eq!((node.shard.census().sessions, &node.last_sent[..]), (2, &PING[..]));
    for _ in 0..5 {
        node.receive(alive, &PONG);
        node.pass(WHILE);
    }
    let census = node.shard.census();
    assert_eq!(census.sessions, 1, "one answered and one did not");
    node.receive(dead, &PONG);
    assert_eq!(node.shard.census().sessions, 1);
}
