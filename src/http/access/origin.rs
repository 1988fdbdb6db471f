//! Checks of the headers `Host` and `Origin`.
//!
//! Invariant: open access allows every request that reaches the server. So the server then answers only under host names that a
//! foreign page cannot take over (DNS rebinding), and refuses unsafe requests of foreign pages (cross-site request forgery).

use std::net::{IpAddr, Ipv6Addr};

use axum::http::{HeaderMap, Method, StatusCode, header};

use crate::http::bodies::problem::Problem;

/// The hosts and origins of the server, and the other origins that may call it.
#[derive(Clone, Debug, Default)]
pub struct OriginRules {
    /// `scheme://host[:port]` of the public URL, lower case.
    pub public_origin: Option<String>,
    /// Other origins whose pages may call from a browser.
    pub cors_origins: Vec<String>,
}

impl OriginRules {
    /// Checks a request under open access.
    ///
    /// # Errors
    /// 421 for a foreign `Host`, 403 for a foreign `Origin` on an unsafe method.
    pub fn check_open(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        if !host.is_some_and(|host| self.is_own_host(host)) {
            return Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "foreign_host",
                "Open access answers only loopback host names and the host of --public-url",
            ));
        }
        let safe = is_safe(method, headers);
        let foreign = |origin| !self.is_allowed(origin, host.unwrap_or_default());
        if !safe && origin(headers).is_some_and(foreign) {
            return Err(foreign_origin("neither the origin of this server nor one of --cors-origin"));
        }
        Ok(())
    }

    fn is_own_host(&self, host: &str) -> bool {
        is_loopback(host)
            || self
                .public_origin
                .as_deref()
                .and_then(|origin| origin.split_once("://"))
                .is_some_and(|(_, public_host)| public_host.eq_ignore_ascii_case(host))
    }

    /// Checks a request with a cookie: an unsafe one must come from a page of this server. Browsers send the `Origin` of all
    /// unsafe requests.
    ///
    /// # Errors
    /// 403 for a foreign or missing `Origin` on an unsafe method.
    pub fn check_cookie(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        if is_safe(method, headers) {
            return Ok(());
        }
        let origin = origin(headers).unwrap_or_default().to_ascii_lowercase();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        // The origins of --cors-origin call without cookies, so they do not count as origins of the server.
        let is_own = match &self.public_origin {
            Some(public_origin) => *public_origin == origin,
            None => origin
                .split_once("://")
                .is_some_and(|(_, origin_host)| !origin_host.is_empty() && origin_host.eq_ignore_ascii_case(host)),
        };
        if is_own {
            Ok(())
        } else {
            Err(foreign_origin("not the origin of this server, which a request with a cookie needs"))
        }
    }

    fn is_allowed(&self, origin: &str, host: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.public_origin.as_deref() == Some(&origin) || self.cors_origins.contains(&origin) {
            return true;
        }
        origin.split_once("://").is_some_and(|(_, origin_host)| origin_host.eq_ignore_ascii_case(host))
    }
}

/// Whether a request changes nothing. A foreign page may make a browser send such a request. A request for a WebSocket is not safe,
/// although it is a GET: browsers let pages of all origins read and write on WebSockets.
fn is_safe(method: &Method, headers: &HeaderMap) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) && !headers.contains_key(header::UPGRADE)
}

/// The origin of a request. If it has several, the result is an empty text, which matches no origin.
fn origin(headers: &HeaderMap) -> Option<&str> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = origins.next()?.to_str().unwrap_or_default();
    Some(if origins.next().is_some() { "" } else { origin })
}

fn foreign_origin(reason: &str) -> Problem {
    let detail = format!("The origin of this page is {reason}");
    Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail)
}

/// `scheme://host[:port]` of a URL.
pub fn origin_of(url: &url::Url) -> Option<String> {
    let origin = url.origin();
    origin.is_tuple().then(|| origin.ascii_serialization().to_ascii_lowercase())
}

/// Whether a Host header is localhost or a loopback address, with any port.
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
    fn loopback_names_are_recognised() {
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
