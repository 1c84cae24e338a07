//! The check of the checks: a simulation is run once for every deliberate breakage (`synckit_server::mutation`), in a
//! process of its own, and must fail within a stated number of seeds.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use synckit_server::mutation::{self, ALL, Mutation};

/// Seeds within which each of them must be noticed; the simulation plays each with every number of shards.
const SEEDS_MAX: u64 = 20;
/// What this simulation does not notice, within 40 seeds: a hole in its checks, to be closed there. The document's own
/// simulation, the text suites and the tests over a real database look at these promises instead.
const UNNOTICED: [Mutation; 3] = [
    Mutation::IgnoreMergedRow,
    Mutation::ForgetTextEcho,
    Mutation::ForgetTheWinner,
];
/// What is broken, by its name in [`Mutation`]. Set for the child processes; by hand it shows what a breakage looks like.
const VARIABLE: &str = "SIM_MUTATION";

/// Breaks this process if it was started to be broken.
pub fn choose_from_environment() {
    let Ok(name) = std::env::var(VARIABLE) else { return };
    let found = ALL.into_iter().find(|mutation| format!("{mutation:?}") == name);
    mutation::choose(Some(
        found.unwrap_or_else(|| panic!("{VARIABLE}={name} is none of {ALL:?}")),
    ));
}

/// Runs these tests of this very binary with every breakage, and fails if they pass with one.
pub fn every_one_is_noticed(tests: &[&str]) {
    let next = AtomicUsize::new(0);
    let survivors: Vec<Mutation> = std::thread::scope(|scope| {
        let work = || {
            let mut survivors = Vec::new();
            while let Some(mutation) = ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                if UNNOTICED.contains(mutation) {
                    continue;
                }
                match tests.iter().find_map(|test| notice(*mutation, test)) {
                    Some(how) => println!("{mutation:?}: {how}"),
                    None => survivors.push(*mutation),
                }
            }
            survivors
        };
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("no panic"))
            .collect()
    });
    assert!(
        survivors.is_empty(),
        "not noticed within {SEEDS_MAX} seeds: {survivors:?}"
    );
}

/// How the test fails with this breakage; `None` if it passes.
fn notice(mutation: Mutation, test: &str) -> Option<String> {
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", test, "--nocapture"])
        .env(VARIABLE, format!("{mutation:?}"))
        .env("SIM_SEEDS", SEEDS_MAX.to_string())
        .env("RUST_BACKTRACE", "0")
        .env_remove("SIM_SEED")
        .stdin(Stdio::null())
        .output()
        .expect("the child runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let seed = said.lines().find(|line| line.starts_with("failed with seed"));
    assert_eq!(
        seed.is_none(),
        output.status.success(),
        "{mutation:?} ended {test} without a verdict: {said}"
    );
    seed.map(|seed| format!("{test} {seed}"))
}
