//! Why the runtime does not start, or ended badly. Every message names the cause and the remedy.

use crate::ids::ShardId;
use std::io;
use std::net::SocketAddr;
use thiserror::Error;

/// The runtime could not start. All of these are the operator's to mend; nothing is left running.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// Somebody listens on the port.
    #[error(
        "{address} is already in use by another process. `ss -ltnp 'sport = :{port}'` shows which; stop it, or set PORT to a \
         free port",
        port = .address.port()
    )]
    PortTaken {
        /// The address asked for.
        address: SocketAddr,
    },

    /// The address belongs to no interface of this machine.
    #[error(
        "{address} is not an address of this machine, so nothing can listen there. Set HOST to one that `ip address` lists, \
         or to 0.0.0.0 or :: for all of them"
    )]
    AddressNotAvailable {
        /// The address asked for.
        address: SocketAddr,
    },

    /// The port is reserved for privileged processes.
    #[error(
        "no permission to listen on {address}. Ports below `sysctl net.ipv4.ip_unprivileged_port_start` need the capability \
         CAP_NET_BIND_SERVICE (`setcap cap_net_bind_service=+ep` on the binary, or AmbientCapabilities= in the unit); or set \
         PORT to 1024 or above"
    )]
    PortPrivileged {
        /// The address asked for.
        address: SocketAddr,
    },

    /// Listening failed for a rarer reason.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },

    /// io_uring exists but may not be used.
    #[error(
        "io_uring is forbidden here ({source}{}). In a container allow io_uring_setup, io_uring_enter and io_uring_register in \
         the seccomp profile (Docker: `--security-opt seccomp=unconfined` or a profile of your own); on the host set \
         `sysctl kernel.io_uring_disabled=0`", disabled_note(*.disabled)
    )]
    IoUringForbidden {
        /// What `kernel.io_uring_disabled` says, where it can be read.
        disabled: Option<u8>,
        /// What the kernel said.
        source: io::Error,
    },

    /// The kernel has no io_uring.
    #[error(
        "there is no io_uring here ({source}). In a container a seccomp profile may hide it: allow it with \
         --security-opt seccomp=tuning/seccomp.json. Otherwise Linux 5.11 or newer, built with CONFIG_IO_URING, is needed; \
         gVisor and some other sandboxes do not offer it"
    )]
    IoUringMissing {
        /// What the kernel said.
        source: io::Error,
    },

    /// The kernel's io_uring lacks operations.
    #[error(
        "this kernel is too old: its io_uring lacks {missing}. Linux 5.11 or newer is needed (6.7 for direct descriptors)"
    )]
    KernelTooOld {
        /// The operations, by name.
        missing: String,
    },

    /// Direct descriptors were asked for and do not work here.
    #[error(
        "direct descriptors do not work on this kernel: {reason}. Linux 6.7 or newer is needed; leave the socket layer on \
         automatic to use ordinary descriptors instead"
    )]
    DirectDescriptorsMissing {
        /// The step of the trial that failed.
        reason: String,
    },

    /// RLIMIT_MEMLOCK is too low for glommio.
    #[error(
        "the limit on locked memory is {limit_bytes} bytes, and io_uring needs {needed_bytes}. Raise it: `ulimit -l unlimited`, \
         LimitMEMLOCK=infinity in the unit, or `--ulimit memlock=-1` for Docker"
    )]
    MemlockTooLow {
        /// The limit in force.
        limit_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
    },

    /// RLIMIT_NOFILE is too low to start at all.
    #[error(
        "the limit on open files is {limit}, and {shards} shards need at least {needed}. Raise it: `ulimit -n 1048576`, \
         LimitNOFILE=1048576 in the unit, or `--ulimit nofile=1048576` for Docker"
    )]
    DescriptorLimitTooLow {
        /// The hard limit in force.
        limit: u64,
        /// What is needed before the first connection.
        needed: u64,
        /// How many shards were asked for.
        shards: u16,
    },

    /// A configuration that makes no sense.
    #[error("{0}")]
    Configuration(&'static str),

    /// An executor did not come up.
    #[error("shard {} could not start: {reason}", .shard.0)]
    Shard {
        /// Which one.
        shard: ShardId,
        /// What it said.
        reason: String,
    },

    /// Something basic failed that has no usual remedy.
    #[error("{step} failed: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl StartError {
    pub(super) fn from_listen(address: SocketAddr, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::PortTaken { address },
            Some(libc::EADDRNOTAVAIL) => Self::AddressNotAvailable { address },
            Some(libc::EACCES) => Self::PortPrivileged { address },
            _ => Self::Listen { address, source },
        }
    }
}

fn disabled_note(disabled: Option<u8>) -> &'static str {
    match disabled {
        Some(1) => "; kernel.io_uring_disabled is 1: only for the group in kernel.io_uring_group",
        Some(2) => "; kernel.io_uring_disabled is 2: for nobody",
        Some(_) => "; kernel.io_uring_disabled is 0, so a seccomp filter or security module forbids it",
        None => "",
    }
}

/// A shard ended other than by being asked to. The fault is ours or the machine's.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The shard's thread panicked or its executor failed.
    #[error("shard {} ended abnormally: {reason}", .shard.0)]
    ShardFailed {
        /// Which one.
        shard: ShardId,
        /// What is known.
        reason: String,
    },
}
