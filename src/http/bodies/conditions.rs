//! Entity tags, and the conditions of a request that name them (RFC 9110, sections 8.8.3 and 13.1).
//!
//! Invariant: a strong tag belongs to exact bytes, so each encoding of an answer has its own tag: the tag of the answer without an
//! encoding, with a suffix. A condition holds for an object if it names the tag of any of these encodings.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::{Digest, Sha256};

use crate::base::error::Result;
use crate::base::ids::hex;
use crate::domain::shared::precondition::Precondition;

/// The encodings, and the ends of their tags.
const SUFFIXES: &[(&str, &[u8])] = &[("gzip", b"-gzip\""), ("br", b"-br\"")];

/// The entity tag of an answer without an encoding.
pub fn entity_tag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex(&Sha256::digest(bytes)[..16]))
}

/// The entity tag of an answer in an encoding. `tag` is that of the answer without one.
pub fn tag_in_encoding(tag: &HeaderValue, encoding: &HeaderValue) -> Option<HeaderValue> {
    let (_, suffix) = SUFFIXES.iter().find(|(name, _)| encoding.as_bytes() == name.as_bytes())?;
    HeaderValue::from_bytes(&[tag.as_bytes().strip_suffix(b"\"")?, suffix].concat()).ok()
}

/// Whether the caller already has the version with this entity tag, in any encoding.
pub fn has_version(headers: &HeaderMap, tag: &str) -> bool {
    Conditions::of(headers).outcome(tag) == Outcome::NotModified
}

/// What the conditions of a request mean for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They hold.
    Proceed,
    /// The caller already has this version: 304.
    NotModified,
    /// The object has another version than the caller expects: 412.
    Failed,
}

/// The conditions of a request.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    if_match: Vec<HeaderValue>,
    if_none_match: Vec<HeaderValue>,
}

impl Conditions {
    /// The conditions in the headers of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        let all = |name: HeaderName| headers.get_all(name).iter().cloned().collect();
        Self { if_match: all(header::IF_MATCH), if_none_match: all(header::IF_NONE_MATCH) }
    }

    fn is_empty(&self) -> bool {
        self.if_match.is_empty() && self.if_none_match.is_empty()
    }

    /// Compares the conditions with the tag of an object that exists, as a read does.
    pub fn outcome(&self, tag: &str) -> Outcome {
        if !self.if_match.is_empty() && !names(&self.if_match, tag, Comparison::Strong) {
            Outcome::Failed
        } else if names(&self.if_none_match, tag, Comparison::Weak) {
            Outcome::NotModified
        } else {
            Outcome::Proceed
        }
    }
}

/// The conditions of a request that changes an object. `render` gives the bytes of the answer to GET.
pub fn precondition<T: 'static>(
    headers: &HeaderMap,
    render: impl Fn(&T) -> Result<Vec<u8>> + Send + Sync + 'static,
) -> Precondition<T> {
    let conditions = Conditions::of(headers);
    if conditions.is_empty() {
        return Precondition::none();
    }
    Precondition::new(Arc::new(move |current: &T| {
        Ok(conditions.outcome(&entity_tag(&render(current)?)) == Outcome::Proceed)
    }))
}

/// How tags are compared. `If-Match` needs the exact bytes, so no weak tag matches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Whether a list of tags names this tag, that of another encoding of the same answer, or `*`.
fn names(list: &[HeaderValue], tag: &str, comparison: Comparison) -> bool {
    let mut tags = list.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    tags.any(|named| {
        let named = match named.strip_prefix(b"W/") {
            Some(_) if comparison == Comparison::Strong => return false,
            Some(weak) => weak,
            None => named,
        };
        named == b"*" || named == tag.as_bytes() || is_encoding_of(named, tag)
    })
}

fn is_encoding_of(named: &[u8], tag: &str) -> bool {
    let Some(opaque) = tag.as_bytes().strip_suffix(b"\"") else { return false };
    SUFFIXES.iter().any(|(_, suffix)| named.strip_suffix(*suffix) == Some(opaque))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: HeaderName, value: &'static str) -> Outcome {
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        Conditions::of(&headers).outcome("\"abc\"")
    }

    #[test]
    fn a_condition_names_any_encoding() {
        for value in ["\"abc\"", "\"abc-gzip\"", "\"abc-br\"", "\"x\", \"abc-br\"", "*"] {
            assert_eq!(outcome(header::IF_NONE_MATCH, value), Outcome::NotModified, "{value}");
            assert_eq!(outcome(header::IF_MATCH, value), Outcome::Proceed, "{value}");
        }
        for value in ["W/\"abc\"", "W/\"abc-gzip\""] {
            assert_eq!(outcome(header::IF_NONE_MATCH, value), Outcome::NotModified, "{value}");
            assert_eq!(outcome(header::IF_MATCH, value), Outcome::Failed, "{value}");
        }
        for value in ["\"abd\"", "\"abc-zstd\"", "\"-gzip\"", "abc", "\"ab\"", ""] {
            assert_eq!(outcome(header::IF_NONE_MATCH, value), Outcome::Proceed, "{value}");
            assert_eq!(outcome(header::IF_MATCH, value), Outcome::Failed, "{value}");
        }
    }

    #[test]
    fn each_encoding_has_its_own_tag() {
        let tag = HeaderValue::from_static("\"abc\"");
        let of = |encoding| tag_in_encoding(&tag, &HeaderValue::from_static(encoding));
        assert_eq!(of("gzip").unwrap(), "\"abc-gzip\"");
        assert_eq!(of("br").unwrap(), "\"abc-br\"");
        assert_eq!(of("identity"), None);
    }
}
