//! Telling the service manager how the process is (`sd_notify(3)`): datagrams to the socket that `NOTIFY_SOCKET` names.
//! Without that variable nothing is sent. A manager that does not listen is no trouble of ours: errors are ignored.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager.
#[derive(Debug, Default)]
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment of this process says.
    pub fn from_environment() -> Notifier {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let address = variable("NOTIFY_SOCKET").and_then(|path| address(&path));
        let to = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        // WATCHDOG_PID names the process it is meant for.
        let for_us = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC")
            .filter(|_| for_us && to.is_some())
            .and_then(|text| text.parse().ok())
            .filter(|us| *us > 0)
            .map(Duration::from_micros);
        Notifier { to, watchdog }
    }

    /// How often the manager wants a sign of life at least, if it does.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The server takes connections.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace('\n', " ")));
    }

    /// The end has begun, and may take so long.
    pub fn stopping(&self, within: Duration) {
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", within.as_micros()));
    }

    /// The configuration is being read again; [`Notifier::ready`] ends it. `monotonic_us` is the time of CLOCK_MONOTONIC.
    pub fn reloading(&self, monotonic_us: u64) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={monotonic_us}"));
    }

    /// A sign of life.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.to {
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }
}

/// A path, or a name in the abstract namespace when it begins with `@`.
fn address(path: &str) -> Option<SocketAddr> {
    match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).ok(),
        None => SocketAddr::from_pathname(path).ok(),
    }
}
