//! User memory of processes.

use anyhow::{Context, Result};

use super::{kilobytes_line, read};
use crate::result::ProcessMemory;

/// Memory of one process. Needs the right to trace it for `smaps_rollup` (same user, or root).
pub fn process_memory(pid: u32) -> Result<ProcessMemory> {
    let rollup = read(&format!("/proc/{pid}/smaps_rollup"))?;
    let status = read(&format!("/proc/{pid}/status"))?;
    parse(&rollup, &status).with_context(|| format!("process {pid} has no memory figures: a kernel thread or a zombie"))
}

/// The sum over several processes of one program, such as the load tester's workers.
pub fn total_memory(pids: &[u32]) -> Result<ProcessMemory> {
    pids.iter().try_fold(ProcessMemory::default(), |sum, pid| {
        let one = process_memory(*pid)?;
        Ok(ProcessMemory {
            rss_bytes: sum.rss_bytes + one.rss_bytes,
            pss_bytes: sum.pss_bytes + one.pss_bytes,
            private_bytes: sum.private_bytes + one.private_bytes,
            anonymous_bytes: sum.anonymous_bytes + one.anonymous_bytes,
            page_tables_bytes: sum.page_tables_bytes + one.page_tables_bytes,
        })
    })
}

/// Resident memory alone, cheap enough to read often.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = read(&format!("/proc/{pid}/status"))?;
    kilobytes_line(&status, "VmRSS").with_context(|| format!("process {pid} has no VmRSS"))
}

fn parse(rollup: &str, status: &str) -> Option<ProcessMemory> {
    let of = |name| kilobytes_line(rollup, name);
    Some(ProcessMemory {
        rss_bytes: of("Rss")?,
        pss_bytes: of("Pss")?,
        private_bytes: of("Private_Clean")? + of("Private_Dirty")? + of("Private_Hugetlb").unwrap_or(0),
        anonymous_bytes: of("Anonymous")?,
        page_tables_bytes: kilobytes_line(status, "VmPTE")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollup_and_status_are_read_in_bytes() {
        let rollup = "00400000-7ffe rollup\nRss:  2048 kB\nPss:  1500 kB\nPss_Dirty:  9 kB\nPrivate_Clean: 100 kB\n\
                      Private_Dirty: 24 kB\nAnonymous: 900 kB\n";
        let memory = parse(rollup, "Name:\tx\nVmPTE:\t  40 kB\n").expect("all lines");
        let expected = ProcessMemory {
            rss_bytes: 2048 * 1024,
            pss_bytes: 1500 * 1024,
            private_bytes: 124 * 1024,
            anonymous_bytes: 900 * 1024,
            page_tables_bytes: 40 * 1024,
        };
        assert_eq!(memory, expected);
        assert_eq!(parse("", ""), None);
    }

    #[test]
    fn touched_memory_shows_up_in_this_process() {
        let pid = std::process::id();
        let before = process_memory(pid).expect("own memory");
        let block = vec![1u8; 64 << 20];
        let after = process_memory(pid).expect("own memory");
        assert_eq!(block[block.len() / 2], 1);
        let grown = after.private_bytes.saturating_sub(before.private_bytes);
        assert!(grown >= 60 << 20, "64 MiB written, {grown} seen");
        assert!(resident_bytes(pid).expect("own status") >= 60 << 20);
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = process_memory(u32::MAX - 1).expect_err("no such process");
        assert!(format!("{error:#}").contains("/proc/4294967294/smaps_rollup"));
    }
}
