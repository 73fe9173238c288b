//! Which addresses are special: not a place on the public internet, so that no rule reaches them by itself.
//!
//! It does not know what a policy opens; `policy` does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Special blocks of IPv4 and what they are (IANA's registry of special-purpose addresses, and multicast). The blocks for
/// documents (RFC 5737) are not among them: nothing stands there that a sandbox could harm.
const SPECIAL_V4: [(Ipv4Net, &str); 14] = [
    (v4(0, 0, 0, 0, 8), "this network"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local, with the metadata service"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "protocol assignments"),
    (v4(192, 88, 99, 0, 24), "6to4 relay"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(168, 63, 129, 16, 32), "a cloud's host service"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
    (v4(255, 255, 255, 255, 32), "broadcast"),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// Blocks of IPv6 that carry an IPv4 address, which is what counts, and where it begins.
const CARRIERS: [(Ipv6Net, usize); 4] = [
    (Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96), 12),
    (v6(0x0064, 0xff9b, 96), 12),
    (v6(0x2002, 0, 16), 2),
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 96), 12),
];

/// Why an address is special, or `None` where it is a place on the public internet.
#[must_use]
pub fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => SPECIAL_V4.iter().find(|(block, _)| block.contains(&address)).map(|(_, what)| *what),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_loopback() || address.is_unspecified() {
        return Some("loopback");
    }
    if let Some(carried) = carried(address) {
        return special(IpAddr::V4(carried));
    }
    if v6(0x2001, 0, 32).contains(&address) {
        return Some("Teredo");
    }
    // Only 2000::/3 is given out to the public; unique-local, link-local, multicast and the rest are outside it.
    if !v6(0x2000, 0, 3).contains(&address) {
        return Some("not global");
    }
    None
}

/// The IPv4 address that an IPv6 address carries (mapped, NAT64, 6to4, compatible).
#[must_use]
pub fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (_, at) = CARRIERS.iter().find(|(block, _)| block.contains(&address))?;
    let octets = address.octets();
    Some(Ipv4Addr::new(octets[*at], octets[at + 1], octets[at + 2], octets[at + 3]))
}

/// Whether a block holds an address, or the IPv4 address that it carries.
#[must_use]
pub fn holds(block: &IpNet, address: IpAddr) -> bool {
    if block.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V6(address) => carried(address).is_some_and(|carried| block.contains(&IpAddr::V4(carried))),
        IpAddr::V4(_) => false,
    }
}

/// Whether an address is one of this host's own: its services are no more to be reached there than on its loopback. Asked
/// of the kernel by a datagram socket that sends nothing: to an address of its own, a host speaks from that address.
#[must_use]
pub fn is_own(address: Ipv4Addr) -> bool {
    let source = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((address, 9))?;
        Ok(socket.local_addr()?.ip())
    };
    source().is_ok_and(|source| source == IpAddr::V4(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_found_in_every_disguise() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.170",
            "192.168.0.1",
            "198.19.0.1",
            "224.0.0.251",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "fec0::1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:0a00:0001::1",
            "2002:a9fe:a9fe::",
            "2001::1",
            "::7f00:1",
            "100::1",
        ] {
            assert!(special(address.parse().unwrap()).is_some(), "{address}");
        }
    }

    #[test]
    fn public_addresses_are_not_special() {
        for address in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "198.51.100.7",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "64:ff9b::101:101",
            "::ffff:1.1.1.1",
        ] {
            assert_eq!(special(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn a_loopback_address_is_the_hosts_own_and_a_foreign_one_is_not() {
        assert!(is_own(Ipv4Addr::LOCALHOST));
        assert!(!is_own(Ipv4Addr::new(198, 51, 100, 250)));
    }
}
