//! Unit tests of the configuration.

use super::*;

fn check(text: &str) -> Result<Config, String> {
    let file = Path::new("x.toml");
    let config = Config::from_toml(text, file).map_err(|e| e.to_string())?;
    config.validate(file).map_err(|e| e.to_string())?;
    Ok(config)
}

#[test]
fn the_shipped_file_is_the_default() {
    let shipped = Config::load(Path::new("xcron.toml")).unwrap();
    assert_eq!(shipped, Config::default());
}

#[test]
fn every_key_of_the_shipped_file_has_a_comment_and_none_is_left_out() {
    let text = std::fs::read_to_string("xcron.toml").unwrap();
    let lines: Vec<_> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(lines[at - 1].starts_with('#'), "no comment above {line:?}");
        }
    }
    let debug = format!("{:?}", Config::default());
    let fields = debug.split([' ', '{', ',']).filter_map(|w| w.strip_suffix(':'));
    // A section that is described as one, and what a program brings, which is no key.
    let fields = fields.filter(|w| !["peer", "zone_data"].contains(w));
    for field in fields {
        let found = text.contains(&format!("{field} = ")) || text.contains(&format!("{field}]"));
        assert!(found, "{field} is not in xcron.toml");
    }
}

#[test]
fn errors_name_file_key_and_expectation() {
    for (text, wanted) in [
        ("htp_port = 1", vec!["x.toml", "htp_port", "http_port"]),
        ("http_port = \"x\"", vec!["x.toml", "key `http_port`", "line 1", "1 to 65535"]),
        ("http_port = 70000", vec!["x.toml", "key `http_port`", "70000", "1 to 65535"]),
        ("[raft]\nheartbeat_ms = -5", vec!["x.toml", "key `raft.heartbeat_ms`", "-5", "whole number"]),
        ("[raft]\nheartbeat_ms = \"5\"", vec!["x.toml", "key `raft.heartbeat_ms`", "whole number"]),
        ("[callback.retry]\nmultiplier = \"5\"", vec!["key `callback.retry.multiplier`", "a number"]),
        ("[peer]\npeer_hosts = \"a:1\"", vec!["key `peer.peer_hosts`", "an array"]),
        ("bind = \"localhost\"", vec!["x.toml", "key `bind`", "an IP address is expected and no name", "127.0.0.1"]),
        ("raft_dir = \"\"", vec!["x.toml", "key `raft_dir`", "empty", "a directory is expected"]),
        ("raft_dir = 5", vec!["key `raft_dir`", "a directory"]),
        ("http_port = 0", vec!["http_port", "1 to 65535"]),
        ("peer_port = 8000", vec!["peer_port", "http_port", "different"]),
        ("env = \"test\"", vec!["env", "debug"]),
        ("timezone = \"Mars/Olympus\"", vec!["timezone", "Mars/Olympus", "IANA"]),
        ("[peer]\npeer_hosts = [\"a\", \"b:1\"]", vec!["peer_hosts", "\"a\"", "host:port"]),
        ("[peer]\npeer_hosts = [\"b:1\", \"B:1\"]", vec!["peer_hosts", "twice"]),
        (
            "[peer]\npeer_hosts = [\"10.0.0.1:8899\", \"10.0.0.2:8899\"]",
            vec!["does not name this node", "127.0.0.1:8899", "`bind`", "`advertise`"],
        ),
        ("[peer]\npeer_hosts = [\"127.0.0.1:1\", \"127.0.0.1:2\"]", vec!["does not name this node"]),
        ("advertise = \"c:3\"\n[peer]\npeer_hosts = [\"a:1\", \"b:2\"]", vec!["advertise", "c:3"]),
        ("bind = \"0.0.0.0\"\n[peer]\npeer_hosts = [\"a:8899\", \"b:8899\"]", vec!["advertise", "more than one"]),
        ("[raft]\nheartbeat_ms = 200", vec!["election_timeout_min_ms", "400"]),
        ("[callback]\ntimeout_ms = 99", vec!["callback.timeout_ms", "100"]),
        ("[callback]\ndeny = [\"10.0.0.0/33\"]", vec!["x.toml", "callback.deny", "10.0.0.0/33", "0 to 32"]),
        ("[callback]\nallow = [\"10.0.0.1/8\"]", vec!["callback.allow", "10.0.0.1/8", "\"10.0.0.0/8\" is expected"]),
        ("[callback]\nallow = [\"a\", \"http://b\"]", vec!["callback.allow", "http://b", "CIDR", "host name"]),
        ("[callback]\npublic_only = 1", vec!["public_only", "boolean"]),
        ("[callback]\nsecrets = [\"whsec_eHh4\"]", vec!["callback.secrets", "numbered 1", "24 to 64 bytes"]),
        ("[callback.retry]\nmultiplier = 0.5", vec!["multiplier", "1.0"]),
        ("[callback]\ntimeout = 5", vec!["x.toml", "`timeout`", "unknown field", "`timeout_ms`", "line 2"]),
        ("[callback]\nsecret = \"x\"", vec!["x.toml", "`secret`", "unknown field", "`secrets`", "line 2"]),
        ("[callback]\nsecrets = \"x\"", vec!["key `callback.secrets`", "line 2", "an array of strings"]),
        ("[callback]\ntimeout_ms = 5 secrets", vec!["line 2"]),
        ("[security]\nhosts = [\"a:80\"]", vec!["security.hosts", "\"a:80\"", "without a port"]),
        ("[security]\nhosts = [\"*\"]", vec!["security.hosts", "\"*\""]),
    ] {
        let message = check(text).unwrap_err();
        for part in wanted {
            assert!(message.contains(part), "{text:?}: {part:?} is not in {message:?}");
        }
    }
}

#[test]
fn numbers_are_taken_up_to_their_bounds_and_not_beyond() {
    const DAY_MS: u64 = 86_400_000;
    for (section, key, min, max) in [
        ("raft", "max_clock_skew_ms", 10, DAY_MS),
        ("raft", "snapshot_log_bytes", 1 << 20, 1 << 40),
        ("storage", "cache_mb", 16, 1 << 20),
        ("storage", "checkpoint_interval_ms", 10, 60_000),
        ("storage", "reserve_mb", 1, 1 << 20),
        ("storage", "check_interval_s", 1, 86_400),
        ("storage", "log_segment_bytes", 1 << 20, 1 << 30),
        ("limits", "tasks_max", 1, 1 << 40),
        ("limits", "ahead_ms_max", 1000, 200 * 365 * DAY_MS),
        ("limits", "request_timeout_ms", 100, 600_000),
        ("limits", "connections_max", 1, 1 << 20),
        ("limits", "idle_timeout_ms", 100, DAY_MS),
        ("limits", "answer_timeout_ms", 100, DAY_MS),
        ("limits", "buffered_bytes_max", 16 << 20, 1 << 40),
        ("limits", "queue_max", 1, 1 << 24),
        ("limits", "queue_bytes_max", 64 << 20, 1 << 40),
    ] {
        let with = |value: u64| check(&format!("[{section}]\n{key} = {value}")).map(drop);
        assert_eq!((with(min), with(max)), (Ok(()), Ok(())), "{section}.{key}");
        for beyond in [min - 1, max + 1] {
            let message = with(beyond).expect_err(key);
            assert!(message.contains(&format!("{section}.{key}")), "{key} = {beyond}: {message:?}");
            assert!(message.contains(&beyond.to_string()), "{key} = {beyond}: {message:?}");
        }
    }
}

#[test]
fn no_message_shows_a_secret() {
    let secret = "whsec_c2hvd25zaG93bnNob3duc2hvd25zaG93bg==";
    let own = Config::default().callback.secrets.len();
    assert_eq!(check(&format!("[callback]\nsecrets = [{secret:?}]")).unwrap().callback.secrets.len(), own + 1);
    for text in [
        format!("[callback]\nsecrets = {secret:?}"),
        format!("[callback]\nsecrets = [\n{secret:?},\n5,\n]"),
        format!("[callback]\nsecrets = [{secret:?}, 5]"),
        format!("[callback]\nsecret = [{secret:?}]"),
        format!("[callback]\nsecrets = [{secret}]"),
        format!("[callback]\nsecrets = [\n{secret}\n]"),
        format!("[callback]\nsecrets = [\"{}\"]", &secret[6..]),
        format!("[callback]\nsecrets = [{}]", format!("{secret:?},").repeat(5)),
    ] {
        let message = check(&text).unwrap_err();
        assert!(!message.contains("c2hvd25z"), "{text}: {message}");
    }
    let config = check(&format!("[callback]\nsecrets = [{secret:?}]")).unwrap();
    assert!(!format!("{config:?}").contains("c2hvd25z"));
}

#[test]
fn this_node_is_found_among_its_peers() {
    for (text, own) in [
        ("", "127.0.0.1:8899"),
        ("[peer]\npeer_hosts = [\"10.0.0.9:1\"]", "127.0.0.1:8899"),
        ("advertise = \"b:2\"\n[peer]\npeer_hosts = [\"10.0.0.9:1\"]", "b:2"),
        ("[callback]\nin_flight_max = 5", "127.0.0.1:8899"),
        ("bind = \"::\"", "[::]:8899"),
        ("[peer]\npeer_hosts = [\"127.0.0.1:8899\"]", "127.0.0.1:8899"),
        ("[peer]\npeer_hosts = [\"127.0.0.1:8900\", \"127.0.0.1:8899\"]", "127.0.0.1:8899"),
        ("[peer]\npeer_hosts = [\"localhost:8900\", \"localhost:8899\"]", "localhost:8899"),
        ("bind = \"10.0.0.2\"\n[peer]\npeer_hosts = [\"10.0.0.1:8899\", \"10.0.0.2:8899\"]", "10.0.0.2:8899"),
        ("bind = \"0.0.0.0\"\npeer_port = 2\n[peer]\npeer_hosts = [\"a:1\", \"b:2\"]", "b:2"),
        ("bind = \"0.0.0.0\"\nadvertise = \"a:8899\"\n[peer]\npeer_hosts = [\"a:8899\", \"b:8899\"]", "a:8899"),
    ] {
        assert_eq!(check(text).unwrap().own_peer().unwrap().to_string(), own, "{text:?}");
    }
}

#[test]
fn a_configuration_that_is_likely_to_be_a_mistake_is_warned_of() {
    let three = "[peer]\npeer_hosts = [\"127.0.0.1:8899\", \"127.0.0.1:2\", \"127.0.0.1:3\"]";
    for (text, wanted) in [
        ("", vec![]),
        (three, vec![]),
        ("[peer]\npeer_hosts = [\"127.0.0.1:8899\", \"127.0.0.1:2\"]", vec!["peer.peer_hosts"]),
        ("bind = \"0.0.0.0\"", vec!["no credentials"]),
        ("[peer]\npeer_hosts = [\"localhost:8899\", \"10.0.0.2:1\", \"10.0.0.3:1\"]", vec!["other machines"]),
    ] {
        let warnings = check(text).unwrap().warnings();
        assert_eq!(warnings.len(), wanted.len(), "{text:?}: {warnings:?}");
        for part in wanted {
            assert!(warnings.iter().any(|warning| warning.contains(part)), "{text:?}: {part:?} is not in {warnings:?}");
        }
    }
}
