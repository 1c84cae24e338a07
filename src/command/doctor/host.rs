//! The machine: kernel, limits, settings, memory, port.

use super::{Finding, Verdict, megabytes};
use crate::config::{Config, SocketChoice};
use crate::runtime::machine::{Machine, could_listen};
use std::fs;

/// The settings that tuning/ installs, as they are there.
const WANTED: &str = include_str!("../../../tuning/sysctl.d/90-synckit.conf");
/// Settings whose lower values bound something on purpose: here the wanted value itself is compared. For all others more
/// is fine too.
const EXACT: [&str; 5] = [
    "kernel.io_uring_disabled",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_slow_start_after_idle",
];
/// Connections below which ordinary descriptors are a remark and not a warning.
const FEW_DESCRIPTORS: u64 = 65_536;

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

pub(super) fn number(path: &str) -> Option<u64> {
    text(path)?.parse().ok()
}

pub(super) fn kernel(machine: &Machine, config: &Config) -> Vec<Finding> {
    let release = text("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned());
    let mut findings = vec![match version(&release) {
        Some(version) if version < (5, 11) => Finding::bad(
            Verdict::Failure,
            "kernel",
            format!("Linux {release} is too old"),
            "a kernel of 5.11 or newer (6.7 for direct descriptors): apt install linux-image-generic, or a newer release",
        ),
        _ => Finding::fine("kernel", format!("Linux {release}")),
    }];
    findings.push(match &machine.executors {
        Ok(()) => Finding::fine("io_uring", "all operations there, a trial executor ran"),
        Err(error) => Finding::bad(Verdict::Failure, "io_uring", error.to_string(), "see the text"),
    });
    let ordinary = config.sockets == SocketChoice::Ordinary;
    findings.push(match &machine.direct {
        Ok(()) if ordinary => Finding::bad(
            Verdict::Warning,
            "direct descriptors",
            "work, and SYNCKIT_SOCKETS=ordinary forgoes them",
            "unset SYNCKIT_SOCKETS",
        ),
        Ok(()) => Finding::fine("direct descriptors", "work: connections need no descriptors"),
        Err(reason) => Finding::bad(
            if config.sockets == SocketChoice::Direct {
                Verdict::Failure
            } else {
                Verdict::Warning
            },
            "direct descriptors",
            format!("do not work ({reason}): each connection needs a descriptor"),
            "Linux 6.7 or newer, and a sandbox that allows io_uring (docs/operations.md)",
        ),
    });
    findings
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn limits(machine: &Machine, config: &Config, shards: u16) -> Vec<Finding> {
    let ordinary = config.sockets == SocketChoice::Ordinary || machine.direct.is_err();
    let hard = machine.descriptors_hard;
    let mut findings = vec![if hard < machine.descriptors_needed {
        Finding::bad(
            Verdict::Failure,
            "open files",
            format!(
                "the hard limit is {hard}, {shards} shards need {} to start",
                machine.descriptors_needed
            ),
            "LimitNOFILE=1048576 in the unit, ulimit -n 1048576, or docker run --ulimit nofile=1048576",
        )
    } else if ordinary && hard < FEW_DESCRIPTORS {
        Finding::bad(
            Verdict::Warning,
            "open files",
            format!("the hard limit is {hard}, and each connection needs one"),
            "LimitNOFILE=1048576 in the unit, ulimit -n 1048576, or docker run --ulimit nofile=1048576",
        )
    } else {
        Finding::fine(
            "open files",
            format!("soft limit {}, hard limit {hard}", machine.descriptors_soft),
        )
    }];
    findings.push(match machine.memlock_bytes {
        u64::MAX => Finding::fine("locked memory", "no limit"),
        limit if limit < 512 << 10 => Finding::bad(
            Verdict::Failure,
            "locked memory",
            format!("the limit is {limit} bytes, executors need 524288"),
            "LimitMEMLOCK=infinity in the unit, ulimit -l unlimited, or docker run --ulimit memlock=-1",
        ),
        limit => Finding::fine("locked memory", format!("{} KiB", limit >> 10)),
    });
    findings.push(if machine.processors < usize::from(shards) {
        Finding::bad(
            Verdict::Warning,
            "processors",
            format!("{shards} shards share {} processors", machine.processors),
            "SYNCKIT_SHARDS=0 takes one shard per processor",
        )
    } else {
        Finding::fine("processors", format!("{} for {shards} shards", machine.processors))
    });
    findings.push(match free_memory() {
        Some((free, source)) => Finding::fine("memory", format!("{} free ({source})", megabytes(free))),
        None => Finding::fine("memory", "unknown"),
    });
    if fs::metadata("/proc/self").is_ok_and(|entry| std::os::unix::fs::MetadataExt::uid(&entry) == 0) {
        findings.push(Finding::bad(
            Verdict::Warning,
            "user",
            "this is root; the server needs no privilege",
            "useradd --system synckit, and User=synckit in the unit (tuning/synckit-server.service)",
        ));
    }
    findings
}

/// Memory that connections could take: what the machine has available, or what is left of the control group.
pub(super) fn free_memory() -> Option<(u64, &'static str)> {
    let available = text("/proc/meminfo")?.lines().find_map(|line| {
        let kib = line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok()
    })? * 1024;
    let group = text("/proc/self/cgroup")?
        .lines()
        .find_map(|line| line.strip_prefix("0::").map(str::to_owned));
    let folder = format!("/sys/fs/cgroup{}", group.unwrap_or_default());
    let left = number(&format!("{folder}/memory.max"))
        .map(|max| max.saturating_sub(number(&format!("{folder}/memory.current")).unwrap_or(0)));
    match left {
        Some(left) if left < available => Some((left, "the control group's memory.max")),
        _ => Some((available, "memory of the machine")),
    }
}

/// Compares the kernel's settings with those of tuning/.
pub(super) fn settings(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fine = 0;
    let ordinary = config.sockets == SocketChoice::Ordinary;
    for line in WANTED.lines().map(str::trim) {
        let Some((name, wanted)) = line.split_once('=').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let (name, wanted) = (name.trim().trim_start_matches('-'), wanted.trim());
        // Descriptors bound nothing while connections need none.
        if name == "fs.nr_open" && !ordinary {
            continue;
        }
        let Some(found) = text(&format!("/proc/sys/{}", name.replace('.', "/"))) else {
            continue;
        };
        if suffices(name, wanted, &found) {
            fine += 1;
            continue;
        }
        let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
        findings.push(Finding::bad(
            Verdict::Warning,
            name,
            format!("is {found}; tuning/sysctl.d/90-synckit.conf has {wanted}"),
            format!("sudo sysctl -w {name}='{wanted}'"),
        ));
    }
    findings.push(Finding::fine("kernel settings", format!("{fine} as in tuning/")));
    findings
}

fn suffices(name: &str, wanted: &str, found: &str) -> bool {
    let numbers = |text: &str| -> Vec<u128> { text.split_whitespace().filter_map(|word| word.parse().ok()).collect() };
    let (wanted, found) = (numbers(wanted), numbers(found));
    if EXACT.contains(&name) {
        wanted == found
    } else {
        wanted.iter().zip(&found).all(|(wanted, found)| found >= wanted)
    }
}

pub(super) fn port(config: &Config) -> Finding {
    let address = config.listen_address();
    match could_listen(address) {
        Ok(()) => Finding::fine("port", format!("{address} is free")),
        Err(error) => Finding::bad(
            Verdict::Failure,
            "port",
            error.to_string(),
            format!("ss -ltnp 'sport = :{}'", address.port()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_compared_by_their_meaning() {
        assert!(suffices("net.core.somaxconn", "65535", "65535") && suffices("net.core.somaxconn", "4096", "65535"));
        assert!(!suffices("net.core.somaxconn", "65535", "4096"));
        assert!(suffices("fs.file-max", "9223372036854775807", "9223372036854775807"));
        assert!(suffices(
            "net.ipv4.tcp_rmem",
            "4096 131072 1048576",
            "4096\t131072\t1048576"
        ));
        assert!(!suffices(
            "net.ipv4.tcp_rmem",
            "4096 131072 1048576",
            "4096 131072 6291456"
        ));
        assert!(!suffices("kernel.io_uring_disabled", "0", "2"));
    }

    #[test]
    fn kernel_versions_are_understood() {
        assert_eq!(version("6.18.5"), Some((6, 18)));
        assert_eq!(version("5.10.0-28-amd64"), Some((5, 10)));
        assert_eq!(version("unknown"), None);
    }
}
