//! Who the client is, behind proxies or not (docs/protocol.md §17.2).
//!
//! A forwarding header is believed only from a trusted peer, and only as far as trusted hands wrote it: entries are read
//! from the right, because every proxy appends and everything further left may have been made up by the client.

use super::request::Head;
use crate::config::TrustedProxies;
use std::net::{IpAddr, Ipv6Addr};

/// What per-address limits count: an IPv4 address, or an IPv6 /64, since a single customer owns at least that many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressGroup(IpAddr);

impl AddressGroup {
    /// The group of an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(IpAddr::V4(address)),
            IpAddr::V6(address) => Self(IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)))),
        }
    }

    /// Whether it is this machine talking to itself. Unless it is a proxy, it is not counted (§17.1).
    pub fn is_loopback(self) -> bool {
        // The group of ::1 is ::/64; nothing else routable lies in it.
        match self.0 {
            IpAddr::V4(address) => address.is_loopback(),
            IpAddr::V6(address) => address.is_unspecified(),
        }
    }
}

/// The client's address. `peer` is the other end of the socket.
pub fn client_address(peer: IpAddr, head: &Head, proxies: &TrustedProxies) -> IpAddr {
    let peer = peer.to_canonical();
    let forwarded = match proxies {
        TrustedProxies::None => return peer,
        TrustedProxies::Networks(networks) => {
            let trusted = |address: IpAddr| networks.iter().any(|network| network.contains(address));
            if !trusted(peer) {
                return peer;
            }
            first_untrusted(head, trusted)
        }
        // The peer is the last proxy and wrote the right-most entry, the proxy before it the one left of that.
        TrustedProxies::Hops(hops) => match entries(head).nth(usize::from(hops.saturating_sub(1))) {
            Some(Some(address)) => Forwarded::By(address),
            Some(None) => Forwarded::Unreadable,
            // Fewer entries than proxies: somebody reached the server another way, and nothing is believed.
            None if entries(head).next().is_some() => Forwarded::Unreadable,
            None => Forwarded::Absent,
        },
    };
    match forwarded {
        Forwarded::By(address) => address,
        Forwarded::Unreadable => peer,
        Forwarded::Absent => head.header("x-real-ip").and_then(address_in).unwrap_or(peer),
    }
}

enum Forwarded {
    By(IpAddr),
    /// An entry a trusted proxy wrote is no address. What stands left of it cannot be judged.
    Unreadable,
    Absent,
}

fn first_untrusted(head: &Head, trusted: impl Fn(IpAddr) -> bool) -> Forwarded {
    let mut left_most = Forwarded::Absent;
    for entry in entries(head) {
        match entry {
            None => return Forwarded::Unreadable,
            Some(address) if !trusted(address) => return Forwarded::By(address),
            // All trusted: the request began at the left-most of them.
            Some(address) => left_most = Forwarded::By(address),
        }
    }
    left_most
}

/// Entries of all `X-Forwarded-For` headers from right to left.
fn entries(head: &Head) -> impl Iterator<Item = Option<IpAddr>> {
    let values = head.headers("x-forwarded-for").rev();
    values
        .flat_map(|value| value.rsplit(','))
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(address_in)
}

/// An address, possibly with port or brackets as some proxies write it.
fn address_in(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let plain = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    plain
        .or_else(with_port)
        .or_else(bracketed)
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Network;

    fn head(lines: &str) -> Head {
        Head::parse(format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n").as_bytes())
            .unwrap()
            .unwrap()
    }

    fn client(peer: &str, lines: &str, proxies: &TrustedProxies) -> String {
        client_address(peer.parse().unwrap(), &head(lines), proxies).to_string()
    }

    fn networks(list: &[&str]) -> TrustedProxies {
        TrustedProxies::Networks(list.iter().map(|text| Network::parse(text).unwrap()).collect())
    }

    #[test]
    fn forged_headers_change_nothing_without_trust() {
        let forged = "X-Forwarded-For: 1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n";
        assert_eq!(client("203.0.113.9", forged, &TrustedProxies::None), "203.0.113.9");
        assert_eq!(client("203.0.113.9", forged, &networks(&["10.0.0.0/8"])), "203.0.113.9");
        assert_eq!(
            client("::ffff:203.0.113.9", forged, &TrustedProxies::None),
            "203.0.113.9"
        );
    }

    #[test]
    fn the_right_most_untrusted_entry_is_the_client() {
        let proxies = networks(&["10.0.0.0/8", "127.0.0.1"]);
        let at = |lines: &str| client("10.0.0.1", lines, &proxies);
        assert_eq!(at("X-Forwarded-For: 203.0.113.9\r\n"), "203.0.113.9");
        assert_eq!(
            at("X-Forwarded-For: 1.2.3.4, 203.0.113.9\r\n"),
            "203.0.113.9",
            "the left one is the client's invention"
        );
        assert_eq!(at("X-Forwarded-For: 203.0.113.9, 10.0.0.7\r\n"), "203.0.113.9");
        assert_eq!(
            at("X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 203.0.113.9,10.0.0.7\r\n"),
            "203.0.113.9"
        );
        assert_eq!(at("X-Forwarded-For: 10.0.0.3, 10.0.0.7\r\n"), "10.0.0.3");
        assert_eq!(at("X-Forwarded-For: 203.0.113.9:4711\r\n"), "203.0.113.9");
        assert_eq!(at("X-Forwarded-For: [2001:db8::1]:4711\r\n"), "2001:db8::1");
        assert_eq!(
            at("X-Forwarded-For: 1.2.3.4, garbage\r\nX-Real-IP: 1.2.3.4\r\n"),
            "10.0.0.1"
        );
        assert_eq!(at("X-Real-IP: 203.0.113.9\r\n"), "203.0.113.9");
        assert_eq!(
            at("X-Forwarded-For: 203.0.113.9\r\nX-Real-IP: 1.2.3.4\r\n"),
            "203.0.113.9"
        );
        assert_eq!(at(""), "10.0.0.1");
        assert_eq!(
            client("::ffff:10.0.0.1", "X-Forwarded-For: 203.0.113.9\r\n", &proxies),
            "203.0.113.9"
        );
    }

    #[test]
    fn hops_count_from_the_right() {
        let at = |hops, lines: &str| client("10.0.0.1", lines, &TrustedProxies::Hops(hops));
        assert_eq!(at(1, "X-Forwarded-For: 1.2.3.4, 203.0.113.9\r\n"), "203.0.113.9");
        assert_eq!(
            at(2, "X-Forwarded-For: 1.2.3.4, 203.0.113.9, 192.0.2.1\r\n"),
            "203.0.113.9"
        );
        let short = "X-Forwarded-For: 203.0.113.9\r\nX-Real-IP: 203.0.113.9\r\n";
        assert_eq!(at(3, short), "10.0.0.1", "fewer proxies than promised: not believed");
        assert_eq!(at(1, "X-Real-IP: 203.0.113.9\r\n"), "203.0.113.9");
    }

    #[test]
    fn limits_count_groups() {
        let group = |text: &str| AddressGroup::of(text.parse().unwrap());
        assert_eq!(group("2001:db8::1"), group("2001:db8::ffff:1"));
        assert_ne!(group("2001:db8::1"), group("2001:db8:0:1::1"));
        assert_eq!(group("::ffff:1.2.3.4"), group("1.2.3.4"));
        assert_ne!(group("1.2.3.4"), group("1.2.3.5"));
        assert!(group("::1").is_loopback() && group("127.8.0.1").is_loopback() && !group("10.0.0.1").is_loopback());
    }
}
