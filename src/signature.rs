//! Signatures of what is sent, by [Standard Webhooks](https://www.standardwebhooks.com): whoever shares a secret with the
//! sender can tell that a request is its own, whole, and not an old one that is sent again.

use std::fmt;
use std::str::FromStr;

use base64::prelude::{Engine, BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Most secrets of one task, and of the configuration: two while one takes the other's place, and some to spare.
pub const SECRETS_MAX: usize = 4;

const PREFIX: &str = "whsec_";
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret as it is written, `whsec_` and base64. It is compared and stored, and never shown.
///
/// What comes out of a configuration can be ill-formed until it has been validated; such a one signs nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// A text that is no secret. It does not say which text: it may be one all the same, a little misspelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a secret: whsec_ and 24 to 64 bytes in base64 are expected")]
pub struct Malformed;

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl FromStr for Secret {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Secret, Malformed> {
        let secret = Secret(text.to_owned());
        secret.check()?;
        Ok(secret)
    }
}

impl Secret {
    /// Whether it is well-formed.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self) -> Result<(), Malformed> {
        self.key().map(drop)
    }

    fn key(&self) -> Result<Vec<u8>, Malformed> {
        let encoded = self.0.strip_prefix(PREFIX).ok_or(Malformed)?;
        let key = BASE64_STANDARD.decode(encoded).map_err(|_| Malformed)?;
        Some(key).filter(|key| KEY_BYTES.contains(&key.len())).ok_or(Malformed)
    }
}

/// Adds to a request what proves its origin: `id`, when it is sent, and a signature by each secret over both and `body`.
/// Without a secret nothing is added.
pub fn sign(headers: &mut HeaderMap, secrets: &[Secret], id: &str, at: Timestamp, body: &[u8]) {
    let seconds = at.as_secs().to_string();
    let head = format!("{id}.{seconds}.");
    let signatures: Vec<String> = secrets
        .iter()
        .filter_map(|secret| {
            let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &secret.key().ok()?));
            context.update(head.as_bytes());
            context.update(body);
            Some(format!("v1,{}", BASE64_STANDARD.encode(context.sign())))
        })
        .collect();
    if signatures.is_empty() {
        return;
    }
    let values = [("webhook-id", id), ("webhook-timestamp", &seconds), ("webhook-signature", &signatures.join(" "))];
    for (name, value) in values {
        // An id is a UUID, and base64 has no character that a header value may not have.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn signed(secrets: &[&str], body: &str) -> HeaderMap {
        let secrets: Vec<Secret> = secrets.iter().map(|s| s.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        let at = Timestamp(1_614_265_330_999);
        sign(&mut headers, &secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, body.as_bytes());
        headers
    }

    #[test]
    fn the_published_example_has_its_published_signature() {
        let headers = signed(&[SECRET], r#"{"test": 2432232314}"#);
        assert_eq!(headers["webhook-id"], "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_secret_signs_and_none_adds_nothing() {
        let other = format!("whsec_{}", BASE64_STANDARD.encode([7; 64]));
        let one = |secret: &str| signed(&[secret], "x")["webhook-signature"].to_str().unwrap().to_owned();
        let both = signed(&[SECRET, &other], "x");
        assert_eq!(both["webhook-signature"], format!("{} {}", one(SECRET), one(&other)));
        assert_ne!(one(SECRET), one(&other));
        assert!(signed(&[], "x").is_empty());
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret: Secret = SECRET.parse().unwrap();
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "Secret(…) Some(Secret(…))");
        let misspelt = SECRET.replace("whsec_", "whsec-").parse::<Secret>().unwrap_err();
        assert!(!format!("{misspelt} {misspelt:?}").contains("MfKQ"));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let of = |bytes: usize| format!("whsec_{}", BASE64_STANDARD.encode(vec![1; bytes]));
        for good in [of(24), of(64)] {
            assert!(good.parse::<Secret>().is_ok());
        }
        let bad = [of(23), of(65), String::new(), "whsec_".into(), "whsec_!!!".into(), SECRET.replace("whsec_", "")];
        for text in bad {
            assert_eq!(text.parse::<Secret>(), Err(Malformed), "{text}");
        }
    }
}
