//! What is wrong with a configuration, in words: with the text of a file, and with what it says.

use std::net::IpAddr;

use super::{Config, HostPort};

/// What the parser expects, in its words and in those of a person.
const EXPECTED: [(&str, &str); 8] = [
    ("u16", "a port from 1 to 65535"),
    ("u32", "a whole number from 0 on"),
    ("u64", "a whole number from 0 on"),
    ("usize", "a whole number from 0 on"),
    ("f64", "a number"),
    ("path string", "a directory in quotes"),
    ("IP address", "an IP address in quotes, such as \"127.0.0.1\""),
    ("a sequence", "an array, such as [\"a\", \"b\"]"),
];

/// What is wrong with a file, as its parser tells it, and the key that it is about. The parser quotes the line, which is
/// left out where it can hold a secret.
pub(super) fn explain(key: &str, text: &str, error: &toml::de::Error) -> String {
    let full = error.to_string();
    let full = full.trim();
    let message = error.message();
    // An unknown key is answered with a list of those that there are, which gives no secret away.
    let (told, listed) = match message.split_once(", expected") {
        Some((told, _)) if message.starts_with("unknown field") => (told, true),
        _ => (message, false),
    };
    let quoted = full.strip_suffix(message).unwrap_or(full);
    if ["secret", "whsec"].iter().any(|word| [quoted, told, key].iter().any(|text| text.contains(word))) {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let key = if matches!(key, "" | "." | "?") { String::new() } else { format!("key `{key}`: ") };
        let why = if listed { message } else { "an array of strings is expected" };
        return format!("{key}in line {line}, which is not shown since it is about a secret: {why}");
    }
    let expected = EXPECTED.iter().find(|(word, _)| message.ends_with(&format!("expected {word}")));
    let expected = match expected {
        Some((_, words)) => format!("; {words} is expected"),
        None if message.contains("invalid IP address") => {
            "; an IP address is expected and no name, such as \"127.0.0.1\" or \"0.0.0.0\"".to_owned()
        }
        None => String::new(),
    };
    match key {
        // Nothing but the text as a whole is known to be wrong.
        "" | "." | "?" => full.to_owned(),
        key => format!("key `{key}`: {full}{expected}"),
    }
}

impl Config {
    /// What can be meant, and is likely to be a mistake.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let peers = self.peers();
        if !peers.is_empty() && peers.len().is_multiple_of(2) {
            let (nodes, fewer) = (peers.len(), peers.len() - 1);
            warnings.push(format!(
                "key `peer.peer_hosts`: names {nodes} nodes, which survive the loss of no more nodes than {fewer} do; an odd \
                 number is better"
            ));
        }
        if !self.bind.is_loopback() {
            warnings.push(format!(
                "key `bind`: is \"{}\": there are no credentials, so that every machine that reaches this address can create and read tasks",
                self.bind
            ));
        }
        let is_remote = |peer: &&HostPort| match peer.host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => !address.is_loopback(),
            Err(_) => false,
        };
        if let Some(peer) = peers.iter().find(is_remote).filter(|_| self.bind.is_loopback()) {
            warnings.push(format!(
                "key `bind`: is {}, which peers on other machines ({peer}) cannot reach; an address of this machine on their \
                 network is expected",
                self.bind
            ));
        }
        warnings
    }
}
