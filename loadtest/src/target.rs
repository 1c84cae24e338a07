//! Where the server is, and from which addresses it is called.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// How many connections share one loopback source address: well below the usual 28,000 ephemeral ports, and few enough
/// that the kernel finds a free port at once.
const CONNECTIONS_PER_SOURCE: u32 = 4_000;

/// The server as the workers need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The resolved address.
    pub address: SocketAddr,
    /// Value of the `Host` header.
    pub host: String,
    /// Path and query of the upgrade request.
    pub path: String,
}

impl Target {
    /// Understands `ws://host[:port][/path]`, also without the scheme. The path is `/ws` unless another is given.
    ///
    /// # Errors
    /// Another scheme (there is no TLS in this tool), a port that is none, a host that does not resolve.
    pub fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("ws", url));
        match scheme {
            "ws" | "http" => {}
            "wss" | "https" => {
                bail!("{url}: TLS is not supported; measure the server behind the TLS proxy, with ws://")
            }
            other => bail!("{url}: unknown scheme {other:?}; write ws://host:port/ws"),
        }
        let (host, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        ensure!(!host.is_empty(), "{url}: no host; write ws://host:port/ws");
        ensure!(
            path.chars().all(|character| character.is_ascii_graphic()),
            "{url}: the path holds characters that do not belong into a URL"
        );
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && !port.ends_with(']'));
        let with_port = if has_port {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let mut address = with_port
            .to_socket_addrs()
            .with_context(|| format!("{url}: the host or port is not valid or does not resolve"))?
            .next()
            .with_context(|| format!("{url}: the host has no address"))?;
        // What a server says that listens everywhere; to connect there means this machine.
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let path = match path {
            "" | "/" => "/ws".to_owned(),
            path if path.starts_with('?') => format!("/ws{path}"),
            path => path.to_owned(),
        };
        Ok(Self {
            address,
            host: host.to_owned(),
            path,
        })
    }

    /// The URL it stands for.
    pub fn url(&self) -> String {
        format!("ws://{}{}", self.host, self.path)
    }
}

/// Source addresses of connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sources {
    /// The kernel chooses.
    Default,
    /// One of 127.10.0.0/16 for every 4,000 connections: every address has ephemeral ports of its own.
    Loopback,
    /// These in turn.
    Listed(Vec<IpAddr>),
}

impl Sources {
    /// Those given, else loopback addresses for a loopback target, else the kernel's choice.
    ///
    /// # Errors
    /// A listed address of the other family than the target's.
    pub fn choose(target: &Target, listed: &[IpAddr]) -> Result<Self> {
        if !listed.is_empty() {
            let fits = |source: &&IpAddr| source.is_ipv4() != target.address.is_ipv4();
            if let Some(source) = listed.iter().find(fits) {
                bail!(
                    "--source-address {source}: not of the same family as {}",
                    target.address
                );
            }
            return Ok(Sources::Listed(listed.to_vec()));
        }
        Ok(match target.address.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => Sources::Loopback,
            _ => Sources::Default,
        })
    }

    /// The source of connection number `index` of all.
    pub fn of(&self, index: u32) -> Option<IpAddr> {
        match self {
            Sources::Default => None,
            Sources::Loopback => {
                let number = index / CONNECTIONS_PER_SOURCE;
                let [.., middle, low] = (number + 1).to_be_bytes();
                Some(IpAddr::V4(Ipv4Addr::new(127, 10, middle, low)))
            }
            Sources::Listed(addresses) => Some(addresses[index as usize % addresses.len()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_all_common_forms_are_understood() {
        for (url, path) in [
            ("ws://127.0.0.1:8080/ws", "/ws"),
            ("127.0.0.1:8080", "/ws"),
            ("ws://127.0.0.1:8080/", "/ws"),
            ("ws://127.0.0.1:8080/echo", "/echo"),
            ("ws://127.0.0.1:8080?doc=a", "/ws?doc=a"),
        ] {
            let target = Target::parse(url).expect(url);
            assert_eq!((target.path.as_str(), target.address.port()), (path, 8080), "{url}");
        }
        assert_eq!(Target::parse("ws://127.0.0.1/ws").expect("no port").address.port(), 80);
        assert_eq!(Target::parse("ws://[::1]:81/ws").expect("IPv6").address.port(), 81);
        for (url, address) in [("ws://0.0.0.0:81/ws", "127.0.0.1:81"), ("ws://[::]:81/ws", "[::1]:81")] {
            assert_eq!(Target::parse(url).expect(url).address.to_string(), address);
        }
    }

    #[test]
    fn urls_that_cannot_work_say_why() {
        for (url, word) in [
            ("wss://127.0.0.1:1/ws", "TLS"),
            ("ftp://127.0.0.1:1", "scheme"),
            ("ws://", "no host"),
            ("ws://127.0.0.1:notaport/ws", "port"),
            ("ws://127.0.0.1:1/a b", "characters"),
        ] {
            let error = format!("{:#}", Target::parse(url).expect_err(url));
            assert!(error.contains(word), "{url}: {error}");
        }
    }

    #[test]
    fn no_loopback_source_serves_more_than_its_share() {
        let sources = Sources::Loopback;
        assert_eq!(sources.of(0), sources.of(CONNECTIONS_PER_SOURCE - 1));
        assert_ne!(sources.of(0), sources.of(CONNECTIONS_PER_SOURCE));
        let distinct: std::collections::BTreeSet<_> = (0..1_000_000)
            .step_by(CONNECTIONS_PER_SOURCE as usize)
            .map(|index| sources.of(index))
            .collect();
        assert_eq!(distinct.len(), 250);
    }
}
