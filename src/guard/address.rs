//! Addresses that are special (RFC 6890 and IANA's registries), and addresses that carry others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that serve a cloud's metadata and lie outside the link-local ranges.
const METADATA_V4: [Ipv4Addr; 3] = [
    // Alibaba.
    Ipv4Addr::new(100, 100, 100, 200),
    // Oracle, the older one.
    Ipv4Addr::new(192, 0, 0, 192),
    // Azure's host agent.
    Ipv4Addr::new(168, 63, 129, 16),
];
const METADATA_V6: [Ipv6Addr; 3] = [
    // Amazon.
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    // Google.
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    // Scaleway.
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];
const METADATA: &str = "a cloud's metadata address";

/// What kind of address this is, where it is of one that no target may have.
pub fn never(ip: IpAddr) -> Option<&'static str> {
    let first = match ip {
        IpAddr::V4(v4) => v4.octets()[0],
        IpAddr::V6(_) => 1,
    };
    match ip {
        IpAddr::V4(v4) if v4 == Ipv4Addr::new(169, 254, 169, 254) || METADATA_V4.contains(&v4) => Some(METADATA),
        IpAddr::V6(v6) if METADATA_V6.contains(&v6) => Some(METADATA),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        // All of 0.0.0.0/8 is "this host on this network".
        _ if ip.is_unspecified() || first == 0 => Some("an unspecified address"),
        _ => None,
    }
}

/// Whether the address can be reached from anywhere, as far as the registries of special addresses tell.
pub fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => is_global_v4(v4),
        IpAddr::V6(v6) => is_global_v6(v6),
    }
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol = (a, b, c) == (192, 0, 0) || (a, b, c) == (192, 88, 99);
    let benchmark = a == 198 && (b == 18 || b == 19);
    let local = ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared;
    !(a == 0 || a >= 224 || local || protocol || benchmark || ip.is_documentation())
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    // NAT64 and 6to4: as global as what is carried.
    if s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] || s[0] == 0x2002 {
        return carried(ip.into()).into_iter().flatten().all(is_global);
    }
    let unicast = s[0] & 0xe000 == 0x2000;
    let protocol = s[0] == 0x2001 && s[1] < 0x200;
    let documentation = (s[0] == 0x2001 && s[1] == 0xdb8) || (s[0] == 0x3fff && s[1] < 0x1000);
    unicast && !protocol && !documentation
}

/// The IPv4 addresses that an IPv6 address carries, by every scheme that could have put them there; those that could
/// not be anyone's (0.0.0.0/8) are left out.
pub fn carried(ip: IpAddr) -> [Option<IpAddr>; 2] {
    let IpAddr::V6(ip) = ip else { return [None; 2] };
    let (s, o) = (ip.segments(), ip.octets());
    let at = |a: usize, b: usize, c: usize, d: usize| Some(Ipv4Addr::new(o[a], o[b], o[c], o[d]));
    let last = at(12, 13, 14, 15);
    let found = match s {
        // ::a.b.c.d (compatible), ::ffff:a.b.c.d (mapped), ::ffff:0:a.b.c.d (translated, RFC 2765).
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => [last, None],
        // NAT64: the prefix of RFC 6052, and the one of RFC 8215, whose users choose where the address stands.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => [last, None],
        [0x64, 0xff9b, 1, ..] => [last, at(6, 7, 9, 10)],
        // 6to4, RFC 3056.
        [0x2002, ..] => [at(2, 3, 4, 5), None],
        // Teredo, RFC 4380: the server, and the client with its bits inverted.
        [0x2001, 0, ..] => [at(4, 5, 6, 7), last.map(|ip| Ipv4Addr::from_bits(!ip.to_bits()))],
        // ISATAP, RFC 5214.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => [last, None],
        _ => [None; 2],
    };
    found.map(|ip| ip.filter(|ip| ip.octets()[0] != 0).map(IpAddr::V4))
}
