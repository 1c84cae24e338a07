//! Promise: merging is commutative, associative and idempotent byte for byte, loses nothing, and does exactly what the
//! rules say.
//!
//! States come from seeded sessions of model clients (delays, offline periods, reloads; half of them with characters of
//! several code points). The optimised merge is held against a transcription of the rules, also on states that no honest
//! client writes: client ids used twice, arbitrary origins, nested blocks.

#[path = "support/text_client.rs"]
mod text_client;
#[path = "support/text_oracle.rs"]
mod text_oracle;
#[path = "support/text_session.rs"]
mod text_session;

use proptest::prelude::*;
use rand::Rng;
use std::collections::BTreeSet;
use synckit_server::text::{Echo, Incoming, TextLimits, TextState, merge};
use text_client::{Block, Blocks, Client, document_order, parse, to_json};
use text_session::{Mix, Session};

fn incoming(json: &str) -> Incoming {
    Incoming::parse(json, &TextLimits::default(), 0).expect("the state is valid")
}

fn lone(json: &str) -> TextState {
    merge(None, &incoming(json)).state
}

fn merged(a: &TextState, b: &TextState) -> TextState {
    merge(Some(a), &Incoming::from(b)).state
}

/// A session and all states that were sent in it.
fn session(seed: u64, mix: Mix) -> Session {
    let mut session = Session::new(seed, mix, 3);
    for _ in 0..120 {
        session.step();
    }
    session
}

fn mixes() -> impl Strategy<Value = Mix> {
    prop_oneof![
        Just(Mix::Pastes),
        Just(Mix::Ranges),
        Just(Mix::NonAscii),
        Just(Mix::NonAscii),
        Just(Mix::Typing)
    ]
}

/// `(client, value, text, left, right)` of every character.
type Character = (String, u64, String, Option<(u64, String)>, Option<(u64, String)>);

fn characters(blocks: &Blocks, only_deleted: bool) -> BTreeSet<Character> {
    let chosen = blocks.iter().filter(|(_, block)| block.deleted || !only_deleted);
    chosen
        .flat_map(|(id, block)| {
            let values = block.first(id.0)..=id.0;
            values.zip(&block.text).map(|(value, text)| {
                (
                    id.1.clone(),
                    value,
                    text.clone(),
                    block.left.clone(),
                    block.right.clone(),
                )
            })
        })
        .collect()
}

fn block_starts(blocks: &Blocks) -> BTreeSet<(String, u64)> {
    blocks
        .iter()
        .map(|(id, block)| (id.1.clone(), block.first(id.0)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn honest_states_obey_the_laws(seed in any::<u64>(), mix in mixes()) {
        let mut session = session(seed, mix);
        let sent = std::mem::take(&mut session.sent);
        prop_assume!(!sent.is_empty());
        for _ in 0..8 {
            let mut pick = || &sent[session.rng.random_range(0..sent.len())];
            let (json_a, json_b, json_c) = (pick(), pick(), pick());
            let (a, b, c) = (lone(json_a), lone(json_b), lone(json_c));
            let ab = merged(&a, &b);
            prop_assert_eq!(ab.to_json(), merged(&b, &a).to_json(), "commutative");
            prop_assert_eq!(ab.to_json(), merge(Some(&a), &incoming(json_b)).state.to_json(), "normal form first");
            prop_assert_eq!(ab.to_json(), merged(&ab, &b).to_json(), "idempotent");
            let left = merged(&ab, &c).to_json();
            prop_assert_eq!(&left, &merged(&a, &merged(&b, &c)).to_json(), "associative");

            let (from_a, from_b, all) = (parse(json_a).0, parse(json_b).0, parse(&ab.to_json()).0);
            let union = |deleted| &characters(&from_a, deleted) | &characters(&from_b, deleted);
            prop_assert_eq!(characters(&all, false), union(false), "no character lost, changed or invented");
            prop_assert_eq!(characters(&all, true), union(true), "deleted stays deleted, nothing else is");
            for source in [&from_a, &from_b] {
                prop_assert!(block_starts(source).is_subset(&block_starts(&all)), "every limit stays a limit");
            }
            prop_assert!(all.len() <= 2 * (from_a.len() + from_b.len()));
        }
    }

    /// A client that holds an older state, and a fresh one, take the merged state exactly.
    #[test]
    fn clients_take_the_merged_state_exactly(seed in any::<u64>(), mix in mixes()) {
        let session = session(seed, mix);
        let Some(stored) = &session.stored else { return Ok(()) };
        let json = stored.to_json();
        let blocks = parse(&json).0;
        let texts: String = document_order(&blocks).iter().filter(|id| !blocks[*id].deleted)
            .flat_map(|id| blocks[id].text.clone()).collect();
        prop_assert_eq!(stored.visible_text(), texts);
        for held in session.sent.iter().map(Some).step_by(5).chain([None]) {
            let mut client = Client::new("observer");
            if let Some(held) = held {
                client.receive(held);
            }
            client.receive(&json);
            prop_assert_eq!(&client.blocks, &blocks);
            prop_assert_eq!(client.shown(), stored.visible_text());
        }
    }

    #[test]
    fn honest_merges_follow_the_rules(seed in any::<u64>(), mix in mixes()) {
        let mut session = session(seed, mix);
        let sent = std::mem::take(&mut session.sent);
        let mut stored = TextState::default();
        for _ in 0..12.min(sent.len()) {
            let json = &sent[session.rng.random_range(0..sent.len())];
            stored = follows_the_rules(&stored, json)?;
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Values are few, so client ids collide and nest often.
    #[test]
    fn dishonest_merges_follow_the_rules(states in prop::collection::vec(dishonest_state(), 1..6)) {
        let mut stored = TextState::default();
        for state in &states {
            stored = follows_the_rules(&stored, state)?;
            prop_assert_eq!(TextState::from_json(&stored.to_json()).map(|state| state.to_json()), Ok(stored.to_json()));
        }
    }

    /// The text of states that were never merged, whose blocks overlap in every way the checks allow.
    #[test]
    fn document_order_follows_the_rules(state in dishonest_state()) {
        let blocks = parse(&state).0;
        let text: String = document_order(&blocks).iter().filter(|id| !blocks[*id].deleted)
            .flat_map(|id| blocks[id].text.clone()).collect();
        prop_assert_eq!(incoming(&state).visible_text(), text);
    }
}

/// Merges, compares everything with the transcription of the rules, and returns the merged state.
fn follows_the_rules(stored: &TextState, json: &str) -> Result<TextState, TestCaseError> {
    let (before, clock) = parse(&stored.to_json());
    let (blocks, clock_incoming) = parse(json);
    let expected = text_oracle::merge(&before, &blocks);
    let merged = merge(Some(stored), &incoming(json));
    let highest = expected.blocks.keys().map(|id| id.0).max().unwrap_or(0);
    let clock = clock.max(clock_incoming).max(highest);
    prop_assert_eq!(merged.state.to_json(), to_json(&expected.blocks, clock, "server"));
    prop_assert_eq!(merged.state.to_json().len(), merged.state.json_bytes());
    prop_assert_eq!(merged.changed, expected.changed);
    prop_assert_eq!(merged.echo != Echo::None, expected.echo);
    prop_assert_eq!(merged.collisions, expected.collisions);
    Ok(merged.state)
}

/// States that pass the checks but that no client would write.
fn dishonest_state() -> impl Strategy<Value = String> {
    let clients = || prop::sample::select(vec!["a", "B", "c\"", "é"]);
    let origin = move || prop::option::of((any::<prop::sample::Index>(), clients()));
    let text = prop::collection::vec(prop::sample::select(vec!["x", "y", "🇩🇪", "\r\n", "ж"]), 1..6);
    let block = (0_u64..5, clients(), text, origin(), origin(), any::<bool>());
    (prop::collection::vec(block, 0..14), 0_u64..100).prop_map(|(raw, clock)| {
        let mut blocks = Blocks::new();
        let mut next = std::collections::BTreeMap::new();
        for (gap, client, text, left, right, deleted) in raw {
            // Few values, so that clients collide and nest often.
            let first = *next.get(client).unwrap_or(&1) + gap;
            let last = first + text.len() as u64 - 1;
            next.insert(client, last + 1);
            let older = |origin: Option<(prop::sample::Index, &str)>| {
                origin.map(|(at, client)| (at.index(first as usize) as u64, client.to_string()))
            };
            let text = text.into_iter().map(String::from).collect();
            blocks.insert(
                (last, client.to_string()),
                Block {
                    text,
                    left: older(left),
                    right: older(right),
                    deleted,
                },
            );
        }
        to_json(&blocks, clock, "someone")
    })
}
