//! Bytes per connection: lines through memory samples at different connection counts.

use std::collections::{BTreeMap, BTreeSet};

use crate::result::{KernelMemory, Memory, MemorySample, MemorySlopes, ProcessMemory, Slope};

/// The samples a slope is fitted over, and who owns which kernel objects.
#[derive(Clone, Debug)]
pub struct SlopeRange {
    /// Samples at fewer connections than this are left out: they carry what a server allocates once.
    pub from_connections: u64,
    pub to_connections: u64,
    /// Object caches of which only the server has objects, such as `io_kiocb` when the load tester uses epoll.
    pub server_caches: Vec<String>,
    /// Object caches of which only the load tester has objects, such as `eventpoll_epi` against an io_uring server.
    pub client_caches: Vec<String>,
}

impl Default for SlopeRange {
    fn default() -> Self {
        Self {
            from_connections: 0,
            to_connections: u64::MAX,
            server_caches: Vec::new(),
            client_caches: Vec::new(),
        }
    }
}

/// A line through (connections, bytes). `None` unless there are two different connection counts.
pub fn slope(points: &[(u64, f64)]) -> Option<Slope> {
    let fewest = points.iter().map(|point| point.0).min()?;
    let most = points.iter().map(|point| point.0).max()?;
    if fewest == most {
        return None;
    }
    let count = points.len() as f64;
    let mean_connections = points.iter().map(|point| point.0 as f64).sum::<f64>() / count;
    let mean_bytes = points.iter().map(|point| point.1).sum::<f64>() / count;
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (connections, bytes) in points {
        let (x, y) = (*connections as f64 - mean_connections, bytes - mean_bytes);
        xx += x * x;
        xy += x * y;
        yy += y * y;
    }
    let per_connection = xy / xx;
    let rise = median_at(points, most) - median_at(points, fewest);
    Some(Slope {
        bytes_per_connection: per_connection,
        endpoints_bytes_per_connection: rise / (most - fewest) as f64,
        base_bytes: mean_bytes - per_connection * mean_connections,
        from_connections: fewest,
        to_connections: most,
        samples: points.len(),
        // A flat line through equal values explains all there is to explain.
        r_squared: if yy > 0.0 { xy * xy / (xx * yy) } else { 1.0 },
    })
}

/// The memory of a run: its samples, the server's part of the kernel memory in each, and the slopes through them.
pub fn memory(mut samples: Vec<MemorySample>, range: &SlopeRange) -> Memory {
    for sample in &mut samples {
        let parts = sample.kernel.as_ref().zip(sample.server.as_ref());
        sample.kernel_server_bytes =
            parts.map(|(kernel, server)| server_part(kernel, range).round() as u64 + server.page_tables_bytes);
    }
    let slopes = slopes(&samples, range);
    Memory { samples, slopes }
}

fn slopes(samples: &[MemorySample], range: &SlopeRange) -> MemorySlopes {
    let counted = range.from_connections..=range.to_connections;
    let samples: Vec<&MemorySample> = samples
        .iter()
        .filter(|sample| counted.contains(&sample.connections))
        .collect();
    let names = cache_names(&samples);
    let server = |of: fn(&ProcessMemory) -> u64| {
        fit(&samples, |sample| {
            sample.server.as_ref().map(|memory| of(memory) as f64)
        })
    };
    let kernel = |of: &dyn Fn(&KernelMemory) -> f64| fit(&samples, |sample| sample.kernel.as_ref().map(of));
    MemorySlopes {
        user_rss: server(|memory| memory.rss_bytes),
        user_pss: server(|memory| memory.pss_bytes),
        user_private: server(|memory| memory.private_bytes),
        user_anonymous: server(|memory| memory.anonymous_bytes),
        kernel_machine: kernel(&|memory| objects_bytes(memory) + memory.page_tables_bytes as f64),
        kernel_server: fit(&samples, |sample| sample.kernel_server_bytes.map(|bytes| bytes as f64)),
        machine_unavailable: kernel(&|memory| memory.unavailable_bytes as f64),
        client_rss: fit(&samples, |sample| {
            sample.client.as_ref().map(|memory| memory.rss_bytes as f64)
        }),
        caches: cache_slopes(&samples, &names),
        attribution: attribution(range, &names),
    }
}

fn fit(samples: &[&MemorySample], bytes: impl Fn(&MemorySample) -> Option<f64>) -> Option<Slope> {
    let points: Vec<(u64, f64)> = samples
        .iter()
        .filter_map(|sample| Some((sample.connections, bytes(sample)?)))
        .collect();
    slope(&points)
}

fn median_at(points: &[(u64, f64)], connections: u64) -> f64 {
    let mut values: Vec<f64> = points
        .iter()
        .filter(|point| point.0 == connections)
        .map(|point| point.1)
        .collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

/// Slab that connections can be in, and vmalloc. Socket inodes and their dentries count as reclaimable, together with
/// the file caches of everything else on the machine; so inodes come from their own cache, and dentries are one per
/// socket inode. Without `/proc/slabinfo` all slab counts.
fn objects_bytes(memory: &KernelMemory) -> f64 {
    let vmalloc = memory.vmalloc_bytes as f64;
    let Some(inodes) = memory.caches.get("sock_inode_cache") else {
        return memory.slab_bytes as f64 + vmalloc;
    };
    let dentry_bytes = memory.caches.get("dentry").map_or(0, |cache| cache.object_bytes);
    (memory.slab_unreclaimable_bytes + inodes.bytes + inodes.objects * dentry_bytes) as f64 + vmalloc
}

fn server_part(memory: &KernelMemory, range: &SlopeRange) -> f64 {
    let held = |names: &[String]| -> f64 {
        names
            .iter()
            .filter_map(|name| memory.caches.get(name))
            .map(|cache| cache.bytes as f64)
            .sum()
    };
    let server_only = held(&range.server_caches);
    (objects_bytes(memory) - server_only - held(&range.client_caches)) / 2.0 + server_only
}

/// The caches that were read. The kernel merges caches of like objects, and then shows one name only.
fn cache_names<'a>(samples: &[&'a MemorySample]) -> BTreeSet<&'a String> {
    let kernels = samples.iter().filter_map(|sample| sample.kernel.as_ref());
    kernels.flat_map(|kernel| kernel.caches.keys()).collect()
}

/// Caches whose growth is less than a byte per connection are noise of the machine.
fn cache_slopes(samples: &[&MemorySample], names: &BTreeSet<&String>) -> BTreeMap<String, Slope> {
    names
        .iter()
        .copied()
        .filter_map(|name| {
            let line = fit(samples, |sample| {
                Some(
                    sample
                        .kernel
                        .as_ref()?
                        .caches
                        .get(name)
                        .copied()
                        .unwrap_or_default()
                        .bytes as f64,
                )
            })?;
            (line.bytes_per_connection.abs() >= 1.0).then(|| (name.clone(), line))
        })
        .collect()
}

fn attribution(range: &SlopeRange, read: &BTreeSet<&String>) -> String {
    if read.is_empty() {
        return "half of the machine's slab and vmalloc growth, plus the server's page tables; /proc/slabinfo could \
                not be read, so growth of file caches is counted too"
            .to_owned();
    }
    let mut rule = "half of the growth of unreclaimable slab, socket inodes, their dentries and vmalloc (both ends of \
                    every connection are in this kernel), plus the server's page tables"
        .to_owned();
    for (names, owner) in [
        (&range.server_caches, "the server"),
        (&range.client_caches, "the load tester"),
    ] {
        let names: Vec<&str> = names
            .iter()
            .filter(|name| read.contains(name))
            .map(String::as_str)
            .collect();
        if !names.is_empty() {
            rule += &format!("; {} wholly to {owner}", names.join(", "));
        }
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::SlabCache;

    fn sample(connections: u64, per_connection: u64) -> MemorySample {
        let caches = [
            ("TCP", 4736, 2),
            ("sock_inode_cache", 832, 2),
            ("dentry", 192, 40),
            ("io_kiocb", 256, 1),
        ]
        .map(|(name, bytes, objects)| {
            let cache = SlabCache {
                objects: connections * objects,
                object_bytes: bytes,
                bytes: connections * bytes * if name == "TCP" { 1 } else { objects },
            };
            (name.to_owned(), cache)
        });
        MemorySample {
            connections,
            server: Some(ProcessMemory {
                rss_bytes: 5_000_000 + connections * per_connection,
                ..Default::default()
            }),
            kernel: Some(KernelMemory {
                slab_unreclaimable_bytes: 90_000_000 + connections * (4736 + 256),
                // Files read meanwhile by others must not count.
                slab_bytes: connections * 99_999,
                caches: caches.into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_straight_line_is_found_exactly() {
        let line = slope(&[(0, 1000.0), (10, 3560.0), (20, 6120.0)]).expect("two counts");
        assert!((line.bytes_per_connection - 256.0).abs() < 1e-9);
        assert!((line.endpoints_bytes_per_connection - 256.0).abs() < 1e-9);
        assert!((line.base_bytes - 1000.0).abs() < 1e-9 && (line.r_squared - 1.0).abs() < 1e-9);
        assert_eq!((line.from_connections, line.to_connections, line.samples), (0, 20, 3));
    }

    #[test]
    fn one_connection_count_has_no_slope() {
        assert_eq!(slope(&[(10, 1.0), (10, 2.0)]), None);
        assert_eq!(slope(&[]), None);
    }

    #[test]
    fn endpoints_take_the_median_of_their_samples() {
        let line = slope(&[(0, 0.0), (10, 100.0), (10, 100.0), (10, 9_000.0)]).expect("two counts");
        assert_eq!(line.endpoints_bytes_per_connection, 10.0);
        assert!(line.bytes_per_connection > 10.0 && line.r_squared < 1.0);
    }

    #[test]
    fn samples_below_the_range_do_not_bend_the_line() {
        let mut samples: Vec<MemorySample> = [100, 200, 300].map(|count| sample(count * 1000, 256)).into();
        samples.push(sample(10, 1_000_000));
        let range = SlopeRange {
            from_connections: 100_000,
            ..SlopeRange::default()
        };
        let line = memory(samples, &range).slopes.user_rss.expect("three samples");
        assert!((line.bytes_per_connection - 256.0).abs() < 1e-6, "{line:?}");
        assert_eq!(line.from_connections, 100_000);
    }

    #[test]
    fn kernel_memory_is_halved_but_for_what_one_side_owns() {
        let samples = [100_000, 200_000, 300_000].map(|count| sample(count, 0)).into();
        let range = SlopeRange {
            server_caches: vec!["io_kiocb".into(), "merged_into_another".into()],
            ..SlopeRange::default()
        };
        let lines = memory(samples, &range).slopes;
        let both_ends = 4736.0 + 2.0 * 832.0 + 2.0 * 192.0;
        let close = |line: Option<Slope>, bytes: f64| {
            let measured = line.expect("three samples").bytes_per_connection;
            assert!((measured - bytes).abs() < 1e-3, "{measured} for {bytes}");
        };
        close(lines.kernel_machine, both_ends + 256.0);
        close(lines.kernel_server, both_ends / 2.0 + 256.0);
        assert!(lines.attribution.ends_with("; io_kiocb wholly to the server"));
        assert!((lines.caches["io_kiocb"].bytes_per_connection - 256.0).abs() < 1e-6);
    }

    #[test]
    fn nothing_sampled_is_nothing_measured() {
        let lines = memory(Vec::new(), &SlopeRange::default()).slopes;
        assert_eq!(lines.user_rss, None);
        assert_eq!(lines.kernel_machine, None);
        assert!(lines.caches.is_empty());
    }
}
