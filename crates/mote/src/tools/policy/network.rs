//! Which addresses are public, which need `allow_private`, and which are never reached.
//!
//! After the IANA special-purpose address registries (RFC 6890 and what followed). It resolves nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of address it is; the text says why it is not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Globally reachable unicast.
    Public,
    /// Reachable only from here: needs `allow_private`.
    Private(&'static str),
    /// No backend is ever there.
    Never(&'static str),
}

/// A refused address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the address {address} of {host} is {reason}{hint}")]
pub struct Refused {
    /// The name or literal that led to it.
    pub host: String,
    /// The address.
    pub address: IpAddr,
    /// What it is.
    pub reason: &'static str,
    /// What would allow it, if anything.
    pub hint: &'static str,
}

/// Whether `address`, found for `host`, may be connected to.
///
/// # Errors
/// [`Refused`], saying what the address is and what would allow it.
pub fn check(host: &str, address: IpAddr, allow_private: bool) -> Result<(), Refused> {
    let refused = |reason, hint| Err(Refused { host: host.to_owned(), address, reason, hint });
    match classify(address) {
        Kind::Public => Ok(()),
        Kind::Private(_) if allow_private => Ok(()),
        Kind::Private(reason) => refused(reason, "; the tool's allow_private would allow it"),
        Kind::Never(reason) => refused(reason, ""),
    }
}

/// The kind of an address. An IPv4 address inside an IPv6 one (mapped, compatible, NAT64) counts as what it is inside.
#[must_use]
pub fn classify(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

fn classify_v4(address: Ipv4Addr) -> Kind {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (0, ..) => Kind::Never("unspecified (0.0.0.0/8)"),
        (10, ..) => Kind::Private("private (10.0.0.0/8)"),
        (100, 64..=127, _) => Kind::Private("shared by a carrier's NAT (100.64.0.0/10)"),
        (127, ..) => Kind::Private("loopback (127.0.0.0/8)"),
        (169, 254, _) => Kind::Private("link-local (169.254.0.0/16), where cloud metadata is"),
        (172, 16..=31, _) => Kind::Private("private (172.16.0.0/12)"),
        (192, 0, 0) => Kind::Private("reserved for protocols (192.0.0.0/24)"),
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => Kind::Never("for documentation"),
        (192, 88, 99) => Kind::Never("a 6to4 relay (192.88.99.0/24)"),
        (192, 168, _) => Kind::Private("private (192.168.0.0/16)"),
        (198, 18..=19, _) => Kind::Private("for benchmarks (198.18.0.0/15)"),
        (224..=239, ..) => Kind::Never("multicast (224.0.0.0/4)"),
        (240..=255, ..) => Kind::Never("reserved (240.0.0.0/4)"),
        _ => Kind::Public,
    }
}

fn classify_v6(address: Ipv6Addr) -> Kind {
    let segments = address.segments();
    let inner = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        classify_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Kind::Never("unspecified (::)"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Kind::Private("loopback (::1)"),
        // Mapped, NAT64: what is inside is what is reached.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => inner(high, low),
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Kind::Never("an obsolete IPv4 form (::/96)"),
        [0x64, 0xff9b, 1, ..] => Kind::Private("a local NAT64 address (64:ff9b:1::/48)"),
        [0xfc00..=0xfdff, ..] => Kind::Private("unique local (fc00::/7)"),
        [0xfe80..=0xfebf, ..] => Kind::Private("link-local (fe80::/10)"),
        [0xfec0..=0xfeff, ..] => Kind::Private("site-local (fec0::/10)"),
        [0xff00..=0xffff, ..] => Kind::Never("multicast (ff00::/8)"),
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Kind::Never("for documentation"),
        [0x2001, 0, ..] => Kind::Never("a Teredo tunnel (2001::/32)"),
        [0x2001, 0x0002, 0, ..] => Kind::Private("for benchmarks (2001:2::/48)"),
        [0x2001, 0x0010..=0x002f, ..] => Kind::Never("an ORCHID (2001:10::/28, 2001:20::/28)"),
        [0x2002, ..] => Kind::Never("a 6to4 tunnel (2002::/16)"),
        [0x2000..=0x3fff, ..] => Kind::Public,
        _ => Kind::Never("not global unicast"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_by_kind() {
        let public = [
            "1.1.1.1",
            "172.15.255.255",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ];
        let private = [
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.8",
            "198.18.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "fd00:ec2::254",
            "fc00::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
        ];
        let never = [
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "192.0.2.1",
            "198.51.100.7",
            "203.0.113.1",
            "192.88.99.1",
            "::",
            "::7f00:1",
            "ff02::1",
            "2001:db8::1",
            "3fff::1",
            "2001::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "100::1",
            "5f00::1",
            "::ffff:0.0.0.0",
            "::ffff:0:127.0.0.1",
        ];
        for text in public {
            assert_eq!(classify(text.parse().unwrap()), Kind::Public, "{text}");
        }
        for text in private {
            let address = text.parse().unwrap();
            assert!(check("x", address, false).is_err(), "{text} passes without allow_private");
            assert!(check("x", address, true).is_ok(), "{text} is refused with allow_private");
        }
        for text in never {
            let address = text.parse().unwrap();
            assert!(check("x", address, true).is_err(), "{text} passes");
        }
    }

    #[test]
    fn a_refusal_says_what_would_allow_it() {
        let refused = check("db.internal", "10.0.0.5".parse().unwrap(), false).unwrap_err().to_string();
        assert_eq!(
            refused,
            "the address 10.0.0.5 of db.internal is private (10.0.0.0/8); the tool's allow_private would allow it"
        );
    }
}
