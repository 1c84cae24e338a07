//! What a simulated run did, and the shortest beginning of it that still fails.
//!
//! A run asks before each of its acts ([`act`]). Acts beyond the bound that is set are left out, and everything that
//! follows (faults end, everybody comes together, everybody must agree) is played as always. As a seed decides all, the
//! same seed with the same bound is the same run.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

/// Acts of a shortest failing run that are printed: the last ones.
const PRINTED_MAX: usize = 40;

thread_local! {
    static BOUND: Cell<usize> = const { Cell::new(usize::MAX) };
    static ACTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Whether the run may do one more thing; `what` says which.
pub fn act(what: impl FnOnce() -> String) -> bool {
    ACTS.with_borrow_mut(|acts| {
        let allowed = acts.len() < BOUND.get();
        if allowed {
            acts.push(what());
        }
        allowed
    })
}

/// Begins a run of at most so many acts.
pub fn begin(bound: usize) {
    BOUND.set(bound);
    ACTS.with_borrow_mut(Vec::clear);
}

/// Plays a run that failed again and again, with ever fewer acts, and prints the shortest that fails.
pub fn print_shortest(mut play: impl FnMut()) {
    let whole = ACTS.with_borrow(Vec::len);
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let mut fails = |bound: usize| {
        begin(bound);
        catch_unwind(AssertUnwindSafe(&mut play)).err().map(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default()
        })
    };
    // Fails with `high` acts; not known to with `low`.
    let (mut low, mut high, mut why) = (0, whole, None);
    while low < high {
        let middle = low + (high - low) / 2;
        match fails(middle) {
            Some(reason) => (high, why) = (middle, Some(reason)),
            None => low = middle + 1,
        }
    }
    let why = fails(high).or(why).unwrap_or_default();
    set_hook(hook);
    let acts = ACTS.take();
    eprintln!("the shortest beginning that fails has {high} of {whole} acts:");
    let skipped = acts.len().saturating_sub(PRINTED_MAX);
    if skipped > 0 {
        eprintln!("  … {skipped} before");
    }
    for (number, what) in acts.iter().enumerate().skip(skipped) {
        eprintln!("  {number:4} {what}");
    }
    let why: String = why.chars().take(400).collect();
    eprintln!("  and then: {why}");
}
