//! Which worker holds which connections.

use crate::control::{Abilities, Group, Plan};
use crate::options::Common;
use crate::sockets;
use crate::target::{Sources, Target};
use anyhow::{Result, ensure};
use std::ops::Range;

/// Most connections of one worker process; below the descriptor limit of most machines and of container runtimes.
const CONNECTIONS_PER_WORKER_MAX: u32 = 19_000;

/// Descriptors a worker needs beside its connections.
const OTHER_DESCRIPTORS: u64 = 64;

/// Connections of a run, before they are given to workers: `first` is 0 and `count` the total of each group.
#[derive(Default)]
pub struct Layout {
    /// Spread evenly over the workers.
    pub spread: Vec<Group>,
    /// Held by one more worker of their own, so that many idle connections do not stand beside those that are timed.
    pub own: Vec<Group>,
}

/// The plans of all workers, and which of them hold what.
pub struct Placed {
    /// One per worker.
    pub plans: Vec<Plan>,
    /// The workers of the spread groups.
    pub spread: Range<usize>,
    /// The worker of the own groups.
    pub own: Range<usize>,
}

impl Layout {
    /// All connections.
    pub fn connections(&self) -> u32 {
        total(&self.spread) + total(&self.own)
    }

    /// Gives the connections to workers.
    ///
    /// # Errors
    /// More own connections than one worker can hold.
    pub fn place(mut self, common: &Common, target: &Target, abilities: Abilities) -> Result<Placed> {
        let limit = sockets::raise_descriptor_limit();
        let capacity = u32::try_from(limit.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(u32::MAX);
        let capacity = capacity.clamp(1, CONNECTIONS_PER_WORKER_MAX);
        ensure!(
            total(&self.own) <= capacity,
            "{} timed connections are more than one process can hold here ({capacity})",
            total(&self.own)
        );
        let mut identity = 0;
        for group in self.spread.iter_mut().chain(&mut self.own) {
            group.identity_base = identity;
            identity += group.count;
        }
        let spread_total = total(&self.spread);
        let workers = match spread_total {
            0 => 0,
            _ => spread_total
                .div_ceil(capacity)
                .max(common.workers.unwrap_or(1))
                .min(spread_total),
        };
        let mut groups_of: Vec<Vec<Group>> = (0..workers)
            .map(|worker| self.spread.iter().map(|group| part(group, worker, workers)).collect())
            .collect();
        if !self.own.is_empty() {
            groups_of.push(self.own);
        }
        let processes = groups_of.len() as u32;
        let sources = Sources::choose(target, &common.source_address)?;
        let plan = |groups| -> Result<Plan> {
            Ok(Plan {
                target: target.clone(),
                dialect: common.dialect,
                encoding: common.encoding,
                credentials: common.credentials(target)?,
                sources: sources.clone(),
                abilities,
                groups,
                handshakes_max: (common.handshakes / processes).max(1),
                step_timeout_ms: common.step_timeout_ms,
                ping_interval_ms: common.ping_interval_ms,
                reconnect: false,
            })
        };
        let plans = groups_of.into_iter().map(plan).collect::<Result<Vec<Plan>>>()?;
        let spread = 0..workers as usize;
        let own = spread.end..plans.len();
        Ok(Placed { plans, spread, own })
    }
}

fn total(groups: &[Group]) -> u32 {
    groups.iter().map(|group| group.count).sum()
}

/// What one of `workers` workers holds of a group.
fn part(group: &Group, worker: u32, workers: u32) -> Group {
    let share = |index: u32| (u64::from(group.count) * u64::from(index) / u64::from(workers)) as u32;
    Group {
        first: share(worker),
        count: share(worker + 1) - share(worker),
        ..group.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        common: Common,
    }

    fn group(count: u32) -> Group {
        Group {
            first: 0,
            count,
            identity_base: 0,
            prefix: "d".to_owned(),
            documents: 1,
            subscribe: true,
            awareness: false,
            followed_writers: 0,
            fields: 1,
        }
    }

    #[test]
    fn every_connection_is_given_to_exactly_one_worker() {
        let common = Line::parse_from(["loadtest", "--workers", "3"]).common;
        let target = Target::parse("ws://127.0.0.1:1").expect("a URL");
        let layout = Layout {
            spread: vec![group(10), group(40_001)],
            own: vec![group(7)],
        };
        let placed = layout.place(&common, &target, Abilities::default()).expect("fits");
        assert_eq!((placed.spread.clone(), placed.own.clone()), (0..3, 3..4));
        for (index, count) in [(0, 10), (1, 40_001)] {
            let mut next = 0;
            for plan in &placed.plans[placed.spread.clone()] {
                assert_eq!(plan.groups[index].first, next);
                next += plan.groups[index].count;
            }
            assert_eq!(next, count);
        }
        assert_eq!(placed.plans[0].groups[1].identity_base, 10);
        assert_eq!(placed.plans[3].groups[0].identity_base, 40_011);
    }
}
