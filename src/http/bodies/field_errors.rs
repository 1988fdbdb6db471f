//! The errors for values that serde refuses: the code, and a sentence that says which values are possible.
//!
//! Invariant: the texts contain names of fields and of allowed values, and never the value that the caller sent.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::base::error::FieldError;
use crate::base::text::choices;

/// What is wrong with a value.
type Reason = (&'static str, Cow<'static, str>);

/// The error for a JSON object that is not a `T`. `path` and `message` come from serde.
pub fn of_body<T: DeserializeOwned>(body: &[u8], path: &Path, message: &str) -> FieldError {
    let place = dotted(path);
    let named = |prefix: &str| message.strip_prefix(prefix)?.split('`').next();
    // The path of a missing or a repeated field ends at the object that has the field, and that of an unknown one at the field.
    let inside = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
    let (field, (code, detail)) = if let Some(name) = named("unknown field `") {
        let is_whole = place == name || place.ends_with(&format!(".{name}"));
        (if is_whole { place } else { inside(name) }, ("unknown_field", "unknown field".into()))
    } else if let Some(name) = named("missing field `") {
        (inside(name), ("required", "required".into()))
    } else if let Some(name) = named("duplicate field `") {
        (inside(name), ("duplicate", "must not be given more than once".into()))
    } else if place.is_empty() {
        ("body".to_owned(), ("wrong_type", "must be a JSON object".into()))
    } else {
        let reason = of_message(message).or_else(|| of_choices::<T>(body, path));
        (place, reason.unwrap_or(("wrong_type", "has the wrong type".into())))
    };
    FieldError::new(field.chars().take(64).collect::<String>(), code, detail)
}

/// Whether a message of serde is about a number beyond the range of floating-point numbers.
pub fn is_number_too_large(message: &str) -> bool {
    message.starts_with("number out of range")
}

/// The error for a value of another type than `expected`. Both are in the words of serde.
pub fn wrong_type(found: &str, expected: &str) -> Option<Reason> {
    let given = match found.split(' ').next().unwrap_or_default() {
        "string" | "character" => ", not a string",
        "integer" | "floating" => ", not a number",
        "boolean" => ", not true or false",
        "null" | "unit" | "Option" => ", not null",
        "sequence" => ", not an array",
        "map" => ", not an object",
        _ => "",
    };
    let needed = match expected {
        "a string" | "string" | "a borrowed string" => "a string",
        "a boolean" => "true or false",
        "a sequence" => "an array",
        "a map" => "an object",
        "f32" | "f64" => "a number",
        _ if expected.starts_with("struct ") => "an object",
        _ => return whole_number(found, expected, given),
    };
    Some(("wrong_type", format!("must be {needed}{given}").into()))
}

fn whole_number(found: &str, expected: &str, given: &str) -> Option<Reason> {
    let bounds = match expected {
        "i8" => "-128 and 127",
        "i16" => "-32768 and 32767",
        "i32" => "-2^31 and 2^31 - 1",
        "i64" => "-2^63 and 2^63 - 1",
        "u8" => "0 and 255",
        "u16" => "0 and 65535",
        "u32" => "0 and 2^32 - 1",
        "u64" | "usize" => "0 and 2^64 - 1",
        _ => return None,
    };
    Some(if found.starts_with("integer") {
        ("out_of_range", format!("must be a whole number between {bounds}").into())
    } else if found.starts_with("floating") {
        ("wrong_type", "must be a whole number".into())
    } else {
        ("wrong_type", format!("must be a whole number{given}").into())
    })
}

/// The reason in a message of serde. `None` if the message does not say which values are possible.
fn of_message(message: &str) -> Option<Reason> {
    // The value of the caller is in the middle of the message and can be any text. So the end is read, which is fixed text.
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    if is_number_too_large(message) {
        return Some(("out_of_range", "must be a smaller number".into()));
    }
    if message.starts_with("unknown variant ") {
        let (_, names) = message.rsplit_once("`, expected ")?;
        let names: Vec<&str> = names.split('`').skip(1).step_by(2).collect();
        return Some(("wrong_value", choices(&names).into()));
    }
    let found = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?;
    let (found, expected) = found.rsplit_once(", expected ")?;
    wrong_type(found, expected)
}

/// The reason for a value that must be one of several words and is no text at all. serde lists the words only for a text. So the
/// body is read again with a text that is none of them.
fn of_choices<T: DeserializeOwned>(body: &[u8], path: &Path) -> Option<Reason> {
    let mut document: Value = serde_json::from_slice(body).ok()?;
    let mut value = &mut document;
    let mut names = Vec::new();
    for segment in path.iter() {
        value = match segment {
            Segment::Map { key } => value.get_mut(key)?,
            Segment::Seq { index } => value.get_mut(index)?,
            Segment::Enum { .. } | Segment::Unknown => break,
        };
        names.push(segment.to_string());
    }
    if value.is_string() {
        return None;
    }
    *value = Value::String("\0".to_owned());
    let error = serde_path_to_error::deserialize::<_, T>(document).err()?;
    let same = error.path().iter().map(Segment::to_string).eq(names);
    of_message(&error.into_inner().to_string()).filter(|(code, _)| same && *code == "wrong_value")
}

/// The names of a path, separated by dots.
fn dotted(path: &Path) -> String {
    let names = path.iter().filter_map(|segment| match segment {
        Segment::Map { key } => Some(key.clone()),
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    names.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Direct,
        Group,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Role {
        Member,
        Admin,
        Owner,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Inner {
        role: Option<Role>,
        flag: Option<bool>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Body {
        kind: Kind,
        count: Option<i64>,
        small: Option<u8>,
        name: Option<String>,
        names: Option<Vec<String>>,
        me: Option<Inner>,
    }

    fn refusal(body: &str) -> (String, &'static str, String) {
        let mut reader = serde_json::Deserializer::from_str(body);
        let error = serde_path_to_error::deserialize::<_, Body>(&mut reader).unwrap_err();
        let path = error.path().clone();
        let error = of_body::<Body>(body.as_bytes(), &path, &error.into_inner().to_string());
        (error.field.into_owned(), error.code, error.detail.into_owned())
    }

    #[test]
    fn the_errors_name_the_possible_values() {
        let kind = r#""kind": "group", "#;
        for (body, field, code, detail) in [
            (r#"{"kind": "room"}"#.to_owned(), "kind", "wrong_value", "must be direct or group"),
            (r#"{"kind": "x`, expected `secret"}"#.to_owned(), "kind", "wrong_value", "must be direct or group"),
            (r#"{"kind": 5}"#.to_owned(), "kind", "wrong_value", "must be direct or group"),
            (r#"{"kind": null}"#.to_owned(), "kind", "wrong_value", "must be direct or group"),
            (r#"{"kind": true}"#.to_owned(), "kind", "wrong_value", "must be direct or group"),
            (r#"{"kind": ["group"]}"#.to_owned(), "kind", "wrong_value", "must be direct or group"),
            (r#"{"kind": {"a": 1}}"#.to_owned(), "kind", "wrong_value", "must be direct or group"),
            (
                format!(r#"{{{kind}"me": {{"role": "boss"}}}}"#),
                "me.role",
                "wrong_value",
                "must be member, admin or owner",
            ),
            (format!(r#"{{{kind}"me": {{"role": 1}}}}"#), "me.role", "wrong_value", "must be member, admin or owner"),
            (
                format!(r#"{{{kind}"me": {{"flag": "no"}}}}"#),
                "me.flag",
                "wrong_type",
                "must be true or false, not a string",
            ),
            (format!(r#"{{{kind}"me": {{"x": 1}}}}"#), "me.x", "unknown_field", "unknown field"),
            (format!(r#"{{{kind}"me": []}}"#), "me", "wrong_type", "has the wrong type"),
            (format!(r#"{{{kind}"x": 1}}"#), "x", "unknown_field", "unknown field"),
            (format!(r#"{{{kind}"kind": "group"}}"#), "kind", "duplicate", "must not be given more than once"),
            ("{}".to_owned(), "kind", "required", "required"),
            (format!(r#"{{{kind}"count": "5"}}"#), "count", "wrong_type", "must be a whole number, not a string"),
            (format!(r#"{{{kind}"count": 1.5}}"#), "count", "wrong_type", "must be a whole number"),
            (
                format!(r#"{{{kind}"count": 9223372036854775808}}"#),
                "count",
                "out_of_range",
                "must be a whole number between -2^63 and 2^63 - 1",
            ),
            (format!(r#"{{{kind}"small": 256}}"#), "small", "out_of_range", "must be a whole number between 0 and 255"),
            (format!(r#"{{{kind}"count": 1e400}}"#), "count", "out_of_range", "must be a smaller number"),
            (format!(r#"{{{kind}"name": 5}}"#), "name", "wrong_type", "must be a string, not a number"),
            (format!(r#"{{{kind}"names": "a"}}"#), "names", "wrong_type", "must be an array, not a string"),
            (format!(r#"{{{kind}"names": ["a", null]}}"#), "names.1", "wrong_type", "must be a string, not null"),
        ] {
            assert_eq!(refusal(&body), (field.to_owned(), code, detail.to_owned()), "{body}");
        }
    }
}
