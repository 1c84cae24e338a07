//! What the kernel knows about the server, the machine and the load tester itself, read from `/proc`.
//!
//! Every reader takes text or a process id and gives figures or an error that names the file; nothing is guessed when a
//! file cannot be read. A reading costs the load tester well under a millisecond for an ordinary process, except
//! [`process_memory`]: the kernel walks the page tables of the process for it.

mod cpu;
mod kernel;
pub mod machine;
mod process;
mod slope;

pub use cpu::{CpuReading, CpuSpent, cpu, own_cpu};
pub use kernel::kernel_memory;
pub use process::{process_memory, resident_bytes, total_memory};
pub use slope::{SlopeRange, memory, slope};

use std::fs;

use anyhow::{Context, Result};

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// The figure of a line `Name:   123 kB`, in bytes.
fn kilobytes_line(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?.strip_prefix(':')?;
        let figure: u64 = rest.split_whitespace().next()?.parse().ok()?;
        Some(figure * 1024)
    })
}
