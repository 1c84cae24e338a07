//! What a connection at rest owns, counted at the allocator: a real shard is driven without sockets, ten thousand and then
//! forty thousand connections authenticate, subscribe to a document and its presence, and fall silent. The difference is
//! what thirty thousand of them hold, to the byte and to the block, whatever an allocator makes of it.
//!
//! An anonymous connection owns no block of its own: what it needs are places in blocks it shares with others. One with a
//! token of its own owns two, its identity and its user id.

#[path = "support/bare_shard.rs"]
mod bare_shard;
#[path = "support/quiet_shard.rs"]
mod quiet_shard;
use test_support as support;

use quiet_shard::QuietShard;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;
use support::token;

struct Counting;

static BYTES: AtomicIsize = AtomicIsize::new(0);
static BLOCKS: AtomicIsize = AtomicIsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory but two integers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size() as isize, Ordering::Relaxed);
        BLOCKS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        BLOCKS.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FIRST: usize = 10_000;
const ALL: usize = 40_000;
/// Longer than any deadline of a connection that is being opened.
const REST: Duration = Duration::from_secs(45);

/// Bytes and blocks that each connection of a crowd holds at rest.
fn held(variables: &[(&str, &str)], own_token: bool, per_document: usize) -> (f64, f64) {
    let mut node = QuietShard::new(variables);
    let mut count = |until: usize| {
        while node.connections < until {
            node.connect(own_token, per_document);
        }
        node.pass(REST);
        assert_eq!(node.shard.census().subscriptions, until);
        (BYTES.load(Ordering::Relaxed), BLOCKS.load(Ordering::Relaxed))
    };
    let (before, after) = (count(FIRST), count(ALL));
    assert!(node.answers > ALL, "nothing was answered");
    let each = |before: isize, after: isize| (after - before) as f64 / (ALL - FIRST) as f64;
    (each(before.0, after.0), each(before.1, after.1))
}

#[test]
fn a_connection_at_rest_owns_what_is_stated_and_nothing_else() {
    // One test, because whatever ran beside it would be counted too.
    let secret = token::SECRET;
    let with_tokens = [
        ("SYNCKIT_AUTH_REQUIRED", "true"),
        ("JWT_SECRET", secret),
        ("WS_HEARTBEAT_INTERVAL", "0"),
        ("WS_HEARTBEAT_TIMEOUT", "0"),
    ];
    let anonymous = [
        ("SYNCKIT_AUTH_REQUIRED", "false"),
        ("JWT_SECRET", secret),
        ("WS_HEARTBEAT_INTERVAL", "0"),
        ("WS_HEARTBEAT_TIMEOUT", "0"),
    ];

    // (what it is, bytes at most, blocks at most), each with a small reserve for the lists that everybody shares.
    let crowds = [
        (held(&anonymous, false, 100), "anonymous, 100 per document", 160.0, 0.06),
        (
            held(&with_tokens, true, 100),
            "own token, 100 per document",
            235.0,
            2.06,
        ),
        (held(&with_tokens, true, 10), "own token, 10 per document", 300.0, 2.5),
        (held(&with_tokens, true, 1), "own token, own document", 760.0, 4.1),
    ];
    for ((bytes, blocks), what, bytes_max, blocks_max) in crowds {
        println!("{what}: {bytes:.1} B in {blocks:.3} blocks");
        assert!(
            bytes <= bytes_max && blocks <= blocks_max,
            "{what}: {bytes:.1} B in {blocks:.3} blocks"
        );
    }
}
