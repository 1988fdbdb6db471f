//! The types of option values that the command line, a variable and the configuration file write in the same way.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Words for a switch that is on.
const ON: &[&str] = &["true", "yes", "on", "1"];
/// Words for a switch that is off.
const OFF: &[&str] = &["false", "no", "off", "0"];

/// A switch: on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_one_of = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
        if is_one_of(ON) {
            Ok(Self(true))
        } else if is_one_of(OFF) {
            Ok(Self(false))
        } else {
            Err(format!("{text:?} is neither on nor off; use one of {}, {}", ON.join(", "), OFF.join(", ")))
        }
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SwitchVisitor;

        impl Visitor<'_> for SwitchVisitor {
            type Value = Switch;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("true or false")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Switch, E> {
                Ok(Switch(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Switch, E> {
                value.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Switch, E> {
                value.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(SwitchVisitor)
    }
}

/// An address to listen on. `localhost:PORT`, `:PORT` and `PORT` mean the loopback address 127.0.0.1, so that a server is
/// reachable from other machines only if an address says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            let example = SocketAddr::new(address, 8_000);
            return Err(format!("{text} has no port; write {example}"));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let is_loopback = host.is_empty() || host.eq_ignore_ascii_case("localhost");
        match port.parse::<u16>() {
            Ok(port) if is_loopback => Ok(Self(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))),
            _ => Err(format!(
                "{text} is not an address with a port, such as 127.0.0.1:8000, localhost:8000 or [::1]:8000. 0.0.0.0:8000 \
                 listens on all addresses of this machine. Other host names are not looked up"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AddressVisitor;

        impl Visitor<'_> for AddressVisitor {
            type Value = ListenAddress;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an address such as \"127.0.0.1:8000\"")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<ListenAddress, E> {
                value.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<ListenAddress, E> {
                value.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(AddressVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_has_many_words() {
        for (text, on) in [("1", true), ("TRUE", true), ("Yes", true), ("on", true), ("0", false), ("no", false)] {
            assert_eq!(text.parse(), Ok(Switch(on)), "{text}");
        }
        for text in ["", "2", "maybe", "true ", "enabled"] {
            assert!(text.parse::<Switch>().unwrap_err().contains("true, yes, on, 1"), "{text}");
        }
    }

    #[test]
    fn a_port_alone_means_loopback() {
        for (text, address) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("localhost:8000", "127.0.0.1:8000"),
            ("LOCALHOST:1", "127.0.0.1:1"),
            (":8000", "127.0.0.1:8000"),
            ("8000", "127.0.0.1:8000"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("[::1]:8000", "[::1]:8000"),
        ] {
            assert_eq!(
                text.parse::<ListenAddress>().map(|found| found.0.to_string()),
                Ok(address.to_owned()),
                "{text}"
            );
        }
        for (text, sentence) in [
            ("127.0.0.1", "has no port; write 127.0.0.1:8000"),
            ("::1", "has no port; write [::1]:8000"),
            ("[::]", "has no port; write [::]:8000"),
            ("example.org:8000", "is not an address with a port"),
            ("http://127.0.0.1:8000", "is not an address with a port"),
            ("localhost", "is not an address with a port"),
            ("localhost:99999", "is not an address with a port"),
            ("", "is not an address with a port"),
        ] {
            let error = text.parse::<ListenAddress>().unwrap_err();
            assert!(error.contains(sentence), "{text}: {error}");
        }
    }
}
