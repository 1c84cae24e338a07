//! The check of the checks: a simulation is run once for every deliberate breakage (`synckit_server::mutation`), in a
//! process of its own, and must fail within a stated number of seeds.

#![allow(dead_code, reason = "each test file uses its part")]

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use synckit_server::mutation::{self, ALL, Mutation};

/// Those that only several nodes can notice; all others are for the shards of one.
const OF_NODES: [Mutation; 9] = [
    Mutation::TakeOverStamps,
    Mutation::SkipGapRepair,
    Mutation::CountRepetitions,
    Mutation::CountTwice,
    Mutation::ForgetDigests,
    Mutation::IgnoreEpochChange,
    Mutation::ForgetOtherNodes,
    Mutation::ForgetRefusedEnvelopes,
    Mutation::KeepPresenceOfDeadNodes,
];
/// What is broken, by its name in [`Mutation`]. Set for the child processes; by hand it shows what a breakage looks like.
const VARIABLE: &str = "SIM_MUTATION";

/// Breaks this process if it was started to be broken.
pub fn choose_from_environment() {
    let Ok(name) = std::env::var(VARIABLE) else { return };
    let found = ALL.iter().copied().find(|mutation| format!("{mutation:?}") == name);
    mutation::choose(Some(
        found.unwrap_or_else(|| panic!("{VARIABLE}={name} is none of {ALL:?}")),
    ));
}

/// Whether this process is broken on purpose; `SIM_SEED` set by hand means that somebody wants to see how.
pub fn is_chosen() -> bool {
    std::env::var_os(VARIABLE).is_some() && std::env::var_os("SIM_SEED").is_none()
}

/// Runs these tests of this very binary with every breakage of one node's shards, or of several nodes, and fails if they
/// pass with one for so many seeds.
pub fn every_one_is_noticed(of_nodes: bool, seeds_max: u64, tests: &[&str]) {
    let here: Vec<Mutation> = ALL
        .iter()
        .copied()
        .filter(|mutation| OF_NODES.contains(mutation) == of_nodes)
        .collect();
    let next = AtomicUsize::new(0);
    let survivors: Vec<Mutation> = std::thread::scope(|scope| {
        let work = || {
            let mut survivors = Vec::new();
            while let Some(mutation) = here.get(next.fetch_add(1, Ordering::Relaxed)) {
                match tests.iter().find_map(|test| notice(*mutation, seeds_max, test)) {
                    Some(how) => println!("{mutation:?}: {how}"),
                    None => {
                        println!("{mutation:?}: not noticed");
                        survivors.push(*mutation);
                    }
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
        "not noticed within {seeds_max} seeds: {survivors:?}"
    );
}

/// How the test fails with this breakage; `None` if it passes.
fn notice(mutation: Mutation, seeds_max: u64, test: &str) -> Option<String> {
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", test, "--nocapture"])
        .env(VARIABLE, format!("{mutation:?}"))
        .env("SIM_SEEDS", seeds_max.to_string())
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
