//! The worker processes, seen from the coordinator.

use crate::control::{Audit, Counted, Order, Plan, Report, Tally, Written};
use crate::result::{RecordedLatency, new_histogram};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// The hidden subcommand that makes this binary a worker.
pub const WORKER_COMMAND: &str = "worker";

/// How long a worker may take to answer a question.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// Threads that only read lines need little stack.
const READER_STACK_BYTES: usize = 64 * 1024;

struct WorkerProcess {
    child: Child,
    orders: ChildStdin,
    connections: u32,
    tally: Tally,
}

/// All workers of a run. Dropping it ends them.
pub struct Fleet {
    workers: Vec<WorkerProcess>,
    reports: Receiver<(usize, Option<Report>)>,
}

/// Counts and latencies of all workers.
#[derive(Default)]
pub struct Totals {
    /// The counts.
    pub tally: Tally,
    /// By what was timed.
    pub latencies: BTreeMap<String, Histogram<u64>>,
    /// Each worker's own counts.
    pub workers: Vec<Tally>,
}

impl Fleet {
    /// Starts one process for each plan.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn start(plans: &[Plan]) -> Result<Self> {
        let program = std::env::current_exe().context("the tool cannot find its own binary")?;
        let (sender, reports) = channel();
        let mut fleet = Fleet {
            workers: Vec::new(),
            reports,
        };
        for (index, plan) in plans.iter().enumerate() {
            let mut child = Command::new(&program)
                .arg(WORKER_COMMAND)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("a worker process cannot be started")?;
            let output = BufReader::new(child.stdout.take().expect("piped"));
            let orders = child.stdin.take().expect("piped");
            let sender = sender.clone();
            std::thread::Builder::new()
                .stack_size(READER_STACK_BYTES)
                .spawn(move || forward(index, output, &sender))
                .context("a thread for a worker cannot be started")?;
            fleet.workers.push(WorkerProcess {
                child,
                orders,
                connections: plan.groups.iter().map(|group| group.count).sum(),
                tally: Tally::default(),
            });
            fleet.order(index, &Order::Plan(Box::new(plan.clone())))?;
        }
        Ok(fleet)
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Their process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.workers.iter().map(|worker| worker.child.id()).collect()
    }

    /// Tells one worker.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn order(&mut self, worker: usize, order: &Order) -> Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.workers[worker]
            .orders
            .write_all(&line)
            .with_context(|| format!("worker {worker} has ended"))
    }

    /// Tells all workers.
    ///
    /// # Errors
    /// A worker has ended.
    pub fn order_all(&mut self, order: &Order) -> Result<()> {
        (0..self.workers.len()).try_for_each(|worker| self.order(worker, order))
    }

    /// Has the workers of a range hold so many connections together, spread evenly.
    ///
    /// # Errors
    /// A worker has ended.
    pub fn open(
        &mut self,
        workers: std::ops::Range<usize>,
        connections: u32,
        per_second: f64,
        abort: bool,
    ) -> Result<()> {
        let all: u64 = self.workers[workers.clone()]
            .iter()
            .map(|worker| u64::from(worker.connections))
            .sum();
        let count = workers.len() as f64;
        let mut before = 0u64;
        for index in workers {
            // Shares of running sums, so that they add up exactly.
            let share = |sum: u64| sum * u64::from(connections) / all.max(1);
            let after = before + u64::from(self.workers[index].connections);
            let order = Order::Open {
                target: (share(after) - share(before)) as u32,
                per_second: per_second / count,
                abort,
            };
            self.order(index, &order)?;
            before = after;
        }
        Ok(())
    }

    /// Connections that some workers held at their latest tally.
    pub fn ready_of(&self, workers: std::ops::Range<usize>) -> u32 {
        self.workers[workers].iter().map(|worker| worker.tally.ready).sum()
    }

    /// The sum of the latest tallies.
    pub fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        self.workers.iter().for_each(|worker| sum.add(&worker.tally));
        sum
    }

    /// Lets time pass until `enough` or the deadline, calling `watch` with each new sum. True if it was enough.
    ///
    /// # Errors
    /// A worker failed or ended.
    pub fn watch(
        &mut self,
        deadline: Instant,
        mut watch: impl FnMut(&Tally),
        mut enough: impl FnMut(&Tally) -> bool,
    ) -> Result<bool> {
        loop {
            let sum = self.tally();
            watch(&sum);
            if enough(&sum) {
                return Ok(true);
            }
            let tick = deadline.min(Instant::now() + Duration::from_millis(100));
            loop {
                let left = tick.saturating_duration_since(Instant::now());
                match self.next(left)? {
                    Some((_, report)) => bail!("a worker answered what was not asked: {report:?}"),
                    None if left.is_zero() => break,
                    None => {}
                }
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
        }
    }

    /// The next answer within the time; tallies are taken in silently.
    fn next(&mut self, within: Duration) -> Result<Option<(usize, Report)>> {
        match self.reports.recv_timeout(within) {
            Ok((worker, Some(Report::Tally(tally)))) => {
                self.workers[worker].tally = *tally;
                Ok(None)
            }
            Ok((worker, Some(Report::Failed(reason)))) => bail!("worker {worker}: {reason}"),
            Ok((worker, Some(report))) => Ok(Some((worker, report))),
            Ok((worker, None)) => bail!("worker {worker} ended before its time"),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("all workers ended"),
        }
    }

    /// Asks all workers and gives their answers.
    fn ask(&mut self, question: &Order) -> Result<Vec<Report>> {
        self.order_all(question)?;
        let deadline = Instant::now() + ANSWER_PATIENCE;
        let mut answers: Vec<Option<Report>> = Vec::new();
        answers.resize_with(self.workers.len(), || None);
        while answers.iter().any(Option::is_none) {
            if let Some((worker, report)) = self.next(deadline.saturating_duration_since(Instant::now()))? {
                answers[worker] = Some(report);
            }
            if Instant::now() >= deadline {
                bail!("a worker does not answer");
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Counts and latencies as of now.
    ///
    /// # Errors
    /// A worker failed or does not answer.
    pub fn count(&mut self) -> Result<Totals> {
        let mut totals = Totals::default();
        for (index, report) in self.ask(&Order::Count)?.into_iter().enumerate() {
            let Report::Counted(counted) = report else {
                bail!("worker {index} did not count");
            };
            let Counted { tally, latencies } = *counted;
            totals.tally.add(&tally);
            for (name, recorded) in latencies {
                let histogram = totals.latencies.entry(name).or_insert_with(new_histogram);
                RecordedLatency::add_to(&recorded, histogram);
            }
            self.workers[index].tally = tally.clone();
            totals.workers.push(tally);
        }
        Ok(totals)
    }

    /// Compares what was written with what arrived, everywhere.
    ///
    /// # Errors
    /// A worker failed or does not answer.
    pub fn audit(&mut self) -> Result<Audit> {
        let mut written: Vec<Written> = Vec::new();
        for report in self.ask(&Order::Last)? {
            if let Report::Last(part) = report {
                written.extend(part);
            }
        }
        let mut audit = Audit::default();
        for report in self.ask(&Order::Audit(written))? {
            if let Report::Audited(part) = report {
                audit.add(&part);
            }
        }
        Ok(audit)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for worker in 0..self.workers.len() {
            // A worker that has ended needs no order to end.
            let _ = self.order(worker, &Order::Exit);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        for worker in &mut self.workers {
            while matches!(worker.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            if matches!(worker.child.try_wait(), Ok(None)) {
                let _ = worker.child.kill();
                let _ = worker.child.wait();
            }
        }
    }
}

/// Passes a worker's reports on; `None` when it has ended.
fn forward(worker: usize, output: impl BufRead, sender: &Sender<(usize, Option<Report>)>) {
    for line in output.lines() {
        let report = line.ok().and_then(|line| serde_json::from_str(&line).ok());
        let is_end = report.is_none();
        if sender.send((worker, report)).is_err() || is_end {
            return;
        }
    }
    let _ = sender.send((worker, None));
}
