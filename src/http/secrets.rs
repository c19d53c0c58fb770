//! Secrets as a caller sends them. What is wrong with them is told without a word of what was sent: a misspelt secret is
//! still one.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};

use crate::signature::{Malformed, Secret, SECRETS_MAX};

/// Secrets; of more than [`SECRETS_MAX`] one too many is kept, by which that is seen.
#[derive(Debug, Default)]
pub(super) struct SentSecrets(pub Vec<Secret>);

/// One, or what stands in its place.
enum Item {
    Secret(Secret),
    Bad(Malformed),
}

const EXPECTED: &str = "an array of secrets is expected";

impl<'de> Deserialize<'de> for SentSecrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = SentSecrets;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of secrets")
            }
            fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<SentSecrets, E> {
                Err(E::custom(EXPECTED))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<SentSecrets, A::Error> {
                let mut secrets = Vec::new();
                while let Some(item) = array.next_element()? {
                    match item {
                        Item::Secret(_) if secrets.len() > SECRETS_MAX => {}
                        Item::Secret(secret) => secrets.push(secret),
                        Item::Bad(error) => {
                            return Err(A::Error::custom(format!("the one numbered {} {error}", secrets.len() + 1)));
                        }
                    }
                }
                Ok(SentSecrets(secrets))
            }
        }
        deserializer.deserialize_any(List)
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Item;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Item, E> {
                Ok(text.parse().map_or_else(Item::Bad, Item::Secret))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Item, A::Error> {
                while array.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Item::Bad(Malformed))
            }
        }
        deserializer.deserialize_any(One)
    }
}

#[cfg(test)]
mod tests {
    use super::super::extract::json_text;
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Task {
        #[serde(default)]
        secrets: SentSecrets,
    }

    #[test]
    fn secrets_are_read_and_what_is_none_is_not_repeated() {
        let secret = "whsec_c2hvd25zaG93bnNob3duc2hvd25zaG93bg==";
        let read = |secrets: String| json_text::<Task>(&format!("{{\"secrets\":{secrets}}}"));
        assert_eq!(read(format!("[{secret:?},{secret:?}]")).unwrap().secrets.0.len(), 2);
        assert_eq!(read("[]".into()).unwrap().secrets.0.len(), 0);
        for bad in [
            format!("{secret:?}"),
            format!("{{\"a\":{secret:?}}}"),
            format!("[{:?}]", secret.replace("whsec_", "whsek_")),
            format!("[[{secret:?}]]"),
            format!("[{{\"a\":{secret:?}}}]"),
            format!("[{}5]", format!("{secret:?},").repeat(1)),
            "null".into(),
            "7".into(),
        ] {
            let error = read(bad.clone()).unwrap_err();
            assert_eq!(error.code().number(), 1000, "{bad}");
            assert!(error.message().starts_with("secrets"), "{bad}: {error}");
            assert!(!error.message().contains("c2hvd25z"), "{bad}: {error}");
        }
    }
}
