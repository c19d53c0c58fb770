//! Reading the parameters of a call.

use std::fmt;
use std::str::FromStr;

use axum::http::Uri;

use super::error::Error;
use crate::clock::Timestamp;
use crate::node;

/// From where a read is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consistency {
    /// From the state that holds every write acknowledged before.
    Linearizable,
    /// From this node's own state, which can be behind.
    Local,
}

/// The parameters of a query, of which none is unknown and none is given twice.
#[derive(Debug)]
pub(super) struct Query {
    /// Those that were not read yet.
    left: Vec<(&'static str, String)>,
    /// A checksum of those that say what a list holds.
    filters: u32,
}

/// Where a list goes on, under the filters under which it was begun: the place and their checksum, `t57-1a2b3c4d`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    place: Option<String>,
    filters: u32,
}

impl Cursor {
    /// The place, as the list has named it; none: the list begins.
    pub fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// The cursor of the next part, which begins at this place.
    pub fn next(&self, place: Option<String>) -> Option<String> {
        place.map(|place| format!("{place}-{:08x}", self.filters))
    }
}

/// The latest instant that a parameter may name, in unix seconds: the end of the year 9999.
pub(super) const SECONDS_MAX: u64 = 253_402_300_799;
/// What may be another from page to page of a list.
const PAGING: [&str; 3] = ["limit", "cursor", "consistency"];
/// How long a page is where its length is not asked for.
const PAGE: usize = 100;
/// How long a page may be.
const PAGE_MAX: u64 = 1000;

impl Query {
    /// Reads those of `uri`.
    pub fn parse(uri: &Uri, known: &[&'static str]) -> Result<Query, Error> {
        let mut found: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            let Some(&name) = known.iter().find(|k| **k == name) else {
                return Err(Error::malformed(match known {
                    [] => format!("{name}: unknown parameter; this call takes none"),
                    _ => format!("{name}: unknown parameter; known are {}", known.join(", ")),
                }));
            };
            if found.iter().any(|(other, _)| *other == name) {
                return Err(Error::malformed(format!("{name}: given twice")));
            }
            found.push((name, value.into_owned()));
        }
        let mut filters: Vec<_> = found.iter().filter(|(name, _)| !PAGING.contains(name)).collect();
        filters.sort_unstable();
        let mut checksum = crc32fast::Hasher::new();
        for text in filters.into_iter().flat_map(|(name, value)| [*name, value]) {
            checksum.update(&(text.len() as u64).to_be_bytes());
            checksum.update(text.as_bytes());
        }
        Ok(Query { left: found, filters: checksum.finalize() })
    }

    /// That there are none.
    pub fn none(uri: &Uri) -> Result<(), Error> {
        uri.query().map_or(Ok(()), |_| Query::parse(uri, &[]).map(drop))
    }

    /// One as it is.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let at = self.left.iter().position(|(n, _)| *n == name)?;
        Some(self.left.swap_remove(at).1)
    }

    /// One, read as a `T`.
    pub fn read<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Result<Option<T>, Error> {
        let read = |text: String| text.parse().map_err(|e| Error::malformed(format!("{name}: {e}")));
        self.text(name).map(read).transpose()
    }

    /// One that must be there, read as a `T`.
    pub fn must<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Result<T, Error> {
        self.read(name)?.ok_or_else(|| Error::malformed(format!("{name}: missing")))
    }

    /// A number within a range.
    pub fn number(&mut self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Error> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse().ok().filter(|n| digits && (min..=max).contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(Error::malformed(format!("{name}: a number from {min} to {max} is expected, not {text:?}"))),
        }
    }

    /// `from` and `to`: whole seconds, from the beginning of the one to the end of the other.
    pub fn period(&mut self) -> Result<(Option<Timestamp>, Option<Timestamp>), Error> {
        let from = self.number("from", 0, SECONDS_MAX)?.map(Timestamp::from_secs);
        let to = self.number("to", 0, SECONDS_MAX)?.map(|seconds| Timestamp::from_secs(seconds).plus_ms(999));
        match (from, to) {
            (Some(from), Some(to)) if to < from => Err(Error::malformed("to: is before from")),
            period => Ok(period),
        }
    }

    /// How many items a page may hold.
    pub fn limit(&mut self) -> Result<usize, Error> {
        Ok(self.number("limit", 1, PAGE_MAX)?.map_or(PAGE, |n| n as usize))
    }

    /// Where to go on with a list.
    ///
    /// # Errors
    /// A cursor that was given out for other filters: its place says nothing in this list.
    pub fn cursor(&mut self) -> Result<Cursor, Error> {
        let filters = self.filters;
        let Some(text) = self.text("cursor") else { return Ok(Cursor { place: None, filters }) };
        let parts = text.rsplit_once('-').filter(|(place, sum)| !place.is_empty() && sum.len() == 8);
        let read = parts.and_then(|(place, sum)| Some((place, u32::from_str_radix(sum, 16).ok()?)));
        let (place, of) = read.ok_or(node::Error::Cursor)?;
        if of != filters {
            return Err(Error::malformed("cursor: it was given out for a list with other filters"));
        }
        Ok(Cursor { place: Some(place.to_owned()), filters })
    }

    /// From where to answer.
    pub fn consistency(&mut self) -> Result<Consistency, Error> {
        match self.text("consistency").as_deref() {
            None => Ok(Consistency::Linearizable),
            Some("local") => Ok(Consistency::Local),
            Some(other) => {
                Err(Error::malformed(format!("consistency: only \"local\" can be asked for, not {other:?}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, Error> {
        Query::parse(&text.parse().unwrap(), &["a", "b", "limit", "cursor", "consistency"])
    }

    #[test]
    fn a_query_refuses_the_unknown_and_the_doubled() {
        assert_eq!(query("/x?a=1%3A2&limit=3").unwrap().text("a").unwrap(), "1:2");
        assert!(query("/x?c=1").unwrap_err().message().starts_with("c: unknown"));
        assert_eq!(query("/x?a=1&a=1").unwrap_err().message(), "a: given twice");
        assert!(Query::none(&"/x".parse().unwrap()).is_ok());
        assert!(Query::none(&"/x?".parse().unwrap()).is_ok());
        assert!(Query::none(&"/x?a=1".parse().unwrap()).unwrap_err().message().starts_with("a: unknown"));
    }

    #[test]
    fn a_limit_is_from_1_to_1000() {
        let limit = |text: &str| query(text).unwrap().limit();
        assert_eq!((limit("/x"), limit("/x?limit=1000")), (Ok(100), Ok(1000)));
        for bad in ["0", "1001", "-1", "%2B5", "", "x", "1.0", "99999999999999999999999"] {
            let error = limit(&format!("/x?limit={bad}")).unwrap_err();
            assert!(error.message().starts_with("limit: a number from 1 to 1000 is expected"), "{error}");
        }
    }

    #[test]
    fn a_cursor_belongs_to_the_filters_of_its_list_however_they_are_written() {
        let begun = query("/x?a=%31&limit=3&b=2").unwrap().cursor().unwrap();
        assert_eq!(begun.place(), None);
        assert_eq!(begun.next(None), None);
        let cursor = begun.next(Some("w1-2".to_owned())).unwrap();
        let place = |filters: &str| query(&format!("/x?{filters}&cursor={cursor}")).unwrap().cursor();
        assert_eq!(place("b=2&a=1&limit=9&consistency=local").unwrap().place(), Some("w1-2"));
        for others in ["", "a=1", "a=2&b=1", "a=1&b=3", "a=&b=12"] {
            let error = place(others).unwrap_err();
            assert!(error.message().contains("other filters"), "{others}: {error}");
        }
        for bad in ["", "x", "-", "-00000000", "t1", "t1-", "t1-123", "t1-0000000g", "t1-000000000"] {
            let error = query(&format!("/x?cursor={bad}")).unwrap().cursor().unwrap_err();
            assert_eq!(error.message(), "cursor: not one that this list gave out", "{bad:?}");
        }
    }

    #[test]
    fn consistency_is_local_or_not_given() {
        assert_eq!(query("/x?consistency=local").unwrap().consistency(), Ok(Consistency::Local));
        assert_eq!(query("/x").unwrap().consistency(), Ok(Consistency::Linearizable));
        assert!(query("/x?consistency=").unwrap().consistency().is_err());
    }
}
