//! Unit tests of the guard.

use proptest::prelude::*;

use super::*;

fn guard(allow: &[&str], deny: &[&str], public_only: bool) -> Guard {
    let texts = |list: &[&str]| list.iter().map(|t| t.to_string()).collect::<Vec<_>>();
    let mut own = Own::default();
    for (host, port) in
        [("127.0.0.1", 8000), ("127.0.0.1", 8899), ("10.0.0.2", 8899), ("[fd00::2]", 8899), ("B.x.", 8899)]
    {
        own.add(OwnHost::of(host), port);
    }
    Guard::new(&texts(allow), &texts(deny), public_only, own).unwrap()
}

fn judge(guard: &Guard, url: &str) -> Result<(), Refused> {
    guard.check_url(&Url::parse(url).unwrap_or_else(|e| panic!("{url}: {e}")))
}

#[track_caller]
fn says(guard: &Guard, urls: &[&str], part: &str) {
    for url in urls {
        let message = judge(guard, url).map_or_else(|refused| refused.to_string(), |()| "it is allowed".to_owned());
        assert!(message.contains(part), "{url}: {message}");
    }
}

#[track_caller]
fn allows(guard: &Guard, urls: &[&str]) {
    for url in urls {
        assert_eq!(judge(guard, url), Ok(()), "{url}");
    }
}

#[test]
fn some_kinds_of_address_are_never_allowed() {
    for guard in [guard(&[], &[], false), guard(&["0.0.0.0/0", "::/0"], &[], false), guard(&[], &[], true)] {
        let metadata = [
            "http://169.254.169.254/latest/meta-data/",
            "https://169.254.169.254:8443/",
            "http://169.254.169.254./",
            "http://100.100.100.200/",
            "http://168.63.129.16/",
            "http://192.0.0.192/",
            "http://[fd00:ec2::254]/",
            "http://[fd20:ce::254]/",
        ];
        says(&guard, &metadata, "a cloud's metadata address, which is never allowed");
        let names =
            ["http://metadata.google.internal/", "http://METADATA.Google.internal.:80/", "http://metadata.goog/"];
        says(&guard, &names, "a cloud's metadata service");
        says(&guard, &["http://169.254.0.1/", "http://[fe80::1]/", "http://[febf:ffff::1]/"], "link-local");
        says(&guard, &["http://0.0.0.0/", "http://[::]/", "http://0/", "http://0.1.2.3/"], "an unspecified address");
        says(&guard, &["http://224.0.0.1/", "http://239.255.255.255/", "http://[ff02::1]/"], "a multicast address");
        says(&guard, &["http://255.255.255.255/", "http://4294967295/"], "the broadcast address");
    }
}

#[test]
fn no_spelling_hides_an_address() {
    let spelled = [
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://0xA9.0xFE.0xA9.0xFE/",
        "http://0251.0376.0251.0376/",
        "http://169.16689662/",
        "http://169.254.43518/",
        "http://0x000000a9.254.169.0376/",
        "http://%31%36%39.254.169.254/",
        "http://１６９。２５４．１６９｡２５４/",
        "http:\\\\169.254.169.254\\",
        "http://[::ffff:169.254.169.254]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[0:0:0:0:0:ffff:a9fe:a9fe]/",
        "http://[::169.254.169.254]/",
        "http://[::ffff:0:169.254.169.254]/",
        "http://[64:ff9b::169.254.169.254]/",
        "http://[64:ff9b:1::169.254.169.254]/",
        "http://[64:ff9b:1:a9fe:a9:fe00::]/",
        "http://[2002:a9fe:a9fe::]/",
        "http://[2002:a9fe:a9fe:1:2:3:4:5]/",
        "http://[2001:0:a9fe:a9fe::]/",
        "http://[2001:0:808:808:0:0:5601:5601]/",
        "http://[2600::5efe:169.254.169.254]/",
        "http://[2600::200:5efe:169.254.169.254]/",
    ];
    says(&guard(&[], &[], false), &spelled, "a cloud's metadata address");
    let loopback =
        ["http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/", "http://[::ffff:7f00:1]/"];
    allows(&guard(&[], &[], false), &loopback);
    says(&guard(&[], &["127.0.0.0/8"], false), &loopback, "refused by \"127.0.0.0/8\" in `callback.deny`");
    says(&guard(&[], &["::ffff:127.0.0.0/104"], false), &loopback, "refused by \"127.0.0.0/8\"");
}

#[test]
fn loopback_and_private_targets_are_allowed_by_default() {
    let urls = ["http://127.0.0.1:9000/", "http://[::1]/", "http://localhost:9000/", "http://10.1.2.3/", "http://a/"];
    allows(&guard(&[], &[], false), &urls);
    allows(
        &guard(&[], &[], false),
        &["http://192.168.0.1/", "http://[fd00::1]/", "http://8.8.8.8/", "http://100.64.0.1/"],
    );
}

#[test]
fn the_clusters_own_ports_are_never_allowed() {
    for guard in [guard(&[], &[], false), guard(&["127.0.0.1", "0.0.0.0/0", "::/0", "*.x"], &[], false)] {
        let urls = [
            "http://127.0.0.1:8000/xcron/createTask",
            "http://2130706433:8899/",
            "http://[::ffff:127.0.0.1]:8000/",
            "http://localhost:8000/",
            "http://a.localhost.:8899/",
            "http://10.0.0.2:8899/",
            "http://[64:ff9b::10.0.0.2]:8899/",
            "http://[fd00::2]:8899/",
            "http://b.x:8899/",
            "http://B.X.:8899/",
        ];
        says(&guard, &urls, "is a port of the cluster itself");
        allows(&guard, &["http://127.0.0.1:8001/", "http://10.0.0.2:8000/", "http://10.0.0.3:8899/", "http://b.x/"]);
    }
}

#[test]
fn a_node_on_every_address_has_its_ports_on_every_address() {
    let mut own = Own::default();
    own.add(OwnHost::of("0.0.0.0"), 8000);
    own.add(OwnHost::of("0.0.0.0"), 0);
    assert!(own.has_port(8000) && !own.has_port(8001));
    let guard = Guard::new(&[], &[], false, own).unwrap();
    let own = ["http://127.0.0.1:8000/", "http://127.9.9.9:8000/", "http://[::1]:8000/", "http://localhost:8000/"];
    says(&guard, &own, "the cluster itself");
    // TEST-NET-1: no machine has it.
    allows(&guard, &["http://192.0.2.1:8000/", "http://127.0.0.1:8001/", "http://a:8000/"]);
}

#[test]
fn deny_wins_over_allow() {
    let both = guard(
        &["10.0.0.0/8", "*.example.com", "fd00::/8"],
        &["10.9.0.0/16", "Bad.example.com", "*.no.example.com"],
        false,
    );
    allows(&both, &["http://10.1.0.1/", "http://a.example.com/", "http://a.b.Example.com./", "http://[fd01::1]/"]);
    says(&both, &["http://10.9.0.1/", "http://[::ffff:10.9.0.1]/", "http://[2002:a09:1::]/"], "\"10.9.0.0/16\"");
    says(&both, &["http://bad.example.com/", "http://BAD.EXAMPLE.COM./"], "\"bad.example.com\" in `callback.deny`");
    says(&both, &["http://x.no.example.com/"], "\"*.no.example.com\"");
    says(&both, &["http://11.0.0.1/", "http://127.0.0.1/", "http://[::1]/"], "is not in `callback.allow`");
    // It may stand for an address that is allowed: told when it is connected to.
    allows(&both, &["http://example.com/", "http://other/"]);
    let at = |name, ip: &str| both.check_address(Some(name), ip.parse().unwrap(), 0);
    assert_eq!(at("other", "10.1.0.1"), Ok(()));
    assert_eq!(at("a.example.com", "8.8.8.8"), Ok(()), "allowed by its name");
    assert!(matches!(at("other", "8.8.8.8"), Err(Refused::NotAllowed(_))));
    assert!(matches!(at("a.example.com", "10.9.0.1"), Err(Refused::Denied(..))));
    assert!(matches!(at("a.example.com", "169.254.1.1"), Err(Refused::Never(..))));
    says(
        &guard(&["a.example"], &[], false),
        &["http://other/", "http://xa.example/", "http://10.0.0.1/"],
        "`callback.allow`",
    );
}

#[test]
fn a_name_is_compared_as_it_stands_in_a_url() {
    says(&guard(&[], &["bücher.example"], false), &["http://bücher.example/", "http://xn--bcher-kva.example/"], "deny");
    says(&guard(&[], &["*.example"], false), &["http://a_b.example/", "http://A.B.EXAMPLE/"], "deny");
    allows(&guard(&[], &["*.example"], false), &["http://example/", "http://aexample/", "http://a.example.org/"]);
}

#[test]
fn public_only_refuses_what_is_not_global() {
    let guard = guard(&[], &[], true);
    let refused =
        "127.0.0.1 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 192.0.2.1 198.51.100.1 203.0.113.1 \
                   198.18.0.1 192.0.0.1 192.88.99.1 240.0.0.1 [::1] [fd00::1] [fec0::1] [2001:db8::1] [2001:10::1] \
                   [100::1] [3fff::1] [64:ff9b::10.0.0.1] [2002:a00:1::] [::ffff:10.0.0.1] localhost a.localhost 10.1";
    for host in refused.split_whitespace() {
        says(&guard, &[&format!("http://{host}/")], "is not a global address, and `callback.public_only` is set");
    }
    for host in
        "8.8.8.8 172.32.0.1 100.128.0.1 192.0.3.1 [2600::1] [64:ff9b::8.8.8.8] [2002:808:808::] a.example".split(' ')
    {
        allows(&guard, &[&format!("http://{host}/")]);
    }
    assert!(guard.check_address(Some("a.example"), Ipv4Addr::LOCALHOST.into(), 0).is_err());
}

#[test]
fn a_rule_is_an_address_a_network_or_a_name() {
    for (text, read) in [
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("10.0.0.1/32", "10.0.0.1"),
        ("::/0", "::/0"),
        ("[fd00::1]", "fd00::1"),
        ("FD00:0::/8", "fd00::/8"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("A.Example.", "a.example"),
        ("*.Example", "*.example"),
        ("my_host", "my_host"),
    ] {
        assert_eq!(Rule::parse(text).map(|r| r.to_string()).as_deref(), Ok(read), "{text}");
    }
    for (text, part) in [
        ("10.0.0.0/33", "from 0 to 32"),
        ("::/129", "from 0 to 128"),
        ("10.0.0.0/", "from 0 to 32"),
        ("10.0.0.0/+8", "from 0 to 32"),
        ("10.0.0.1/8", "\"10.0.0.0/8\" is expected"),
        ("fd00::1/64", "\"fd00::/64\" is expected"),
        ("", "host name"),
        ("*", "host name"),
        ("*.", "host name"),
        ("a.*.b", "host name"),
        ("10.0", "host name"),
        ("2130706433", "host name"),
        ("*.10.0.0.1", "host name"),
        ("a..b", "host name"),
        ("a b", "host name"),
        ("a:80", "host name"),
        ("http://a", "CIDR"),
        ("a/8", "CIDR"),
        ("010.0.0.0/8", "CIDR"),
        ("1.2.3.4:80", "CIDR"),
    ] {
        let error = Rule::parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

fn part(n: u32, form: u8) -> String {
    match form {
        0 => format!("{n}"),
        1 => format!("0x{n:x}"),
        2 => format!("0X{n:08X}"),
        3 => format!("0{n:o}"),
        _ => format!("000{n:o}"),
    }
}

proptest! {
    #[test]
    fn any_host_gets_an_answer(host in "\\PC{0,40}", port in any::<u16>(), text in "[0-9a-fx:.%\\[\\]*/-]{0,30}") {
        let guard = guard(&["10.0.0.0/8", "*.a"], &["::/64"], true);
        let _ = guard.check_name(&host, port);
        for host in [&host, &text] {
            let _ = Rule::parse(host);
            let _ = OwnHost::of(host);
            if let Ok(url) = Url::parse(&format!("http://{host}:{port}/")) {
                let _ = guard.check_url(&url);
            }
        }
    }

    #[test]
    fn any_address_gets_an_answer(bits in any::<u128>(), port in any::<u16>()) {
        for guard in [guard(&[], &[], true), guard(&["::/0"], &["10.0.0.0/8"], false)] {
            let _ = guard.check_address(None, Ipv6Addr::from_bits(bits).into(), port);
            let _ = guard.check_address(Some("a"), Ipv4Addr::from_bits(bits as u32).into(), port);
        }
    }

    #[test]
    fn every_spelling_of_a_link_local_address_is_refused(low in any::<u16>(), cuts in 1usize..=4, forms in [0u8..5, 0..5, 0..5, 0..5]) {
        let bits = 0xa9fe_0000 | u32::from(low);
        // The last part takes all bits that the others leave.
        let leading = (0..cuts - 1).map(|i| (bits >> (24 - 8 * i)) & 0xff);
        let last = bits & u32::MAX.checked_shr(8 * (cuts as u32 - 1)).unwrap_or(0);
        let parts: Vec<String> = leading.chain([last]).zip(forms).map(|(n, form)| part(n, form)).collect();
        let [a, b] = [bits >> 16, bits & 0xffff];
        let hosts = [
            parts.join("."),
            format!("{}.", parts.join(".")),
            format!("[::ffff:{a:x}:{b:x}]"),
            format!("[::{a:x}:{b:x}]"),
            format!("[64:ff9b::{a:x}:{b:x}]"),
            format!("[2002:{a:x}:{b:x}::1]"),
            format!("[2001:0:1:2:3:4:{:x}:{:x}]", a ^ 0xffff, b ^ 0xffff),
        ];
        for host in hosts {
            let refused = judge(&guard(&["0.0.0.0/0", "::/0"], &[], false), &format!("http://{host}/"));
            prop_assert!(matches!(refused, Err(Refused::Never(..))), "{host}: {refused:?}");
        }
    }

    #[test]
    fn a_network_holds_what_shares_its_prefix(bits in any::<u32>(), other in any::<u32>(), length in 0u8..=32) {
        let first = bits.checked_shr(32 - u32::from(length)).unwrap_or(0).checked_shl(32 - u32::from(length)).unwrap_or(0);
        let rule = Rule::parse(&format!("{}/{length}", Ipv4Addr::from_bits(first))).unwrap();
        prop_assert!(rule.holds(Ipv4Addr::from_bits(bits).into()));
        let shares = (first ^ other).leading_zeros() >= u32::from(length);
        prop_assert_eq!(rule.holds(Ipv4Addr::from_bits(other).into()), shares);
    }
}
