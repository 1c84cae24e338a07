//! What is checked before an executor starts, because glommio reports trouble late (at `join`) or by ending the process.

use super::error::StartError;
use super::sys;
use glommio::{LocalExecutorBuilder, Placement};
use io_uring::{IoUring, Probe, opcode};
use std::io;

/// glommio refuses to start an executor below this limit.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;
/// Descriptors of one shard before its first connection: glommio's and our rings, listener, bell, timer, epoll.
const DESCRIPTORS_PER_SHARD: u64 = 24;
/// Descriptors of the rest of the process: standard streams, storage, cluster, logs.
const DESCRIPTORS_BASE: u64 = 64;

/// What glommio 0.9.0 looks for; it ends the process when one is missing.
const GLOMMIO_OPERATIONS: [(u8, &str); 23] = [
    (opcode::Nop::CODE, "NOP"),
    (opcode::Readv::CODE, "READV"),
    (opcode::Writev::CODE, "WRITEV"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::ReadFixed::CODE, "READ_FIXED"),
    (opcode::WriteFixed::CODE, "WRITE_FIXED"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::PollRemove::CODE, "POLL_REMOVE"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::RecvMsg::CODE, "RECVMSG"),
    (opcode::Timeout::CODE, "TIMEOUT"),
    (opcode::TimeoutRemove::CODE, "TIMEOUT_REMOVE"),
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::LinkTimeout::CODE, "LINK_TIMEOUT"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::Fallocate::CODE, "FALLOCATE"),
    (opcode::OpenAt::CODE, "OPENAT"),
    (opcode::Close::CODE, "CLOSE"),
    (opcode::Statx::CODE, "STATX"),
    (opcode::Read::CODE, "READ"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::Send::CODE, "SEND"),
    (opcode::Recv::CODE, "RECV"),
];

/// Checks everything that executors need. Raises the soft descriptor limit to the hard one on the way.
pub(super) fn check(shards: u16) -> Result<(), StartError> {
    check_memlock(sys::soft_limit(libc::RLIMIT_MEMLOCK).map_err(system("reading the memlock limit"))?)?;
    let limit = sys::raise_limit(libc::RLIMIT_NOFILE).map_err(system("raising the descriptor limit"))?;
    check_descriptors(limit, shards)?;
    check_operations()?;
    check_executor()
}

/// Connections the descriptor limit allows with ordinary descriptors.
pub(super) fn ordinary_connections_max(shards: u16) -> u64 {
    let limit = sys::soft_limit(libc::RLIMIT_NOFILE).unwrap_or(1024);
    limit.saturating_sub(descriptors_needed(shards))
}

pub(super) fn system(step: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::System { step, source }
}

fn check_memlock(limit_bytes: u64) -> Result<(), StartError> {
    if limit_bytes < MEMLOCK_BYTES_MIN {
        return Err(StartError::MemlockTooLow {
            limit_bytes,
            needed_bytes: MEMLOCK_BYTES_MIN,
        });
    }
    Ok(())
}

/// Descriptors the process uses before its first connection.
pub(super) fn descriptors_needed(shards: u16) -> u64 {
    DESCRIPTORS_BASE + u64::from(shards) * DESCRIPTORS_PER_SHARD
}

fn check_descriptors(limit: u64, shards: u16) -> Result<(), StartError> {
    let needed = descriptors_needed(shards);
    if limit < needed {
        return Err(StartError::DescriptorLimitTooLow { limit, needed, shards });
    }
    Ok(())
}

fn check_operations() -> Result<(), StartError> {
    let ring = IoUring::new(8).map_err(from_setup)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(from_setup)?;
    let missing: Vec<_> = GLOMMIO_OPERATIONS
        .iter()
        .filter(|(code, _)| !probe.is_supported(*code))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(StartError::KernelTooOld {
            missing: missing.join(", "),
        })
    }
}

/// Explains why a ring could not be made.
pub(super) fn from_setup(source: io::Error) -> StartError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
            let disabled = setting.and_then(|text| text.trim().parse().ok());
            StartError::IoUringForbidden { disabled, source }
        }
        Some(libc::ENOSYS) => StartError::IoUringMissing { source },
        // Kernels before 5.12 charge rings to RLIMIT_MEMLOCK.
        Some(libc::ENOMEM) => {
            let limit_bytes = sys::soft_limit(libc::RLIMIT_MEMLOCK).unwrap_or(0);
            StartError::MemlockTooLow {
                limit_bytes,
                needed_bytes: MEMLOCK_BYTES_MIN * 4,
            }
        }
        _ => StartError::System {
            step: "making an io_uring",
            source,
        },
    }
}

/// Starts and ends one executor, so that what the checks above do not know fails here with a message.
fn check_executor() -> Result<(), StartError> {
    let failed = |reason: String| StartError::System {
        step: "starting a trial executor",
        source: io::Error::other(reason),
    };
    let trial = LocalExecutorBuilder::new(Placement::Unbound)
        .name("trial")
        .io_memory(0)
        .ring_depth(super::RING_DEPTH)
        .spawn(|| async {})
        .map_err(|error| failed(error.to_string()))?;
    trial.join().map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_passes() {
        check(2).unwrap();
    }

    #[test]
    fn limits_that_are_too_low_are_refused_with_the_remedy() {
        let error = check_memlock(64 * 1024).unwrap_err().to_string();
        assert!(error.contains("65536 bytes") && error.contains("ulimit -l"), "{error}");
        let error = check_descriptors(100, 4).unwrap_err().to_string();
        assert!(error.contains("is 100") && error.contains("ulimit -n"), "{error}");
        assert!(check_descriptors(1024, 4).is_ok());
    }

    #[test]
    fn a_refused_ring_is_explained() {
        let error = from_setup(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(
            error.contains("seccomp") && error.contains("kernel.io_uring_disabled"),
            "{error}"
        );
        let error = from_setup(io::Error::from_raw_os_error(libc::ENOSYS)).to_string();
        assert!(error.contains("no io_uring"), "{error}");
    }
}
