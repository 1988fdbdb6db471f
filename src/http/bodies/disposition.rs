//! The header `Content-Disposition` (RFC 6266): the names of files in requests and answers.

use axum::http::{HeaderMap, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::base::error::{Error, Result};

/// The characters that are percent-encoded in `filename*`. All others are in `attr-char` of RFC 8187, section 3.2.1.
const ATTRIBUTE_ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'!').remove(b'$').remove(b'&');

/// The file name in the header of a request. `None` without one.
///
/// # Errors
/// 422 `invalid_file_name` if the name is not UTF-8.
pub fn file_name(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = headers.get(header::CONTENT_DISPOSITION) else { return Ok(None) };
    file_name_of(std::str::from_utf8(value.as_bytes()).map_err(|_| not_utf8())?)
}

/// The file name in the value of the header. `filename*` takes precedence over `filename`.
///
/// # Errors
/// 422 `invalid_file_name` if the name is not UTF-8.
pub fn file_name_of(value: &str) -> Result<Option<String>> {
    let mut plain = None;
    for (name, value) in parameters(value.split_once(';').map_or("", |(_, parameters)| parameters)) {
        if name.eq_ignore_ascii_case("filename*") {
            return extended(&value).map(Some);
        }
        if name.eq_ignore_ascii_case("filename") && plain.is_none() {
            plain = Some(value);
        }
    }
    Ok(plain)
}

/// A value such as `UTF-8''na%C3%AFve.txt` (RFC 8187).
fn extended(value: &str) -> Result<String> {
    let mut parts = value.splitn(3, '\'');
    let (charset, _, text) = (parts.next(), parts.next(), parts.next());
    match (charset, text) {
        (Some(charset), Some(text)) if charset.eq_ignore_ascii_case("utf-8") => {
            percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| not_utf8())
        }
        _ => Err(not_utf8()),
    }
}

fn not_utf8() -> Error {
    Error::invalid("file_name", "invalid_file_name", "must be UTF-8")
}

/// The parameters of a header, such as `a=b; c="d"`. Quotes are removed. Browsers percent-encode a quote in a name, and some
/// programs escape it with a backslash.
pub fn parameters(text: &str) -> impl Iterator<Item = (&str, String)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([';', ' ', '\t']);
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (value, after) = after.split_once(';').unwrap_or((after, ""));
                (value.trim().to_owned(), after)
            }
        };
        rest = after;
        Some((name.trim(), value))
    })
}

/// The text up to the closing quote, and what follows it.
fn unquote(quoted: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => {
                // Only a quote and a backslash are escaped, because old browsers send folders with backslashes.
                match characters.clone().next() {
                    Some((_, escaped @ ('"' | '\\'))) => {
                        value.push(escaped);
                        characters.next();
                    }
                    _ => value.push('\\'),
                }
            }
            other => value.push(other),
        }
    }
    (value, "")
}

/// The header for an answer with a file. `inline` says that a browser may show it.
pub fn header_value(inline: bool, file_name: Option<&str>) -> HeaderValue {
    let kind = if inline { "inline" } else { "attachment" };
    let text = match file_name {
        None => kind.to_owned(),
        Some(name) => {
            let plain: String = name
                .chars()
                .map(|it| if it.is_ascii_graphic() && !"\"\\%".contains(it) || it == ' ' { it } else { '_' })
                .collect();
            format!("{kind}; filename=\"{plain}\"; filename*=UTF-8''{}", utf8_percent_encode(name, ATTRIBUTE_ENCODED))
        }
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_all_their_forms() {
        for (value, name) in [
            ("attachment; filename=a.png", Some("a.png")),
            ("attachment; filename=\"a b.png\"", Some("a b.png")),
            ("attachment; filename=\"a;b=\\\"c\\\".png\"; size=3", Some("a;b=\"c\".png")),
            ("attachment; filename=\"old.txt\"; filename*=UTF-8''na%C3%AFve.txt", Some("naïve.txt")),
            ("form-data; name=\"file\"; filename=\"写真.jpg\"", Some("写真.jpg")),
            ("attachment", None),
            ("form-data; name=\"file\"", None),
        ] {
            assert_eq!(file_name_of(value).unwrap().as_deref(), name, "{value}");
        }
        for value in ["a; filename*=UTF-8''%FF", "a; filename*=latin1''a", "a; filename*=a"] {
            assert!(file_name_of(value).is_err(), "{value}");
        }
    }

    #[test]
    fn a_name_is_written_in_ascii_and_in_utf_8() {
        assert_eq!(
            header_value(false, Some("naïve \"x\".txt")),
            "attachment; filename=\"na_ve _x_.txt\"; filename*=UTF-8''na%C3%AFve%20%22x%22.txt"
        );
        assert_eq!(header_value(true, None), "inline");
    }
}
