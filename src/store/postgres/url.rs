//! PostgreSQL URLs in libpq's form: several hosts, each with its port, and options in the query.
//!
//! Invariant: no text that this module returns for a log or an error contains a password.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::base::error::{Error, Result};

/// PostgreSQL's port, for a URL that names none.
pub const DEFAULT_PORT: u16 = 5432;

/// A URL without the options that tokio_postgres does not know.
pub struct Url {
    /// The URL for `tokio_postgres`.
    pub text: String,
    /// The value of `sslmode`, if it is given.
    pub ssl_mode: Option<String>,
    /// The value of `sslrootcert`, if it is given.
    pub ssl_root_file: Option<String>,
    /// Whether `target_session_attrs` is given.
    pub names_session_attributes: bool,
}

/// Parses a URL.
///
/// # Errors
/// [`Error::Internal`] when it is not a PostgreSQL URL.
pub fn parse(url: &str) -> Result<Url> {
    let (base, query) = url.split_at(query_start(url).ok_or_else(|| unreadable("has no ://"))?);
    let mut parsed =
        Url { text: base.to_owned(), ssl_mode: None, ssl_root_file: None, names_session_attributes: false };
    let mut separator = '?';
    for pair in query.trim_start_matches('?').split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| unreadable("has an option without a value"))?;
        let decoded = percent_decode_str(value).decode_utf8().map_err(|_| unreadable("is not UTF-8"))?;
        let value = match name {
            "sslmode" => {
                parsed.ssl_mode = Some(decoded.into_owned());
                continue;
            }
            "sslrootcert" => {
                parsed.ssl_root_file = Some(decoded.into_owned());
                continue;
            }
            "target_session_attrs" => {
                parsed.names_session_attributes = true;
                // tokio_postgres does not support libpq's value `primary`. The closest value that it supports is
                // `read-write`.
                if decoded == "primary" { Cow::Borrowed("read-write") } else { Cow::Borrowed(value) }
            }
            // An @ is encoded, because tokio_postgres would read everything before it as user and password.
            _ => Cow::Owned(value.replace('@', "%40")),
        };
        parsed.text.push(separator);
        parsed.text.extend([name, "=", &value]);
        separator = '&';
    }
    Ok(parsed)
}

fn unreadable(reason: &str) -> Error {
    Error::internal(format!("the PostgreSQL URL cannot be read: it {reason}"))
}

/// The index of the question mark at which the query begins. The length of the URL when there is no query.
fn query_start(url: &str) -> Option<usize> {
    let authority = url.find("://")? + 3;
    // A password can contain a question mark. In that case an @ follows before the first slash.
    let end = url[authority..].find('/').map_or(url.len(), |slash| authority + slash);
    let hosts = url[authority..end].rfind('@').map_or(authority, |at| authority + at + 1);
    Some(url[hosts..].find('?').map_or(url.len(), |mark| hosts + mark))
}

/// The hosts and the database of a URL, for a log. Returns only "PostgreSQL" when the URL has an unusual form, so that the
/// result could contain a password.
pub fn describe(url: &str) -> String {
    hosts_and_database(url).map_or_else(|| "PostgreSQL".to_owned(), |place| format!("PostgreSQL {place}"))
}

fn hosts_and_database(url: &str) -> Option<String> {
    let place = &url[url.find("://")? + 3..query_start(url)?];
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    if database.contains('@') {
        return None;
    }
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let hosts: Option<Vec<String>> = hosts.split(',').map(host_and_port).collect();
    Some(format!("{}/{database}", hosts?.join(",")))
}

fn host_and_port(text: &str) -> Option<String> {
    // An IPv6 address, which contains colons, is in brackets.
    let colon = text.rfind(':').filter(|colon| !text[*colon..].contains(']'));
    let (host, port) = match colon {
        Some(colon) => (&text[..colon], text[colon + 1..].parse().ok()?),
        None => (text, DEFAULT_PORT),
    };
    Some(format!("{}:{port}", if host.is_empty() { "localhost" } else { host }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_described_without_its_password() {
        for (url, place) in [
            ("postgres://user:secret@one:5433/db", "PostgreSQL one:5433/db"),
            ("postgres://user:secret@one/db?sslmode=require", "PostgreSQL one:5432/db"),
            ("postgresql://user:secret@one:5432,two:5433/db", "PostgreSQL one:5432,two:5433/db"),
            ("postgres://one,two:6000/db", "PostgreSQL one:5432,two:6000/db"),
            ("postgres://[::1]:5433,[::2]/db", "PostgreSQL [::1]:5433,[::2]:5432/db"),
            ("postgres:///db?host=/run/postgresql&user=secret", "PostgreSQL localhost:5432/db"),
            ("postgres://user:se@cret@one/db", "PostgreSQL one:5432/db"),
            ("postgres://user:se?secret@one/db", "PostgreSQL one:5432/db"),
            ("postgres://user:12/secret@one/db", "PostgreSQL"),
            ("postgres://user:secret/secret@one/db", "PostgreSQL"),
        ] {
            assert_eq!(describe(url), place, "{url}");
        }
    }

    #[test]
    fn tls_options_are_removed_and_others_stay_unchanged() {
        let url =
            parse("postgres://u:p%40s@one:1,two:2/db?sslmode=verify-full&sslrootcert=%2Ftmp%2Fa%20b&options=-c%20x");
        let url = url.unwrap();
        assert_eq!(url.text, "postgres://u:p%40s@one:1,two:2/db?options=-c%20x");
        assert_eq!(url.ssl_mode.as_deref(), Some("verify-full"));
        assert_eq!(url.ssl_root_file.as_deref(), Some("/tmp/a b"));
        assert!(!url.names_session_attributes);
        let url = parse("postgres:///db?host=/run&user=a@b&target_session_attrs=primary").unwrap();
        assert_eq!(url.text, "postgres:///db?host=/run&user=a%40b&target_session_attrs=read-write");
        assert!(url.names_session_attributes);
        for wrong in ["postgres", "postgres://one/db?sslmode"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
