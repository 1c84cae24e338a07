//! Promise: whoever edits a text with whom, in the end everybody has the same blocks and sees the same text.
//!
//! Model clients with the splits and the separately kept visible text of the real ones edit through the server's merge
//! and relay rules, with delays, offline periods, reloads and late joiners. A failure names its seed; `SIM_SEED=n` runs that
//! seed alone, `SIM_SEEDS=n` that many from 0.

#[path = "support/text_client.rs"]
mod text_client;
#[path = "support/text_session.rs"]
mod text_session;

use rand::Rng;
use text_session::{ASCII_MIXES, Mix, Session};

const SESSIONS: u64 = 40;

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(SESSIONS),
    }
}

/// The single edits afterwards find missing echoes: an author whose text differs from its blocks edits elsewhere.
#[test]
fn concurrent_sessions_converge() {
    for mix in ASCII_MIXES {
        for seed in seeds() {
            let peers = 2 + (seed % 3) as usize;
            let mut session = Session::new(seed, mix, peers);
            for _ in 0..150 {
                session.step();
            }
            session.join();
            session.settle();
            session.check_equal("after the session");
            for round in 0..6 {
                let at = session.rng.random_range(0..session.peers.len());
                session.edit(at);
                session.settle();
                session.check_equal(&format!("after single edit {round}"));
            }
        }
    }
}

/// With the echo delivered before the next edit, a text behaves like a plain string on every client.
#[test]
fn one_writer_at_a_time_edits_a_plain_string() {
    for mix in ASCII_MIXES {
        for seed in seeds() {
            let mut session = Session::new(seed, mix, 3);
            for round in 0..30 {
                let at = session.rng.random_range(0..session.peers.len());
                session.edit(at);
                // What the author sees right after its edit is the plain string.
                let plain = session.peers[at].client.shown();
                session.settle();
                session.check_equal(&format!("edit {round}"));
                let stored = session.stored.as_ref().expect("something was sent");
                assert_eq!(stored.visible_text(), plain, "seed {seed}, {mix:?}, edit {round}");
            }
        }
    }
}

/// Blocks converge also for characters of several code points; the text shown is section 9, E5, and not promised.
#[test]
fn characters_of_several_code_points_converge() {
    for seed in seeds() {
        let mut session = Session::new(seed, Mix::NonAscii, 3);
        for _ in 0..100 {
            session.step();
        }
        session.settle();
        session.check_equal("after the session");
    }
}
