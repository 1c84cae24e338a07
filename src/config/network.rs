//! Address ranges and the rule that says which peers are trusted proxies (docs/protocol.md §17.2).

use std::fmt;
use std::net::IpAddr;

/// A CIDR range. A bare address is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Parses `address` or `address/bits`. Host bits below the prefix are ignored; `None` when it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().ok()?;
        let base = written.to_canonical();
        let widest = if written.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            // `parse::<u8>` would also take "+8".
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => bits.parse::<u8>().ok()?,
            Some(_) => return None,
            None => widest,
        };
        if bits > widest {
            return None;
        }
        // `::ffff:10.0.0.0/104` is the IPv4 range 10.0.0.0/8; a mapped range wider than all of IPv4 is a mistake.
        let prefix_bits = if widest == 128 && base.is_ipv4() {
            bits.checked_sub(96)?
        } else {
            bits
        };
        Some(Self { base, prefix_bits })
    }

    /// Whether `address` lies inside. IPv4-mapped IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_bits)).unwrap_or(0);
                u32::from(base) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_bits)).unwrap_or(0);
                u128::from(base) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_bits)
    }
}

/// Whose forwarding headers are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedProxies {
    /// Nobody's. The socket's peer is the client.
    None,
    /// Peers in these ranges; entries from the right are skipped while they lie in them.
    Networks(Vec<Network>),
    /// Every peer is the last of exactly this many proxies, so the n-th entry from the right is the client.
    Hops(u8),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(network: &str, address: &str) -> bool {
        Network::parse(network).unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn ranges_contain_what_they_say() {
        assert!(inside("10.0.0.0/8", "10.255.1.2"));
        assert!(!inside("10.0.0.0/8", "11.0.0.1"));
        assert!(inside("10.1.2.3", "10.1.2.3"));
        assert!(!inside("10.1.2.3", "10.1.2.4"));
        assert!(inside("0.0.0.0/0", "203.0.113.9"));
        assert!(!inside("0.0.0.0/0", "2001:db8::1"));
        assert!(inside("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!inside("2001:db8::/32", "2001:db9::1"));
        assert!(inside("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(inside("::ffff:10.0.0.0/104", "10.1.1.1"));
    }

    #[test]
    fn malformed_ranges_are_refused() {
        for bad in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "::/129",
            "10.0.0/8",
            "::ffff:1.2.3.4/8",
            "x",
        ] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
