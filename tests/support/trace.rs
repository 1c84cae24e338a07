//! What a simulated run did, and the shortest history that still fails.
//!
//! A run asks before each of its acts ([`act`]). Acts beyond the bound that is set, and those that are left out, are not
//! carried out, and everything that follows (faults end, everybody comes together, everybody must agree) is played as
//! always. As a seed decides all, the same seed with the same acts left out is the same run.

#![allow(dead_code, reason = "each test file uses its part")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::time::{Duration, Instant};

/// Acts of a shortest failing run that are printed: the last ones.
const PRINTED_MAX: usize = 40;
/// How long acts are left out one after the other; the shortest history so far is printed then.
const SHORTENING: Duration = Duration::from_secs(60);

thread_local! {
    static BOUND: Cell<usize> = const { Cell::new(usize::MAX) };
    static LEFT_OUT: RefCell<BTreeSet<usize>> = const { RefCell::new(BTreeSet::new()) };
    /// How many acts were asked for.
    static ASKED: Cell<usize> = const { Cell::new(0) };
    static ACTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Whether the run may do one more thing; `what` says which.
pub fn act(what: impl FnOnce() -> String) -> bool {
    let number = ASKED.replace(ASKED.get() + 1);
    let allowed = number < BOUND.get() && !LEFT_OUT.with_borrow(|left_out| left_out.contains(&number));
    if allowed {
        ACTS.with_borrow_mut(|acts| acts.push(format!("{number:4} {}", what())));
    }
    allowed
}

/// Begins a run of at most so many acts.
pub fn begin(bound: usize) {
    BOUND.set(bound);
    LEFT_OUT.with_borrow_mut(BTreeSet::clear);
    ASKED.set(0);
    ACTS.with_borrow_mut(Vec::clear);
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays a run. If it fails, prints what it is called and, if it is to be `explained`, the shortest history of it that fails too.
pub fn play<S: Default>(called: &str, explained: bool, seen: &mut S, play: impl Fn(&mut S)) {
    begin(usize::MAX);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| play(seen))) {
        eprintln!("failed with {called}");
        if explained {
            print_shortest(|| play(&mut S::default()));
        }
        resume_unwind(panic);
    }
}

/// Plays a run that failed again and again, with ever fewer acts, and prints the shortest that fails: no beginning of it
/// does, and (if there was time to try) it needs each of its acts.
pub fn print_shortest(mut play: impl FnMut()) {
    let whole = ASKED.get();
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let mut fails = |bound: usize, left_out: &BTreeSet<usize>| {
        begin(bound);
        LEFT_OUT.set(left_out.clone());
        catch_unwind(AssertUnwindSafe(&mut play)).err().map(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default()
        })
    };
    // Fails with `high` acts; not known to with `low`.
    let nothing = BTreeSet::new();
    let (mut low, mut high) = (0, whole);
    while low < high {
        let middle = low + (high - low) / 2;
        match fails(middle, &nothing) {
            Some(_) => high = middle,
            None => low = middle + 1,
        }
    }
    let left_out = needless(high, |left_out| fails(high, left_out).is_some());
    let why = fails(high, &left_out).unwrap_or_else(|| "not again: something real has come in".to_owned());
    set_hook(hook);
    let acts = ACTS.take();
    eprintln!("the shortest history that fails has {} of {whole} acts:", acts.len());
    let skipped = acts.len().saturating_sub(PRINTED_MAX);
    if skipped > 0 {
        eprintln!("  … {skipped} before");
    }
    for what in acts.iter().skip(skipped) {
        eprintln!("  {what}");
    }
    let why: String = why.chars().take(400).collect();
    eprintln!("  and then: {why}");
}

/// Acts before `end` that a run which fails does not need, found by leaving out ever smaller stretches.
fn needless(end: usize, mut fails_without: impl FnMut(&BTreeSet<usize>) -> bool) -> BTreeSet<usize> {
    let (began, mut left_out) = (Instant::now(), BTreeSet::new());
    let mut stretch = end.div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < end && began.elapsed() < SHORTENING {
            let mut without = left_out.clone();
            without.extend(at..(at + stretch).min(end));
            if without.len() > left_out.len() && fails_without(&without) {
                left_out = without;
            }
            at += stretch;
        }
        if stretch == 1 || began.elapsed() >= SHORTENING {
            return left_out;
        }
        stretch = stretch.div_ceil(2);
    }
}
