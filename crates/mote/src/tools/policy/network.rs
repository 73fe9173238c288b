//! Which addresses are public, which need `allow_private`, and which are never reached.
//!
//! After the IANA special-purpose address registries (RFC 6890 and what followed). It resolves nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

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

/// A network: an address and how many of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = u32::from(self.bits);
        match (self.address, address) {
            // A shift by all bits is none: every address has the same zero of them.
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - bits).unwrap_or_default() == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - bits).unwrap_or_default() == 0
            }
            _ => false,
        }
    }
}

impl std::str::FromStr for Network {
    type Err = String;

    /// `ADDRESS/BITS`, or an address alone.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a network; write ADDRESS/BITS, such as 10.20.0.0/16");
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(max), |bits| bits.parse().map_err(|_| wrong()))?;
        if bits > max {
            return Err(wrong());
        }
        Ok(Self { address, bits })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Which addresses that are not public may be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Private {
    /// None.
    #[default]
    None,
    /// All but the link-local ones, where cloud metadata is: those only where a URL has the address itself.
    All,
    /// Those of these networks.
    Networks(Arc<[Network]>),
}

impl Private {
    /// As it stands in agent.yaml.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::None => false.into(),
            Self::All => true.into(),
            Self::Networks(networks) => networks.iter().map(ToString::to_string).collect(),
        }
    }

    fn allows(&self, host: &str, address: IpAddr) -> bool {
        let address = inside(address);
        match self {
            Self::None => false,
            Self::All => !is_link_local(address) || is_literal(host),
            Self::Networks(networks) => networks.iter().any(|network| network.contains(address)),
        }
    }

    fn hint(&self, address: IpAddr) -> &'static str {
        match self {
            Self::All if is_link_local(inside(address)) => "; it must be named: allow_private: [ADDRESS/BITS]",
            Self::None | Self::All => "; the tool's allow_private would allow it",
            Self::Networks(_) => "; it is in no network of the tool's allow_private",
        }
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_literal(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// The address that is reached: of an IPv4 address in an IPv6 one, what is inside.
fn inside(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)).into()
            }
            _ => address,
        },
        IpAddr::V4(_) => address,
    }
}

/// Whether `address`, found for `host`, may be connected to.
///
/// # Errors
/// [`Refused`], saying what the address is and what would allow it.
pub fn check(host: &str, address: IpAddr, private: &Private) -> Result<(), Refused> {
    let refused = |reason, hint| Err(Refused { host: host.to_owned(), address, reason, hint });
    match classify(address) {
        Kind::Public => Ok(()),
        Kind::Private(_) if private.allows(host, address) => Ok(()),
        Kind::Private(reason) => refused(reason, private.hint(address)),
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
            assert!(check("x", address, &Private::None).is_err(), "{text} passes without allow_private");
            // One whose literal is the host is named, link-local or not.
            assert!(check(text, address, &Private::All).is_ok(), "{text} is refused with allow_private");
        }
        for text in never {
            assert!(check(text, text.parse().unwrap(), &Private::All).is_err(), "{text} passes");
        }
    }

    #[test]
    fn link_local_addresses_and_those_outside_the_named_networks_are_refused() {
        let named = |texts: &[&str]| Private::Networks(texts.iter().map(|text| text.parse().unwrap()).collect());
        let some = named(&["10.20.0.0/16", "192.168.1.7", "fd00:1::/32", "169.254.0.0/16"]);
        let lots = named(&["0.0.0.0/0"]);
        for (private, address, allowed) in [
            (&Private::All, "10.0.0.1", true),
            (&Private::All, "169.254.169.254", false),
            (&Private::All, "::ffff:169.254.169.254", false),
            (&Private::All, "64:ff9b::a9fe:a9fe", false),
            (&Private::All, "fe80::1", false),
            (&some, "10.20.255.1", true),
            (&some, "::ffff:10.20.0.1", true),
            (&some, "10.21.0.1", false),
            (&some, "192.168.1.7", true),
            (&some, "192.168.1.8", false),
            (&some, "fd00:1::5", true),
            (&some, "fd00:2::5", false),
            (&some, "169.254.169.254", true),
            (&lots, "127.0.0.1", true),
            (&lots, "::1", false),
            (&lots, "224.0.0.1", false),
            (&some, "1.1.1.1", true),
        ] {
            let checked = check("named.example", address.parse().unwrap(), private);
            assert_eq!(checked.is_ok(), allowed, "{private:?} {address} {checked:?}");
        }
        for wrong in ["10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "::/129", "x"] {
            assert!(wrong.parse::<Network>().unwrap_err().contains(wrong));
        }
    }

    #[test]
    fn a_refusal_says_what_would_allow_it() {
        let refused = check("db.internal", "10.0.0.5".parse().unwrap(), &Private::None).unwrap_err().to_string();
        assert_eq!(
            refused,
            "the address 10.0.0.5 of db.internal is private (10.0.0.0/8); the tool's allow_private would allow it"
        );
    }
}
