//! The address of a caller behind proxies.
//!
//! Invariant: only entries of `X-Forwarded-For` that a trusted proxy wrote are used. Each proxy appends the address of its own
//! caller on the right. So the list is read from the right, and the first address that is not a trusted proxy is the address
//! of the caller. Entries to its left come from the caller and are ignored.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::{IpNet, Ipv4Net};

/// The header in which proxies write addresses.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Maximum number of entries of `X-Forwarded-For` that are read. More proxies in a row are not supported.
const ENTRIES_LIMIT: usize = 64;
/// The length of the prefix of IPv4-mapped IPv6 addresses (`::ffff:0:0/96`), in bits.
const MAPPED_PREFIX_BITS: u8 = 96;

/// The address of the peer of a connection: the caller or a proxy.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub SocketAddr);

/// The address of the caller of a request, determined through the trusted proxies.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(pub IpAddr);

/// The proxies whose `X-Forwarded-For` is trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
}

impl TrustedProxies {
    /// Parses networks (`10.0.0.0/8`) and addresses (`::1`).
    ///
    /// # Errors
    /// A sentence about the entry that is neither, or that includes all addresses.
    pub fn parse(entries: &[impl AsRef<str>]) -> Result<Self, String> {
        let networks = entries.iter().map(|entry| {
            let entry = entry.as_ref().trim();
            let network = entry.parse::<IpNet>().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
            match network.map(canonical) {
                Err(_) => Err(format!("{entry} is not an IP address or a network such as 10.0.0.0/8")),
                // With such a network, every caller could claim any address.
                Ok(network) if network.prefix_len() == 0 => {
                    Err(format!("{entry} includes all addresses; give the network of your proxies"))
                }
                Ok(network) => Ok(network),
            }
        });
        Ok(Self { networks: networks.collect::<Result<_, _>>()? })
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// Converts an IPv4-mapped IPv6 network to an IPv4 network, because addresses are compared in that form.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let prefix_bits = v6.prefix_len().checked_sub(MAPPED_PREFIX_BITS);
    match (v6.addr().to_ipv4_mapped(), prefix_bits) {
        (Some(address), Some(bits)) => Ipv4Net::new(address, bits).map_or(network, IpNet::V4),
        _ => network,
    }
}

/// The address of the caller: the address of the peer or, if the peer is a trusted proxy, the last address in
/// `X-Forwarded-For` that is not a trusted proxy. An entry that cannot be parsed ends the search, and the address found before
/// it is the result.
pub fn client_address(peer: SocketAddr, headers: &HeaderMap, trusted: &TrustedProxies) -> IpAddr {
    let mut address = peer.ip().to_canonical();
    // Several header lines form one list, in their order.
    let lines: Vec<&HeaderValue> = headers.get_all(FORWARDED_FOR).iter().collect();
    let entries = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for entry in entries.take(ENTRIES_LIMIT) {
        if !trusted.contains(address) {
            break;
        }
        // An empty entry ends the search too. A proxy that does not know the address of its caller may write one, and entries
        // to its left come from the caller.
        let Some(previous) = parse_entry(entry) else { break };
        address = previous;
    }
    address
}

/// Whether the peer of a connection is a trusted proxy, so that the request may come from anywhere.
pub fn is_from_proxy(peer: SocketAddr, trusted: &TrustedProxies) -> bool {
    trusted.contains(peer.ip().to_canonical())
}

/// `ip`, `ip:port`, `[v6]` or `[v6]:port`.
fn parse_entry(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().map(IpAddr::V6).ok();
    let plain = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    Some(plain.or_else(with_port).or_else(bracketed)?.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROXIES: &[&str] = &["10.0.0.0/8", "127.0.0.1", "::1", "2001:db8:1::/48"];

    fn trusted(entries: &[&str]) -> TrustedProxies {
        TrustedProxies::parse(entries).unwrap()
    }

    /// The result of `client_address` for a peer and lines of the header.
    #[track_caller]
    fn found(peer: &str, lines: &[&[u8]]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap());
        }
        client_address(SocketAddr::new(peer.parse().unwrap(), 4711), &headers, &trusted(PROXIES)).to_string()
    }

    #[test]
    fn networks_and_addresses() {
        for entry in
            ["10.0.0.0/8", "192.0.2.7", "::1", "2001:db8::/32", " 10.1.2.3 ", "10.1.2.3/8", "::ffff:10.0.0.0/104"]
        {
            assert!(TrustedProxies::parse(&[entry]).is_ok(), "{entry}");
        }
        for entry in ["", "localhost", "10.0.0.0/33", "10.0.0", "10.0.0.1:80", "::/129", "*"] {
            assert!(TrustedProxies::parse(&[entry]).unwrap_err().contains("is not an IP address"), "{entry}");
        }
        for entry in ["0.0.0.0/0", "::/0", "::ffff:0:0/96"] {
            assert!(TrustedProxies::parse(&[entry]).unwrap_err().contains("includes all addresses"), "{entry}");
        }
        assert_eq!(trusted(&["::ffff:10.0.0.0/104"]), trusted(&["10.0.0.0/8"]));
    }

    #[test]
    fn the_header_of_a_peer_that_is_not_a_proxy_is_ignored() {
        assert_eq!(found("192.0.2.9", &[]), "192.0.2.9");
        assert_eq!(found("192.0.2.9", &[b"203.0.113.5"]), "192.0.2.9");
        assert_eq!(found("::ffff:192.0.2.9", &[b"203.0.113.5"]), "192.0.2.9");
    }

    #[test]
    fn a_proxy_gives_the_address_of_its_caller() {
        assert_eq!(found("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(found("127.0.0.1", &[b"203.0.113.5"]), "203.0.113.5");
        assert_eq!(found("::ffff:127.0.0.1", &[b"203.0.113.5"]), "203.0.113.5");
        assert_eq!(found("::1", &[b"2001:db8:9::1"]), "2001:db8:9::1");
        assert_eq!(found("::1", &[b"203.0.113.5, 10.0.0.7,2001:db8:1::9"]), "203.0.113.5");
        // All of them are proxies: the leftmost address is the best one known.
        assert_eq!(found("127.0.0.1", &[b"10.0.0.9, 10.0.0.8"]), "10.0.0.9");
    }

    #[test]
    fn entries_of_the_caller_are_ignored() {
        assert_eq!(found("127.0.0.1", &[b"1.2.3.4, 203.0.113.5"]), "203.0.113.5");
        assert_eq!(found("127.0.0.1", &[b"10.0.0.1, 203.0.113.5, 10.0.0.2"]), "203.0.113.5");
        assert_eq!(found("127.0.0.1", &[b"127.0.0.1", b"1.2.3.4, 5.6.7.8", b"203.0.113.5"]), "203.0.113.5");
    }

    #[test]
    fn lines_are_one_list() {
        assert_eq!(found("127.0.0.1", &[b"203.0.113.5", b"10.0.0.2", b"10.0.0.1"]), "203.0.113.5");
        assert_eq!(found("127.0.0.1", &[b"1.2.3.4, 203.0.113.5", b"10.0.0.1"]), "203.0.113.5");
    }

    #[test]
    fn forms_of_an_entry() {
        for (entry, address) in [
            ("203.0.113.5", "203.0.113.5"),
            ("\t203.0.113.5 ", "203.0.113.5"),
            ("203.0.113.5:8080", "203.0.113.5"),
            ("2001:db8:9::1", "2001:db8:9::1"),
            ("[2001:db8:9::1]", "2001:db8:9::1"),
            ("[2001:db8:9::1]:443", "2001:db8:9::1"),
            ("::ffff:203.0.113.5", "203.0.113.5"),
            ("[::ffff:203.0.113.5]:443", "203.0.113.5"),
        ] {
            assert_eq!(found("127.0.0.1", &[entry.as_bytes()]), address, "{entry}");
        }
    }

    #[test]
    fn an_invalid_entry_ends_the_search() {
        for garbage in [
            &b""[..],
            b" ",
            b"unknown",
            b"_hidden",
            b"203.0.113",
            b"203.0.113.5:",
            b"203.0.113.5:99999",
            b"[203.0.113.5]",
            b"[2001:db8:9::1",
            b"2001:db8:9::1]:443",
            b"\"203.0.113.5\"",
            b"for=203.0.113.5",
            b"\xff\xfe",
            b"203.0.113.5\xff",
            b"localhost",
        ] {
            assert_eq!(found("127.0.0.1", &[garbage]), "127.0.0.1", "{garbage:?}");
            let list = [b"203.0.113.5, ", garbage, b", 10.0.0.7"].concat();
            assert_eq!(found("127.0.0.1", &[&list]), "10.0.0.7", "{garbage:?}");
        }
    }

    #[test]
    fn the_number_of_entries_read_is_bounded() {
        let row = |proxies: usize| format!("203.0.113.5{}", ", 10.0.0.7".repeat(proxies)).into_bytes();
        assert_eq!(found("127.0.0.1", &[&row(ENTRIES_LIMIT - 1)]), "203.0.113.5");
        assert_eq!(found("127.0.0.1", &[&row(ENTRIES_LIMIT)]), "10.0.0.7");
        assert_eq!(found("127.0.0.1", &[&row(100_000)]), "10.0.0.7");
    }

    #[test]
    fn peers_that_are_proxies_are_recognised() {
        let proxies = trusted(PROXIES);
        for (peer, expected) in [("127.0.0.1", true), ("::ffff:127.0.0.1", true), ("127.0.0.2", false), ("::1", true)] {
            assert_eq!(is_from_proxy(SocketAddr::new(peer.parse().unwrap(), 1), &proxies), expected, "{peer}");
        }
        assert!(!is_from_proxy(SocketAddr::from(([127, 0, 0, 1], 1)), &TrustedProxies::default()));
    }

    proptest! {
        /// The entry that the proxy appended decides, and no text of the caller changes that.
        #[test]
        fn no_text_of_the_caller_is_trusted(text in proptest::collection::vec(0x20u8..=0xfe, 0..200)) {
            prop_assume!(!text.contains(&0x7f));
            let list = [&text[..], b", 203.0.113.5"].concat();
            prop_assert_eq!(found("127.0.0.1", &[&list]), "203.0.113.5");
            // Parsing the text as a whole list does not panic.
            found("127.0.0.1", &[&text]);
        }
    }
}
