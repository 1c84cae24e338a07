//! A worker process: holds connections, takes orders from its standard input, reports to its standard output.
//!
//! One thread and no locks. What a connection costs here is stated in `connection`; what a worker costs beside its
//! connections is one read buffer and, once something was timed, one histogram per kind of latency.

mod connection;
mod engine;
mod follow;
mod talk;
mod writers;

pub use engine::Engine;
pub use writers::Text;

use crate::control::{Order, Report};
use crate::sockets;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};

/// Time between tallies, nanoseconds.
const TALLY_NS: u64 = 100_000_000;

/// Runs until the coordinator says [`Order::Exit`] or goes away.
///
/// # Errors
/// Orders that cannot be understood, or a kernel that refuses epoll; the coordinator is told why.
pub fn run() -> Result<()> {
    sockets::end_with_parent();
    sockets::raise_descriptor_limit();
    sockets::wake_on_time();
    // Not `std::io::stdin()` itself: epoll does not see what that has read ahead.
    let orders = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("no standard input")?;
    let mut worker = Worker {
        orders: File::from(orders),
        engine: None,
        pending: Vec::new(),
        is_over: false,
    };
    let outcome = worker.serve();
    if let Err(error) = &outcome {
        report(&Report::Failed(format!("{error:#}")))?;
    }
    outcome
}

/// Orders read and not yet carried out, and the engine once there is a plan.
struct Worker {
    orders: File,
    engine: Option<Engine>,
    pending: Vec<u8>,
    is_over: bool,
}

impl Worker {
    fn serve(&mut self) -> Result<()> {
        let mut next_tally_ns = sockets::monotonic_ns() + TALLY_NS;
        while !self.is_over {
            let has_orders = match &mut self.engine {
                Some(engine) => engine.turn(next_tally_ns)?,
                // Without a plan there is nothing to do but to wait for one.
                None => true,
            };
            if has_orders {
                self.take_orders()?;
            }
            if let Some(engine) = self
                .engine
                .as_mut()
                .filter(|_| sockets::monotonic_ns() >= next_tally_ns)
            {
                report(&Report::Tally(Box::new(engine.tally())))?;
                next_tally_ns = sockets::monotonic_ns() + TALLY_NS;
            }
        }
        Ok(())
    }

    /// Reads once, which waits only if nothing has arrived, and carries out all complete orders.
    fn take_orders(&mut self) -> Result<()> {
        let mut chunk = [0; 4096];
        let count = self
            .orders
            .read(&mut chunk)
            .context("the coordinator cannot be heard")?;
        if count == 0 {
            self.is_over = true;
        }
        self.pending.extend_from_slice(&chunk[..count]);
        while let Some(end) = memchr::memchr(b'\n', &self.pending) {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let order = serde_json::from_slice(&line).context("an order that is none")?;
            self.carry_out(order)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, order: Order) -> Result<()> {
        if let Order::Plan(plan) = order {
            self.engine = Some(Engine::new(*plan, self.orders.as_raw_fd())?);
            return Ok(());
        }
        let Some(engine) = &mut self.engine else {
            bail!("an order before the plan");
        };
        match order {
            Order::Open {
                target,
                per_second,
                abort,
            } => engine.open(target, per_second, abort),
            Order::Act {
                group,
                activity,
                writing,
                started_ns,
            } => engine.act(group, activity, writing, started_ns),
            Order::Rest => engine.rest(),
            Order::Forget => engine.forget(),
            Order::Count => report(&Report::Counted(Box::new(engine.counted())))?,
            Order::Last => report(&Report::Last(engine.last()))?,
            Order::Audit(written) => report(&Report::Audited(engine.audit(&written)))?,
            Order::Reconnect(reconnect) => engine.set_reconnect(reconnect),
            Order::Plan(_) => {}
            Order::Exit => self.is_over = true,
        }
        Ok(())
    }
}

fn report(report: &Report) -> Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)
        .and_then(|()| out.flush())
        .context("the coordinator does not listen")
}
