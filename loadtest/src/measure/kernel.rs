//! Kernel memory of the machine: slab, page tables, sockets, and the object caches a connection lives in.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use super::{kilobytes_line, read};
use crate::result::{KernelMemory, SlabCache, Sockets};

/// Caches a connection may have objects in, on either side, whether it is polled by epoll or by io_uring.
const CONNECTION_CACHES: [&str; 18] = [
    "TCP",
    "TCPv6",
    "tw_sock_TCP",
    "sock_inode_cache",
    "filp",
    "dentry",
    "lsm_inode_cache",
    "lsm_file_cache",
    "io_kiocb",
    "eventpoll_epi",
    "eventpoll_pwq",
    "ep_head",
    "skbuff_head_cache",
    "skbuff_small_head",
    "skbuff_fclone_cache",
    "nf_conntrack",
    "pid",
    "task_struct",
];

/// The general caches that objects without a cache of their own come from: socket wait queues, poll entries, options.
const GENERAL_CACHES: &str = "kmalloc-";

/// Reads the kernel memory of this machine. `/proc/slabinfo` needs root; without it the caches stay empty.
pub fn kernel_memory() -> Result<KernelMemory> {
    let memory = read("/proc/meminfo")?;
    let sockets = read("/proc/net/sockstat")?;
    // Absent where the kernel has no IPv6.
    let sockets6 = fs::read_to_string("/proc/net/sockstat6").unwrap_or_default();
    let caches = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let mut kernel = parse_memory(&memory).context("/proc/meminfo lacks an expected line")?;
    kernel.sockets = parse_sockets(&sockets, &sockets6, page_bytes());
    kernel.caches = parse_caches(&caches, page_bytes());
    Ok(kernel)
}

fn parse_memory(text: &str) -> Option<KernelMemory> {
    let of = |name| kilobytes_line(text, name);
    Some(KernelMemory {
        slab_bytes: of("Slab")?,
        slab_unreclaimable_bytes: of("SUnreclaim")?,
        page_tables_bytes: of("PageTables")?,
        kernel_stacks_bytes: of("KernelStack")?,
        vmalloc_bytes: of("VmallocUsed")?,
        unavailable_bytes: of("MemTotal")?.saturating_sub(of("MemAvailable")?),
        ..KernelMemory::default()
    })
}

/// `TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 0`, the last in pages and shared by both address families.
fn parse_sockets(ipv4: &str, ipv6: &str, page_bytes: u64) -> Sockets {
    let of = |text: &str, line: &str, name: &str| -> u64 {
        let mut words = text
            .lines()
            .find(|found| found.starts_with(line))
            .unwrap_or("")
            .split_whitespace();
        words.find(|word| *word == name);
        words.next().and_then(|figure| figure.parse().ok()).unwrap_or(0)
    };
    Sockets {
        used: of(ipv4, "sockets:", "used"),
        tcp_in_use: of(ipv4, "TCP:", "inuse") + of(ipv6, "TCP6:", "inuse"),
        tcp_orphaned: of(ipv4, "TCP:", "orphan"),
        tcp_time_wait: of(ipv4, "TCP:", "tw"),
        tcp_allocated: of(ipv4, "TCP:", "alloc"),
        tcp_memory_bytes: of(ipv4, "TCP:", "mem") * page_bytes,
    }
}

/// `name active_objs num_objs objsize objperslab pagesperslab : tunables … : slabdata active_slabs num_slabs …`
fn parse_caches(text: &str, page_bytes: u64) -> BTreeMap<String, SlabCache> {
    let mut caches = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let figure = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
        let Some(name) = words.first().filter(|name| belongs_to_connections(name)) else {
            continue;
        };
        if let (Some(objects), Some(object_bytes), Some(pages), Some(slabs)) =
            (figure(1), figure(3), figure(5), figure(14))
        {
            let bytes = slabs * pages * page_bytes;
            caches.insert(
                (*name).to_owned(),
                SlabCache {
                    objects,
                    object_bytes,
                    bytes,
                },
            );
        }
    }
    caches
}

fn belongs_to_connections(name: &str) -> bool {
    CONNECTION_CACHES.contains(&name) || name.starts_with(GENERAL_CACHES)
}

fn page_bytes() -> u64 {
    // SAFETY: sysconf takes an integer and touches no memory of ours.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).expect("every Linux has a page size")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_address_families_are_counted_and_memory_is_in_pages() {
        let ipv4 = "sockets: used 18\nTCP: inuse 5 orphan 1 tw 2 alloc 9 mem 3\nUDP: inuse 4 mem 7\n";
        let sockets = parse_sockets(ipv4, "TCP6: inuse 6\nUDP6: inuse 0\n", 4096);
        let expected = Sockets {
            used: 18,
            tcp_in_use: 11,
            tcp_orphaned: 1,
            tcp_time_wait: 2,
            tcp_allocated: 9,
            tcp_memory_bytes: 3 * 4096,
        };
        assert_eq!(sockets, expected);
    }

    #[test]
    fn caches_are_read_by_pages_held_and_others_left_out() {
        let text = "slabinfo - version: 2.1\n# name <active_objs>\n\
            TCP  100 104 2368 13 8 : tunables 0 0 0 : slabdata 8 8 0\n\
            xfs_inode 5 5 1024 16 4 : tunables 0 0 0 : slabdata 1 1 0\n\
            kmalloc-64 640 704 64 64 1 : tunables 0 0 0 : slabdata 11 11 0\n";
        let caches = parse_caches(text, 4096);
        assert_eq!(caches.keys().collect::<Vec<_>>(), ["TCP", "kmalloc-64"]);
        assert_eq!(
            caches["TCP"],
            SlabCache {
                objects: 100,
                object_bytes: 2368,
                bytes: 8 * 8 * 4096
            }
        );
    }

    #[test]
    fn this_machine_has_slab_memory() {
        let kernel = kernel_memory().expect("a Linux machine");
        assert!(kernel.slab_bytes >= kernel.slab_unreclaimable_bytes && kernel.slab_unreclaimable_bytes > 0);
        assert!(kernel.unavailable_bytes > 0 && kernel.page_tables_bytes > 0);
    }

    #[test]
    fn a_missing_line_is_no_figure() {
        assert_eq!(parse_memory("MemTotal: 1 kB\n"), None);
    }
}
