//! How servers on the same data tell each other what happens.

use clap::ValueEnum;
use serde::Deserialize;

use super::Secret;
use crate::live::bus::BusSettings;
use crate::store::Location;

/// How servers tell each other what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BusKind {
    /// Not at all: there is one server.
    Local,
    /// By the database.
    Postgres,
}

/// What goes with the database.
///
/// # Errors
/// A sentence for the operator.
pub fn decide(place: &Location, kind: Option<BusKind>, listen_url: Option<Secret>) -> Result<BusSettings, String> {
    let database_url = match place {
        Location::Postgres(url) => Some(url),
        Location::Sqlite(_) => None,
    };
    let kind = kind.unwrap_or(if database_url.is_some() { BusKind::Postgres } else { BusKind::Local });
    if kind != BusKind::Postgres && listen_url.is_some() {
        return Err("--listen-url is for --bus postgres".into());
    }
    match (kind, database_url) {
        (BusKind::Local, _) => Ok(BusSettings::Local),
        (BusKind::Postgres, None) => {
            Err("--bus postgres needs a PostgreSQL database: give --database-url postgres://…, or leave --bus out"
                .into())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DataOptions, ServeOptions, serve};

    #[test]
    fn the_bus_goes_with_the_database() {
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
        let wrong = [
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
