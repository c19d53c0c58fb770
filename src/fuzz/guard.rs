//! Targets: no spelling of a URL leads to an address that no callback may go to.
//!
//! The judgement here is written again, from the list in `doc/targets.md`, so that it shares no mistake with the guard.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use super::Choices;
use crate::guard::rule::Rule;
use crate::guard::{Guard, Own, OwnHost};

/// What the configurations to try deny.
const DENIED: &str = "10.9.0.0/16";

fn own() -> Own {
    let mut own = Own::default();
    for (host, port) in [("127.0.0.1", 8000), ("10.0.0.2", 8899), ("[fd00::2]", 8899), ("peer.example", 8899)] {
        own.add(OwnHost::of(host), port);
    }
    own
}

pub(super) fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let public_only = choices.flag();
    let guard =
        Guard::new(&[], &[DENIED.to_owned()], public_only, own()).unwrap_or_else(|(key, e)| panic!("{key}: {e}"));
    let port = choices.pick(&[80, 8000, 8899, 1]);
    let ip = address(&mut choices);
    let name = choices.pick(&["a.example", "localhost", "metadata.goog"]);
    for name in [None, Some(name)] {
        if guard.check_address(name, ip, port).is_ok() {
            assert_eq!(forbidden(ip, port, public_only), None, "{ip}, port {port}, is allowed");
        }
    }
    let text = match choices.below(3) {
        0 => format!("http://{}:{port}/", spelled(&mut choices, ip)),
        1 => format!("http://{}/", String::from_utf8_lossy(choices.rest())),
        _ => String::from_utf8_lossy(choices.rest()).into_owned(),
    };
    a_rule_reads_back(&text);
    if crate::http::fuzz::allows(&text, &guard) {
        let url = Url::parse(&text).unwrap_or_else(|e| panic!("{text:?} is allowed and is no URL: {e}"));
        goes_nowhere_forbidden(&text, &url, public_only);
    }
}

fn goes_nowhere_forbidden(text: &str, url: &Url, public_only: bool) {
    assert!(
        matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none(),
        "{text:?}"
    );
    let port = url.port_or_known_default().unwrap_or(0);
    assert_ne!(port, 0, "{text:?}");
    let literal = match url.host() {
        None => panic!("{text:?} is allowed and has no host"),
        Some(Host::Ipv4(ip)) => Some(ip.into()),
        Some(Host::Ipv6(ip)) => Some(ip.into()),
        // What a resolver would take for an address without asking anyone.
        Some(Host::Domain(name)) => {
            assert!(!name.is_empty() && !name.contains([' ', '/', '@', '\0', '%']), "{text:?}: {name:?}");
            name.parse().ok().or_else(|| read_as_inet_aton(name).map(IpAddr::V4))
        }
    };
    if let Some(ip) = literal {
        assert_eq!(forbidden(ip, port, public_only), None, "{text:?} leads to {ip}, port {port}");
    }
}

fn a_rule_reads_back(text: &str) {
    if let Ok(rule) = Rule::parse(text) {
        assert_eq!(Rule::parse(&rule.to_string()).as_ref(), Ok(&rule), "{text:?}");
    }
}

fn address(choices: &mut Choices<'_>) -> IpAddr {
    let v4 = match choices.below(4) {
        0 => Ipv4Addr::from_bits(choices.number() as u32),
        1 => Ipv4Addr::new(169, 254, choices.number() as u8, choices.number() as u8),
        2 => Ipv4Addr::new(
            choices.pick(&[0, 10, 100, 127, 168, 172, 192, 224, 255]),
            choices.pick(&[0, 9, 63, 100, 255]),
            129,
            16,
        ),
        _ => choices.pick(&[
            Ipv4Addr::new(169, 254, 169, 254),
            Ipv4Addr::new(100, 100, 100, 200),
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::new(10, 0, 0, 2),
            Ipv4Addr::new(10, 9, 1, 1),
            Ipv4Addr::BROADCAST,
        ]),
    };
    let [a, b, c, d] = v4.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let v6 = match choices.below(9) {
        0..=2 => return v4.into(),
        3 => v4.to_ipv6_mapped(),
        4 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        5 => Ipv6Addr::new(0x2002, high, low, 0, choices.number() as u16, 0, 0, 1),
        6 => Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
        7 => Ipv6Addr::new(
            choices.pick(&[0xfe80, 0xfebf, 0xff02, 0xfd00, 0xfec0]),
            choices.number() as u16,
            0,
            0,
            0,
            0,
            0,
            2,
        ),
        _ => Ipv6Addr::from_bits(u128::from(choices.number()) << 64 | u128::from(choices.number())),
    };
    v6.into()
}

/// The address in one of the ways in which a URL can write it.
fn spelled(choices: &mut Choices<'_>, ip: IpAddr) -> String {
    let v4 = match ip {
        IpAddr::V6(ip) if choices.flag() => return format!("[{ip}]"),
        IpAddr::V6(ip) => return format!("[{}]", ip.segments().map(|s| format!("{s:04X}")).join(":")),
        IpAddr::V4(ip) => ip,
    };
    let bits = v4.to_bits();
    let number = |choices: &mut Choices<'_>, n: u32| match choices.below(4) {
        0 => format!("{n:#x}"),
        1 => format!("0{n:o}"),
        2 => format!("0X{n:08X}"),
        _ => n.to_string(),
    };
    // Each part but the last is an octet, the last one is the rest.
    let octets = choices.below(4) as u32;
    let mut parts: Vec<String> = (0..octets).map(|i| number(choices, bits >> (24 - 8 * i) & 0xff)).collect();
    parts.push(number(choices, if octets == 0 { bits } else { bits & (u32::MAX >> (8 * octets)) }));
    let mut text = parts.join(choices.pick(&[".", ".", "。", "%2e"]));
    if choices.one_in(4) {
        text.push('.');
    }
    if choices.one_in(4) {
        text = text
            .chars()
            .map(|c| if c.is_ascii_digit() { char::from_u32(c as u32 + 0xfee0).unwrap_or(c) } else { c })
            .collect();
    }
    text
}

/// A name as `inet_aton` would read it: one to four numbers, decimal, octal or hexadecimal.
fn read_as_inet_aton(name: &str) -> Option<Ipv4Addr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let number = |text: &str| match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some("") => Some(0),
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None if text.starts_with('0') && text.len() > 1 => u64::from_str_radix(&text[1..], 8).ok(),
        None => text.parse().ok(),
    };
    // Rust reads a sign before a number, and inet_aton does not.
    let number = |text: &str| number(text).filter(|_| !text.contains('+'));
    let parts: Vec<u64> = name.split('.').map(number).collect::<Option<_>>()?;
    let (last, octets) = parts.split_last()?;
    if octets.len() > 3 || octets.iter().any(|octet| *octet > 255) || *last >> (32 - 8 * octets.len()) != 0 {
        return None;
    }
    let high = octets.iter().enumerate().fold(0, |bits, (at, octet)| bits | octet << (24 - 8 * at));
    Some(Ipv4Addr::from_bits((high | last) as u32))
}

/// Why no callback may go there.
fn forbidden(ip: IpAddr, port: u16, public_only: bool) -> Option<&'static str> {
    let mut views = vec![ip];
    if let IpAddr::V6(v6) = ip {
        let segments = v6.segments();
        let v4_of = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
        let carried = match segments {
            [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4_of(high, low)),
            [0, 0, 0, 0, 0, 0, high, low] if high > 0xff => Some(v4_of(high, low)),
            [0x2002, high, low, ..] => Some(v4_of(high, low)),
            _ => None,
        };
        // 0.0.0.0/8 in the lower half of an address is nobody's, unless it is mapped.
        let mapped = v6.to_ipv4_mapped().is_some();
        views.extend(carried.filter(|v4| mapped || v4.octets()[0] != 0).map(IpAddr::V4));
    }
    let own: [(IpAddr, u16); 3] = [
        (Ipv4Addr::LOCALHOST.into(), 8000),
        (Ipv4Addr::new(10, 0, 0, 2).into(), 8899),
        (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into(), 8899),
    ];
    views.into_iter().find_map(|view| {
        if own.contains(&(view, port)) {
            return Some("the cluster's own");
        }
        match view {
            IpAddr::V4(v4) => match v4.octets() {
                [169, 254, ..] | [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => {
                    Some("metadata, link-local")
                }
                [0 | 224..=239, ..] | [255, 255, 255, 255] => Some("unspecified, multicast, broadcast"),
                [10, 9, ..] => Some("denied"),
                [10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] if public_only => {
                    Some("not global")
                }
                _ => None,
            },
            IpAddr::V6(v6) => match v6.segments() {
                [0xfe80..=0xfebf, ..] | [0xff00..=0xffff, ..] | [0, 0, 0, 0, 0, 0, 0, 0] => {
                    Some("link-local, multicast")
                }
                [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Some("metadata"),
                [0xfc00..=0xfdff, ..] | [0, 0, 0, 0, 0, 0, 0, 1] if public_only => Some("not global"),
                _ => None,
            },
        }
    })
}
