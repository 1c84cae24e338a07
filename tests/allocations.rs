//! The hot path does not allocate in proportion to subscribers, and a change costs a stated number of allocations: a
//! counting allocator is asked before and after the same work on a shard without sockets.

#[path = "support/bare_shard.rs"]
mod bare_shard;

use bare_shard::{BareShard, QUIET_US, delta, text_frame};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what its own thread allocates: the tests of this file run side by side.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is just ending may still allocate; nobody asks for its count any more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps to the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// What the shard makes for a change in a document with so many subscribers: from the author's bytes to everybody's.
fn of_a_fan_out(subscribers: usize) -> u64 {
    let mut shard = BareShard::new();
    let author = shard.subscribe("room");
    for _ in 0..subscribers {
        shard.subscribe("room");
    }
    let frames: Vec<_> = (0..8).map(|number| text_frame(&delta("room", number))).collect();
    let mut round = |frame: &[u8]| {
        shard.receive(author, frame);
        shard.turn();
        shard.pass(QUIET_US);
    };
    // Buffers that live as long as the shard find their size.
    frames.iter().for_each(|frame| round(frame));
    let counts: Vec<u64> = frames.iter().map(|frame| allocations(|| round(frame))).collect();
    let sent = shard.sends;
    assert!(
        sent > subscribers as u64 * 16,
        "only {sent} sends: the subscribers heard nothing"
    );
    counts.into_iter().min().expect("eight rounds")
}

#[test]
fn a_fan_out_allocates_nothing_per_subscriber() {
    let (few, many) = (of_a_fan_out(10), of_a_fan_out(1000));
    assert_eq!(few, many, "allocations of a fan-out to 10 and to 1,000 subscribers");
}

/// Allocations per acknowledged change of a connection that has 16 of them in flight.
#[test]
fn a_delta_costs_few_allocations() {
    const IN_FLIGHT: usize = 16;
    /// Text, letter and value of a change.
    const PER_DELTA_MAX: u64 = 3;
    /// The outbox with its buffer and what the flush makes, however many changes came in the turn.
    const PER_TURN_MAX: u64 = 16;
    let mut shard = BareShard::new();
    let author = shard.subscribe("room");
    let mut numbers = 0..;
    let mut of_turn = |shard: &mut BareShard, deltas: usize| {
        // Every value is a new one: writing the same again would cost less.
        let numbers = numbers.by_ref().take(deltas);
        let frames: Vec<u8> = numbers.flat_map(|number| text_frame(&delta("room", number))).collect();
        let count = allocations(|| {
            shard.receive(author, &frames);
            shard.turn();
        });
        shard.pass(QUIET_US);
        count
    };
    of_turn(&mut shard, 4 * IN_FLIGHT);
    let (small, large) = (of_turn(&mut shard, IN_FLIGHT), of_turn(&mut shard, 3 * IN_FLIGHT));
    let per_delta = (large - small).div_ceil(2 * IN_FLIGHT as u64);
    let per_turn = small.saturating_sub(per_delta * IN_FLIGHT as u64);
    println!(
        "{small} allocations for {IN_FLIGHT} changes, {large} for {}",
        3 * IN_FLIGHT
    );
    assert!(per_delta <= PER_DELTA_MAX, "{per_delta} allocations per delta");
    assert!(per_turn <= PER_TURN_MAX, "{per_turn} allocations per turn");
}
