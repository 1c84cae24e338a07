//! Promise: no bytes that were ever interesting to the fuzzer break anything, and neither do some thousand mutations of
//! them. The corpora of `tests/fuzz` are replayed through the functions that libFuzzer runs, on stable Rust; then each
//! target gets mutations of them, seeded and the same every time. `FUZZ_ROUNDS=1000000 cargo test --test fuzz_smoke`
//! tries more, `FUZZ_SEED=7` others. See docs/fuzzing.md for coverage-guided runs.

#[path = "support/bare_shard.rs"]
mod bare_shard;
#[path = "fuzz/src/targets/mod.rs"]
mod targets;
#[path = "support/text_client.rs"]
mod text_client;
#[path = "support/text_oracle.rs"]
mod text_oracle;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use targets::{ALL, Target};

/// Mutations per target, unless `FUZZ_ROUNDS` says otherwise.
const ROUNDS: u64 = 3_000;
/// A target stops after this long on a slow machine, unless `FUZZ_ROUNDS` is set.
const ENOUGH: Duration = Duration::from_millis(1_200);
/// Longest input that is made.
const BYTES_MAX: usize = 4_096;

/// Pieces that parsers look for.
const WORDS: [&[u8]; 24] = [
    b"\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\"documentId\":\"d\"",
    b"\"type\":\"delta\"",
    b"\"payload\":{",
    b"\"type\":\"text-state\"",
    b"\"__deleted\":true",
    b"\"clock\":{\"server\":1}",
    b"\"offset\":0",
    b"\"deltas\":[",
    b"\\ud800",
    b"\\u0000",
    b"1e999",
    b"-0",
    b"9007199254740993",
    b"\xEF\xBB\xBF",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x81\x80\0\0\0\0",
    b"\x88\x82\0\0\0\0\x03\xe8",
    b"[[[[[[[[",
    b"{}",
    b"null",
];

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    let read = |path: PathBuf| (path.clone(), std::fs::read(path).expect("readable"));
    files.into_iter().map(read).collect()
}

/// One to four changes of the kinds that libFuzzer makes.
fn mutated(random: &mut StdRng, corpus: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let pick = |random: &mut StdRng| &corpus[random.random_range(0..corpus.len())].1;
    let mut bytes = pick(random).clone();
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..=bytes.len());
        let end = random.random_range(at..=bytes.len().min(at + 64));
        match random.random_range(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.random(),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                let to = random.random_range(0..=bytes.len());
                drop(bytes.splice(to..to, copy));
            }
            4 => {
                let word = WORDS[random.random_range(0..WORDS.len())];
                drop(bytes.splice(at..at, word.iter().copied()));
            }
            5 => {
                let other = pick(random);
                let from = random.random_range(0..=other.len());
                let tail = other[from..].to_vec();
                bytes.truncate(at);
                bytes.extend(tail);
            }
            _ => bytes.insert(at, random.random()),
        }
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Replays and mutates for one target; gives how many inputs it saw.
fn smoke((name, run): Target) -> u64 {
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    for (path, input) in &corpus {
        let result = catch_unwind(|| run(input));
        assert!(result.is_ok(), "{name} fails on {}", path.display());
    }
    let rounds = variable("FUZZ_ROUNDS");
    let mut random = StdRng::seed_from_u64(variable("FUZZ_SEED").unwrap_or(1));
    let began = Instant::now();
    let mut tried = 0;
    while tried < rounds.unwrap_or(ROUNDS) && (rounds.is_some() || began.elapsed() < ENOUGH) {
        let input = mutated(&mut random, &corpus);
        let result = catch_unwind(AssertUnwindSafe(|| run(&input)));
        assert!(result.is_ok(), "{name} fails on {:?}", input.escape_ascii().to_string());
        tried += 1;
    }
    println!(
        "{name}: {} inputs replayed, {tried} mutations, {:?}",
        corpus.len(),
        began.elapsed()
    );
    tried
}

#[test]
fn every_target_holds_on_its_corpus_and_on_mutations_of_it() {
    std::thread::scope(|scope| {
        let running: Vec<_> = ALL
            .into_iter()
            .map(|target| (target.0, scope.spawn(move || smoke(target))))
            .collect();
        for (name, target) in running {
            let tried = target.join().unwrap_or_else(|_| panic!("{name} failed, see above"));
            assert!(tried >= 50, "{name}: only {tried} mutations in {ENOUGH:?}");
        }
    });
}
