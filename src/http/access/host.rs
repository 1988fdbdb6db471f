//! The header `Host` (RFC 9112, section 3.2).
//!
//! Invariant: after [`settle`], the header `Host` of a request is the authority that the request is for. All checks of hosts and
//! origins read only this header.

use std::net::Ipv6Addr;

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, Version, header};

use crate::http::bodies::problem::Problem;

/// Checks the header `Host` and the authority in the request target. If the target has an authority (absolute form), it replaces the
/// header, which the sender could set to anything.
///
/// # Errors
/// 400 `invalid_host` if HTTP/1.1 has no `Host`, if there are several, or if one is not a host with an optional port.
pub fn settle(request: &mut Request) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(invalid_host("The request has the header Host more than once"));
    }
    match host {
        Some(host) if !is_authority(host.as_bytes()) => {
            return Err(invalid_host("The header Host must be a host name or an address, with an optional port"));
        }
        None if request.version() >= Version::HTTP_11 => {
            return Err(invalid_host("Send the header Host, such as Host: example.org"));
        }
        _ => {}
    }
    if let Some(authority) = request.uri().authority() {
        let target = HeaderValue::from_str(authority.as_str()).ok().filter(|target| is_authority(target.as_bytes()));
        let Some(target) = target else {
            return Err(invalid_host("The host in the request target is invalid"));
        };
        request.headers_mut().insert(header::HOST, target);
    }
    Ok(())
}

fn invalid_host(detail: &'static str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_host", detail)
}

/// Whether a text is `host [":" port]` (RFC 9110, section 7.2). An empty host is invalid in an `http` URL.
fn is_authority(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let (is_host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, rest)) => (address.parse::<Ipv6Addr>().is_ok(), rest),
            None => return false,
        },
        None => {
            let end = text.find(':').unwrap_or(text.len());
            (is_name(&text.as_bytes()[..end]), &text[end..])
        }
    };
    is_host && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// A port may be empty.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Whether a text is a `reg-name` (RFC 3986, section 3.2.2) or an IPv4 address.
fn is_name(text: &[u8]) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte);
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let is_valid = |(at, byte): (usize, &u8)| {
        is_plain(*byte) || *byte == b'%' && is_hex(text.get(at + 1)) && is_hex(text.get(at + 2))
    };
    !text.is_empty() && text.iter().enumerate().all(is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_name_or_an_address_and_an_optional_port() {
        for valid in [
            "localhost",
            "EXAMPLE.org:8000",
            "a_b-c.example.",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:65535",
            "localhost:",
            "x%20y",
            "xn--exmple-cua.org",
        ] {
            assert!(is_authority(valid.as_bytes()), "{valid}");
        }
        for invalid in [
            "",
            " ",
            ":80",
            "a b",
            "a/b@c",
            "user@a",
            "a:b",
            "a:80:80",
            "a:65536",
            "a:+1",
            "[::1",
            "[::1]x",
            "[x]",
            "::1",
            "a?b",
            "a#b",
            "a\\b",
            "a%2",
            "a%zz",
            "ex\u{e4}mple.org",
            "a\"b",
            "<a>",
            "http://a",
        ] {
            assert!(!is_authority(invalid.as_bytes()), "{invalid}");
        }
        assert!(!is_authority(b"ex\xe4mple.org"));
    }
}
