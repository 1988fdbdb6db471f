//! The option `--bus`: how servers on the same data notify each other. The bus over PostgreSQL needs a PostgreSQL database.

use clap::ValueEnum;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::Secret;
use crate::live::bus::BusSettings;
use crate::store::driver::environment::Location;

/// How servers on the same data notify each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BusKind {
    /// No bus, for data that no other server uses.
    Local,
    /// Over PostgreSQL, with LISTEN and NOTIFY.
    Postgres,
    /// Over NATS.
    Nats,
}

/// Derives the settings of the bus.
///
/// # Errors
/// A sentence for the operator.
pub fn settings(
    location: &Location,
    kind: Option<BusKind>,
    listen_url: Option<Secret>,
    nats_url: Option<Secret>,
) -> Result<BusSettings, String> {
    let database_url = match location {
        Location::Postgres(url) => Some(url),
        Location::Sqlite(_) => None,
    };
    let kind = kind.unwrap_or(if database_url.is_some() { BusKind::Postgres } else { BusKind::Local });
    if kind != BusKind::Postgres && listen_url.is_some() {
        return Err("--listen-url is for --bus postgres".into());
    }
    if kind != BusKind::Nats && nats_url.is_some() {
        return Err("--nats-url is for --bus nats; add --bus nats".into());
    }
    match (kind, database_url) {
        (BusKind::Nats, _) => match nats_url {
            None => Err("--bus nats needs --nats-url, the address of the NATS server, such as nats://host:4222".into()),
            Some(Secret(url)) if !url.split(',').all(has_utf8_credentials) => {
                Err("the credentials in --nats-url are not UTF-8; percent-encode their UTF-8 bytes".into())
            }
            Some(Secret(url)) if url.split(',').all(is_nats_url) => Ok(BusSettings::Nats { url }),
            Some(_) => {
                Err("--nats-url must be nats://host:port or tls://host:port; separate several with commas".into())
            }
        },
        (BusKind::Local, _) => Ok(BusSettings::Local),
        (BusKind::Postgres, None) => {
            Err("--bus postgres needs a PostgreSQL database; add --database-url postgres://… or remove --bus".into())
        }
        (BusKind::Postgres, Some(database_url)) => {
            let listen_url = match listen_url {
                None => database_url.clone(),
                Some(Secret(url)) => match Location::parse(&url) {
                    Ok(Location::Postgres(url)) => url,
                    _ => return Err("--listen-url must begin with postgres://".into()),
                },
            };
            Ok(BusSettings::Postgres { listen_url })
        }
    }
}

fn has_utf8_credentials(url: &str) -> bool {
    let is_utf8 = |text: &str| percent_decode_str(text).decode_utf8().is_ok();
    url::Url::parse(url.trim())
        .map_or(true, |url| is_utf8(url.username()) && is_utf8(url.password().unwrap_or_default()))
}

fn is_nats_url(url: &str) -> bool {
    url::Url::parse(url.trim()).is_ok_and(|url| matches!(url.scheme(), "nats" | "tls") && url.has_host())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DataOptions, ServeOptions, serve};

    #[test]
    fn the_bus_fits_the_database() {
        let decide = |database: &str, options: ServeOptions| {
            let data = DataOptions {
                config: Some("/dev/null".into()),
                database_url: Some(database.into()),
                ..DataOptions::default()
            };
            serve(&data, options).map(|(config, _)| config.bus)
        };
        let with = |bus, listen_url: Option<&str>| ServeOptions {
            bus,
            listen_url: listen_url.map(|url| Secret(url.into())),
            ..ServeOptions::default()
        };
        let (sqlite, postgres, direct) = ("sqlite:a.db", "postgres://pooler/a", "postgres://direct/a");
        let by = |url: &str| Ok(BusSettings::Postgres { listen_url: url.into() });
        assert_eq!(decide(sqlite, with(None, None)), Ok(BusSettings::Local));
        assert_eq!(decide(postgres, with(None, None)), by(postgres));
        assert_eq!(decide(postgres, with(None, Some(direct))), by(direct));
        assert_eq!(decide(postgres, with(Some(BusKind::Local), None)), Ok(BusSettings::Local));
        let nats = |bus, url: &str| ServeOptions { nats_url: Some(Secret(url.into())), ..with(bus, None) };
        let url = "nats://user:word@one:4222,tls://two";
        assert_eq!(decide(sqlite, nats(Some(BusKind::Nats), url)), Ok(BusSettings::Nats { url: url.into() }));
        let wrong = [
            (postgres, with(Some(BusKind::Nats), None), "--bus nats needs --nats-url"),
            (postgres, nats(None, url), "--nats-url is for --bus nats"),
            (postgres, nats(Some(BusKind::Nats), "nats://one,http://user:word@two"), "--nats-url must be nats://"),
            (postgres, nats(Some(BusKind::Nats), ""), "--nats-url must be nats://"),
            (postgres, nats(Some(BusKind::Nats), "nats://one,nats://user:word%E9@two"), "are not UTF-8"),
            (sqlite, with(Some(BusKind::Postgres), None), "--bus postgres needs a PostgreSQL database"),
            (sqlite, with(None, Some(direct)), "--listen-url is for --bus postgres"),
            (postgres, with(Some(BusKind::Local), Some(direct)), "--listen-url is for --bus postgres"),
            (postgres, with(None, Some("redis://user:word@direct")), "--listen-url must begin with postgres://"),
        ];
        for (database, options, sentence) in wrong {
            let error = decide(database, options).unwrap_err();
            assert!(error.contains(sentence) && !error.contains("word"), "{error}");
        }
    }
}
