//! `[security]`: who may call.

use serde::Deserialize;

use super::Complaint;

/// `[security]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    /// Names under which browsers and other callers reach this node, beside addresses, `localhost` and the names of the
    /// peers; `*.` before one: those below it. Default: `[]`.
    pub hosts: Vec<String>,
}

impl Security {
    /// Whether the values can be meant.
    pub(super) fn validate(&self) -> Result<(), Complaint> {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
                && !name.starts_with('.')
        };
        match self.hosts.iter().find(|name| !is_name(name.strip_prefix("*.").unwrap_or(name))) {
            None => Ok(()),
            Some(name) => {
                let detail = format!(
                    "{name:?} is no host name; such as \"xcron.example.com\" or \"*.example.com\" is expected, \
                                      without a port"
                );
                Err(("security.hosts", detail))
            }
        }
    }
}
