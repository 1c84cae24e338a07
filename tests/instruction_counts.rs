//! The hot path costs no more instructions than is written down here, and its cost does not grow with documents or
//! subscribers that have nothing to do with a message.
//!
//! The test runs itself under callgrind, each workload twice with different numbers of rounds: the difference is what a
//! round costs, without what it took to get there. Counts differ by a percent or two between runs (hash seeds, addresses)
//! and a little between processors (vector width of copies), so the bounds leave some room. They are kept for both
//! profiles: tests run in the dev profile, whose counts are about a half above those of the release profile and grow with
//! the same mistakes. `cargo test --release --test instruction_counts -- --nocapture` prints those that matter to users.
//!
//! Without valgrind nothing is measured and the test says so; `tests/run` installs it.

#[path = "support/bare_shard.rs"]
mod bare_shard;

use bare_shard::{BareShard, QUIET_US, delta, text_frame};
use std::hint::black_box;
use std::process::Command;
use std::sync::LazyLock;
use std::thread;
use synckit_server::protocol::parse;
use synckit_server::websocket::{Decoder, Event};

/// Names the workload and the rounds to the process under callgrind.
const WORKLOAD: &str = "SYNCKIT_TEST_WORKLOAD";

/// What a message may cost, in instructions: about four percent above what was measured when it was changed last.
struct Bounds {
    read: u64,
    delta: u64,
    delivery: u64,
}

const DEV: Bounds = Bounds {
    read: 4_610,
    // Four distributions are counted into on the way (latency of the ack, fields of a flush, its listeners, the wait).
    delta: 10_900,
    delivery: 1_575,
};

const RELEASE: Bounds = Bounds {
    read: 2_890,
    delta: 7_200,
    delivery: 1_215,
};

/// Something that is done again and again.
struct Workload {
    name: &'static str,
    /// Messages (or deliveries) of one round.
    messages: u64,
    /// Rounds of the two runs.
    rounds: [u64; 2],
    run: fn(u64),
}

/// A frame of a message: unmasking, checking, finding its members.
const READ: Workload = Workload {
    name: "read",
    messages: 16,
    rounds: [50, 250],
    run: read,
};

/// A change of a connection that has 16 in flight, with its acknowledgement.
const DELTA: Workload = Workload {
    name: "delta",
    messages: 16 * 50,
    rounds: [2, 7],
    run: |rounds| deltas(50, 0, rounds),
};

/// The same beside 5,000 other documents with subscribers.
const DELTA_AMONG_MANY: Workload = Workload {
    name: "delta among many",
    run: |rounds| deltas(50, 5_000, rounds),
    ..DELTA
};

/// One delivery of a change that has 1,000 subscribers.
const DELIVERY: Workload = Workload {
    name: "delivery",
    messages: 1000,
    rounds: [3, 8],
    run: fan_outs,
};

fn read(rounds: u64) {
    let frames: Vec<u8> = (0..16).flat_map(|number| text_frame(&delta("room", number))).collect();
    let mut bytes = Vec::with_capacity(frames.len());
    for _ in 0..rounds {
        bytes.clear();
        bytes.extend_from_slice(&frames);
        let mut partial = None;
        let mut decoder = Decoder::new(&mut partial, &mut bytes, usize::MAX);
        while let Some(event) = decoder.next().expect("valid frames") {
            let Event::Text(text) = event else {
                panic!("text frames only")
            };
            let message = parse(&text, true).expect("a valid message");
            black_box(&message);
        }
    }
}

fn deltas(authors: usize, others: usize, rounds: u64) {
    let mut shard = BareShard::new();
    for other in 0..others {
        shard.subscribe(&format!("other-{other}"));
    }
    let author = |number: usize| {
        let document = format!("room-{number}");
        let frames: Vec<u8> = (0..16)
            .flat_map(|number| text_frame(&delta(&document, number)))
            .collect();
        (shard.subscribe(&document), frames)
    };
    let authors: Vec<_> = (0..authors).map(author).collect();
    for _ in 0..rounds {
        for (slot, frames) in &authors {
            shard.receive(*slot, frames);
        }
        shard.turn();
        shard.pass(500);
    }
}

fn fan_outs(rounds: u64) {
    let mut shard = BareShard::new();
    let author = shard.subscribe("room");
    for _ in 0..1000 {
        shard.subscribe("room");
    }
    for round in 0..rounds {
        shard.receive(author, &text_frame(&delta("room", round as usize)));
        shard.turn();
        shard.pass(QUIET_US);
    }
}

/// Instructions of one run in a process of its own.
fn instructions(workload: &Workload, rounds: u64) -> u64 {
    let itself = std::env::current_exe().expect("the test knows its own path");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(itself)
        .args([
            "--exact",
            "the_process_under_callgrind",
            "--ignored",
            "--test-threads=1",
        ])
        .env(WORKLOAD, format!("{}:{rounds}", workload.name))
        .output()
        .expect("valgrind starts");
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {printed}", workload.name);
    let collected = printed.lines().find_map(|line| line.split_once("Collected :"));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    count.unwrap_or_else(|| panic!("callgrind said nothing: {printed}"))
}

/// Instructions per message.
fn price(workload: &Workload) -> u64 {
    let [few, many] = workload.rounds;
    let (least, most) = thread::scope(|scope| {
        let least = scope.spawn(|| instructions(workload, few));
        let most = instructions(workload, many);
        (least.join().expect("the shorter run"), most)
    });
    let price = (most - least) / ((many - few) * workload.messages);
    println!("{}: {price} instructions", workload.name);
    price
}

/// Both tests look at it.
static DELTA_PRICE: LazyLock<u64> = LazyLock::new(|| price(&DELTA));

fn valgrind_is_here() -> bool {
    let here = Command::new("valgrind").arg("--version").output().is_ok();
    if !here {
        println!("valgrind is not installed: nothing was measured");
    }
    here
}

#[test]
fn a_message_costs_a_stated_number_of_instructions() {
    if !valgrind_is_here() {
        return;
    }
    let dev = cfg!(debug_assertions);
    let bounds = if dev { DEV } else { RELEASE };
    let prices = [
        (READ.name, price(&READ), bounds.read),
        (DELTA.name, *DELTA_PRICE, bounds.delta),
        (DELIVERY.name, price(&DELIVERY), bounds.delivery),
    ];
    let broken: Vec<String> = prices
        .iter()
        // Far below is broken too: a bound that is out of date checks nothing.
        .filter(|(_, price, bound)| price > bound || price * 10 < bound * 8)
        .map(|(name, price, bound)| format!("{name}: {price} instructions, the bound is {bound}"))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("; "));
}

#[test]
fn a_message_does_not_pay_for_documents_of_others() {
    if !valgrind_is_here() {
        return;
    }
    let (alone, among_many) = (*DELTA_PRICE, price(&DELTA_AMONG_MANY));
    assert!(
        among_many * 100 <= alone * 105,
        "{alone} instructions alone, {among_many} beside 5,000 other documents"
    );
}

#[test]
#[ignore = "not a test: what the tests above run under callgrind"]
fn the_process_under_callgrind() {
    let Ok(asked) = std::env::var(WORKLOAD) else { return };
    let (name, rounds) = asked.split_once(':').expect("name and rounds");
    let workload = [READ, DELTA, DELTA_AMONG_MANY, DELIVERY]
        .into_iter()
        .find(|workload| workload.name == name);
    (workload.expect("a known workload").run)(rounds.parse().expect("a number of rounds"));
}
