//! No letter is left in a mailbox while its shard sleeps, and none overtakes another of the same sender: the mailbox and the
//! sleeper of the server's own sources (`src/runtime/mailbox.rs`, `src/sleeper.rs`), a shard that takes turns and sleeps as
//! `src/runtime/driver.rs` does, and an eventfd, under loom, which tries every interleaving with at most three preemptions
//! (`LOOM_MAX_PREEMPTIONS=n` for more) and every value that a weakly ordered memory may show. A shard that sleeps over a
//! letter is a deadlock there. Broken variants must be found.

#[path = "../src/runtime/mailbox.rs"]
mod mailbox;
#[path = "../src/sleeper.rs"]
mod sleeper;
#[path = "support/model_sync.rs"]
mod sync;

use loom::sync::{Arc, Condvar};
use loom::thread;
use mailbox::Mailbox;
use sleeper::Sleeper;
use std::collections::VecDeque;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use sync::{AtomicU64, Mutex, Ordering, weaken};

/// An eventfd: readable from the first ring until it is quieted.
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn new() -> Self {
        Self {
            rung: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn quiet(&self) {
        *self.rung.lock().unwrap() = false;
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
    }
}

/// How the shard sleeps, or what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    /// The wait in the kernel is over without news, and the longer one by the bell follows.
    ByBell,
    /// The wait in the kernel lasts until the bell rings, which is quieted in the next turn.
    Nap,
    /// Looks for letters and then says that it sleeps.
    LooksFirst,
    /// Quiets the bell after it said that it sleeps.
    QuietsLate,
    /// Does not look for letters.
    NeverLooks,
}

struct Shared {
    mailbox: Mailbox<(usize, usize)>,
    depth: AtomicU64,
    bell: Bell,
}

impl Shared {
    fn fall_asleep(&self, manner: Manner) -> bool {
        let nothing = AtomicU64::new(0);
        match manner {
            Manner::LooksFirst => self.depth.load(Ordering::SeqCst) == 0 && self.mailbox.fall_asleep(&nothing),
            Manner::NeverLooks => self.mailbox.fall_asleep(&nothing),
            _ => self.mailbox.fall_asleep(&self.depth),
        }
    }

    fn sleep(&self, manner: Manner) {
        match manner {
            Manner::Nap => {
                if self.fall_asleep(manner) {
                    self.bell.wait();
                }
            }
            Manner::QuietsLate => {
                if self.fall_asleep(manner) {
                    self.bell.quiet();
                    self.bell.wait();
                }
            }
            Manner::LooksFirst => {
                self.bell.quiet();
                if self.fall_asleep(manner) {
                    self.bell.wait();
                }
            }
            Manner::ByBell | Manner::NeverLooks => {
                // The short wait ends by itself.
                let _ = self.fall_asleep(manner);
                self.bell.quiet();
                if self.fall_asleep(manner) {
                    self.bell.wait();
                }
            }
        }
        self.mailbox.wake_up();
    }
}

/// Tries every execution in which threads are interrupted, elsewhere than where they wait, at most thrice.
fn checker() -> loom::model::Builder {
    let mut checker = loom::model::Builder::new();
    // Unless `LOOM_MAX_PREEMPTIONS` says something else.
    checker.preemption_bound.get_or_insert(3);
    checker
}

/// Two senders, who post so many letters each one by one, and the shard. Gives the number of executions tried.
fn mail(manner: Manner, letters: [usize; 2]) -> usize {
    let executions = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = executions.clone();
    checker().check(move || {
        counted.fetch_add(1, Relaxed);
        let shared = Arc::new(Shared {
            mailbox: Mailbox::new(),
            depth: AtomicU64::new(0),
            bell: Bell::new(),
        });
        let senders = [0, 1].map(|sender| {
            let shared = shared.clone();
            thread::spawn(move || {
                for number in 0..letters[sender] {
                    if shared.mailbox.post(&shared.depth, std::iter::once((sender, number))) {
                        shared.bell.ring();
                    }
                }
            })
        });
        let mut arrived = [0, 0];
        let mut inbox = VecDeque::new();
        while arrived != letters {
            if manner == Manner::Nap {
                shared.bell.quiet();
            }
            shared.mailbox.collect(&shared.depth, &mut inbox);
            if inbox.is_empty() {
                shared.sleep(manner);
            }
            for (sender, number) in inbox.drain(..) {
                assert_eq!(number, arrived[sender], "a letter overtook another");
                arrived[sender] += 1;
            }
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert_eq!(shared.depth.load(Ordering::SeqCst), 0);
    });
    executions.load(Relaxed)
}

/// A thread that waits for its bell (that of the bus) and two that bring it something.
fn bus() -> usize {
    let executions = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = executions.clone();
    checker().check(move || {
        counted.fetch_add(1, Relaxed);
        let shared = Arc::new((Sleeper::new(), AtomicU64::new(0), Bell::new()));
        let bringers = [(); 2].map(|()| {
            let shared = shared.clone();
            thread::spawn(move || {
                let (sleeper, queued, bell) = &*shared;
                queued.fetch_add(1, Ordering::SeqCst);
                if sleeper.must_be_woken() {
                    bell.ring();
                }
            })
        });
        let (sleeper, queued, bell) = &*shared;
        while queued.load(Ordering::SeqCst) < 2 {
            let seen = queued.load(Ordering::SeqCst);
            sleeper.will_sleep();
            if queued.load(Ordering::SeqCst) == seen && seen < 2 {
                bell.wait();
                // An edge: one ring wakes once.
                bell.quiet();
            }
            sleeper.is_awake();
        }
        bringers.into_iter().for_each(|bringer| bringer.join().unwrap());
    });
    executions.load(Relaxed)
}

/// Set for the child processes of [`broken_variants_are_found`].
const VARIABLE: &str = "MODEL_BROKEN";

/// Gives the number of executions tried.
type Model = fn() -> usize;

/// What is wrong, and what shows it.
const BROKEN: [(&str, Model); 5] = [
    ("looks before it says that it sleeps", || {
        mail(Manner::LooksFirst, [1, 1])
    }),
    ("quiets the bell late", || mail(Manner::QuietsLate, [1, 1])),
    ("never looks", || mail(Manner::NeverLooks, [1, 1])),
    ("weaker ordering", || {
        weaken(true);
        mail(Manner::Nap, [1, 1])
    }),
    ("weaker ordering of the bus", || {
        weaken(true);
        bus()
    }),
];

#[test]
fn no_letter_is_left_while_its_shard_sleeps() {
    for manner in [Manner::ByBell, Manner::Nap] {
        eprintln!("{manner:?}: {} executions", mail(manner, [1, 1]));
    }
}

#[test]
fn nothing_is_left_while_a_thread_of_the_bus_sleeps() {
    eprintln!("{} executions", bus());
}

/// Each in a process of its own, because a deadlock that was found cannot be unwound from.
#[test]
fn broken_variants_are_found() {
    if let Ok(name) = std::env::var(VARIABLE) {
        let (_, model) = BROKEN.iter().find(|(known, _)| *known == name).expect("one of them");
        eprintln!("nothing in {} executions", model());
        return;
    }
    for (name, _) in BROKEN {
        let output = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "broken_variants_are_found", "--nocapture"])
            .env(VARIABLE, name)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .output()
            .expect("the child runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("deadlock; threads"),
            "{name} is not found: {said}"
        );
    }
}
