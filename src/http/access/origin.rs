//! Which hosts and origins are ours.
//!
//! Invariant: open access trusts whoever reaches it, so it must be reached under a name that a stranger's page cannot take
//! (DNS rebinding), and from no stranger's page (cross-site requests).

use std::net::{IpAddr, Ipv6Addr};

use axum::http::{HeaderMap, Method, StatusCode, header};

use crate::http::bodies::problem::Problem;

/// What the operator said about names.
#[derive(Clone, Debug, Default)]
pub struct OriginRules {
    /// `scheme://host[:port]` of the public URL, lower case.
    pub public_origin: Option<String>,
    /// Origins that may call from a browser.
    pub cors_origins: Vec<String>,
}

impl OriginRules {
    /// Refuses what open access must not answer.
    ///
    /// # Errors
    /// 421 for a foreign `Host`, 403 for a foreign `Origin` on an unsafe method.
    pub fn check_open(&self, method: &Method, headers: &HeaderMap, uri_host: Option<&str>) -> Result<(), Problem> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(uri_host);
        if !host.is_some_and(|host| self.is_ours(host)) {
            return Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "foreign_host",
                "open access answers only loopback names and the host of --public-url",
            ));
        }
        let safe = is_safe(method, headers);
        let foreign = |origin| !self.is_allowed(origin, host.unwrap_or_default());
        if !safe && origin(headers).is_some_and(foreign) {
            return Err(foreign_origin("not the server's own, and not one of --cors-origin"));
        }
        Ok(())
    }

    fn is_ours(&self, host: &str) -> bool {
        is_loopback(host)
            || self
                .public_origin
                .as_deref()
                .and_then(|origin| origin.split_once("://"))
                .is_some_and(|(_, public_host)| public_host.eq_ignore_ascii_case(host))
    }

    /// Refuses what a page of another origin makes a browser do with its cookie. Browsers name the origin of everything that
    /// is unsafe.
    ///
    /// # Errors
    /// 403 for a foreign `Origin`, or none, on an unsafe method.
    pub fn check_cookie(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        if is_safe(method, headers) {
            return Ok(());
        }
        let origin = origin(headers).unwrap_or_default().to_ascii_lowercase();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        // An origin that CORS lets in calls without cookies: it is no origin of ours.
        let ours = match &self.public_origin {
            Some(public_origin) => *public_origin == origin,
            None => origin
                .split_once("://")
                .is_some_and(|(_, its_host)| !its_host.is_empty() && its_host.eq_ignore_ascii_case(host)),
        };
        if ours { Ok(()) } else { Err(foreign_origin("not the server's own, as it must be with a cookie")) }
    }

    fn is_allowed(&self, origin: &str, host: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.public_origin.as_deref() == Some(&origin) || self.cors_origins.contains(&origin) {
            return true;
        }
        origin.split_once("://").is_some_and(|(_, its_host)| its_host.eq_ignore_ascii_case(host))
    }
}

/// Whether a request changes nothing, whoever made a browser send it. One for a WebSocket begins as a GET, and no rule of
/// browsers keeps a page of another origin from reading and writing there.
fn is_safe(method: &Method, headers: &HeaderMap) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) && !headers.contains_key(header::UPGRADE)
}

/// The one origin that a request names. Where it names several, that is nobody's.
fn origin(headers: &HeaderMap) -> Option<&str> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = origins.next()?.to_str().unwrap_or_default();
    Some(if origins.next().is_some() { "" } else { origin })
}

fn foreign_origin(what: &str) -> Problem {
    let detail = format!("this page may not do that: its origin is {what}");
    Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail)
}

/// `scheme://host[:port]` of a URL.
pub fn origin_of(url: &url::Url) -> Option<String> {
    let origin = url.origin();
    origin.is_tuple().then(|| origin.ascii_serialization().to_ascii_lowercase())
}

/// Whether a Host header names this machine: localhost or a loopback address, with any port.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || port.starts_with(':') => {
                return address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
            }
            _ => return false,
        },
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_names() {
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:8000", "a.localhost"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["", "example.org", "localhost.example.org", "127.0.0.1.nip.io", "10.0.0.1", "[::2]", "[::1]x", "::1"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
