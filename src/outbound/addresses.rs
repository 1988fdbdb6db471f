//! Which addresses and URLs may be called.
//!
//! Invariant: an address that could belong to a private network is not public.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// What a client may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Every address, with `https:` or `http:`. For addresses that the operator chooses.
    Anywhere,
    /// Addresses of the public internet, with `https:`.
    PublicHttps,
    /// Addresses of the public internet, with `https:` at port 443 or `http:` at port 80.
    PublicWeb,
}

/// Parses a URL and checks whether a client may call it. If its host is a name, the client checks the addresses of the name at each
/// call.
///
/// # Errors
/// The reason why it may not be called, as the end of a sentence that begins with the name of the field.
pub fn check_url(text: &str, reach: Reach) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "must be a URL")?;
    match (url.scheme(), reach) {
        ("https", _) | ("http", Reach::Anywhere | Reach::PublicWeb) => {}
        (_, Reach::PublicHttps) => return Err("must begin with https://"),
        _ => return Err("must begin with https:// or http://"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user name or a password");
    }
    // `Url` removes the port if it is the usual one of the scheme.
    if reach == Reach::PublicWeb && url.port().is_some() {
        return Err("must use the usual port of https or http");
    }
    let is_public_only = reach != Reach::Anywhere;
    let address = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(name)) if is_public_only && is_local_name(name) => return Err("must have a public host"),
        Some(Host::Domain(_)) => None,
        None => return Err("must have a host"),
    };
    if address.is_some_and(|address| is_public_only && !is_public(address)) {
        return Err("must not be a private address");
    }
    Ok(url)
}

fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether an IP address belongs to the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

const fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224..=255, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !special
}

/// Accepts only addresses that are assigned for the public internet (2000::/3). Excludes those that contain an IPv4 address
/// (mapped, NAT64, 6to4, Teredo), because it could be a private one, and the addresses for documentation.
const fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    a & 0xE000 == 0x2000 && a != 0x2002 && !(a == 0x2001 && (b < 0x200 || b == 0xDB8)) && !(a == 0x3FFF && b < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_web_is_called_at_its_usual_ports_only() {
        for text in ["https://example.org/a", "http://example.org", "http://example.org:80/", "https://1.1.1.1:443/"] {
            assert!(check_url(text, Reach::PublicWeb).is_ok(), "{text}");
        }
        for text in ["https://example.org:8443/", "http://example.org:22/", "http://example.org:443/"] {
            assert_eq!(check_url(text, Reach::PublicWeb), Err("must use the usual port of https or http"), "{text}");
        }
        for text in ["ftp://example.org/", "file:///etc/passwd", "data:text/plain,a"] {
            assert_eq!(check_url(text, Reach::PublicWeb), Err("must begin with https:// or http://"), "{text}");
        }
    }

    #[test]
    fn public_clients_refuse_private_addresses_in_every_form() {
        let private = [
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[fe80::1]/",
            "https://[64:ff9b::a00:1]/",
            "https://169.254.169.254/latest/meta-data/",
            "https://100.64.0.1/",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://a.localhost/",
        ];
        for text in private {
            assert!(check_url(text, Reach::PublicHttps).is_err(), "{text}");
            assert!(check_url(text, Reach::PublicWeb).is_err(), "{text}");
            assert!(check_url(text, Reach::Anywhere).is_ok(), "{text}");
        }
        assert_eq!(check_url("http://example.org/", Reach::PublicHttps), Err("must begin with https://"));
        assert!(check_url("https://a:b@example.org/", Reach::Anywhere).is_err());
    }
}
