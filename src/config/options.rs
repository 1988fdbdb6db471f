//! The definitions of all options.
//!
//! Invariant: each option is defined once, with its flag, its `POSTHASTE_…` variable, its key in the configuration file, its
//! default and its help. Flag, variable and key have the same name.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use serde::Deserialize;

use super::bus::BusKind;
use super::values::{ListenAddress, Switch};
use crate::app::EVENT_RETENTION_DAYS;

/// The allowed range of `event_retention_days`. The parser of the command line checks the flag and the variable. `config` checks
/// the value again, because it can come from the file.
pub(super) const EVENT_RETENTION_RANGE_DAYS: RangeInclusive<i64> = 1..=3650;

/// The allowed range of `max_file_mib`.
pub(super) const MAX_FILE_RANGE_MIB: RangeInclusive<i64> = 1..=10_240;
/// The allowed range of `user_files_mib`.
pub(super) const FILES_RANGE_MIB: RangeInclusive<i64> = 1..=1_048_576;
/// The allowed range of `all_files_mib`.
pub(super) const ALL_FILES_RANGE_MIB: RangeInclusive<i64> = 1..=1_073_741_824;

/// Generates, from groups of options:
/// - for each group, a struct with the values from the command line and the environment, for clap;
/// - for each group, a struct with the effective values, and the function that computes them;
/// - [`File`], with the values of all groups from the configuration file.
///
/// An option is written `name: Type = default`, or `name: Type` if it can be unset. `; skip` keeps it out of the file.
macro_rules! options {
    ($(
        $(#[$about:meta])*
        $group:ident => $(#[$note:meta])* $values:ident {
            $( $(#[$attribute:meta])* $option:ident: $type:ty $(= $default:expr)? $(; $skip:ident)?, )+
        }
    )+) => {
        $(
            $(#[$about])*
            #[derive(Args, Clone, Debug, Default)]
            pub struct $group {
                $( $(#[$attribute])* pub $option: Option<$type>, )+
            }

            $(#[$note])*
            pub(super) struct $values {
                $( pub $option: value_type!($type $(, $default)?), )+
            }

            impl $group {
                /// The effective values: from the flag or the variable, else from the file, else the default.
                pub(super) fn over(self, file: &mut File) -> $values {
                    $values {
                        $( $option: value!(self.$option.or(file.$option.take()) $(, $default)?), )+
                    }
                }
            }
        )+

        /// The configuration file.
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct File {
            $( $( $(#[serde($skip)])? pub(super) $option: Option<$type>, )+ )+
        }
    };
}

/// The type of an effective value: `Option` if there is no default.
macro_rules! value_type {
    ($type:ty) => { Option<$type> };
    ($type:ty, $default:expr) => { $type };
}

/// The effective value: the given one, else the default.
macro_rules! value {
    ($given:expr) => {
        $given
    };
    ($given:expr, $default:expr) => {
        $given.unwrap_or($default)
    };
}

options! {
    /// Options for the data. Every command has them.
    DataOptions => #[expect(dead_code, reason = "`config` is read before the values are computed")] DataValues {
        /// Folder for the data [default: ./data]
        #[arg(long, env = "POSTHASTE_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf = "data".into(),
        /// Database: sqlite:PATH or postgres://user:password@host/name?sslmode=… [default: posthaste.db in the data folder]
        #[arg(long, env = "POSTHASTE_DATABASE_URL", value_name = "URL", hide_env_values = true)]
        database_url: String,
        /// Where the bytes of files are stored: file:DIR or s3://bucket/prefix?region=… [default: the folder files in the data folder]
        #[arg(long, env = "POSTHASTE_BLOB_URL", value_name = "URL")]
        blob_url: String,
        /// Configuration file in TOML. Keys are option names with _ instead of - [default: posthaste.toml, if it exists]
        #[arg(long, env = "POSTHASTE_CONFIG", value_name = "FILE")]
        config: PathBuf; skip,
        /// Accept storage and database settings with which a power failure can lose acknowledged data
        #[arg(
            long,
            env = "POSTHASTE_ALLOW_UNSAFE_STORAGE",
            value_name = "true|false",
            num_args = 0..=1,
            default_missing_value = "true",
            require_equals = true
        )]
        allow_unsafe_storage: Switch = Switch(false),
    }

    /// Options of `serve`.
    ServeOptions => ServeValues {
        /// Address and port to listen on. A port alone means 127.0.0.1 [default: 127.0.0.1:8000]
        #[arg(long, env = "POSTHASTE_LISTEN", value_name = "ADDRESS")]
        listen: ListenAddress = ListenAddress(SocketAddr::from(([127, 0, 0, 1], 8_000))),
        /// Open access, and example users and messages if the database is empty
        #[arg(
            long,
            env = "POSTHASTE_DEMO",
            value_name = "true|false",
            num_args = 0..=1,
            default_missing_value = "true",
            require_equals = true
        )]
        demo: Switch = Switch(false),
        /// Open access: requests need no credentials. Allowed on loopback addresses only
        #[arg(
            long,
            env = "POSTHASTE_OPEN",
            value_name = "true|false",
            num_args = 0..=1,
            default_missing_value = "true",
            require_equals = true
        )]
        open: Switch = Switch(false),
        /// Allow open access on addresses that are not loopback
        #[arg(
            long,
            env = "POSTHASTE_ALLOW_OPEN_ANYWHERE",
            value_name = "true|false",
            num_args = 0..=1,
            default_missing_value = "true",
            require_equals = true
        )]
        allow_open_anywhere: Switch = Switch(false),
        /// Allow open access to a database with accounts: everybody who reaches the server can act as each of their users
        #[arg(
            long,
            env = "POSTHASTE_ALLOW_OPEN_EXISTING",
            value_name = "true|false",
            num_args = 0..=1,
            default_missing_value = "true",
            require_equals = true
        )]
        allow_open_existing: Switch = Switch(false),
        /// Accept JWTs that your backend signs with the secret in this file (HS256, at least 32 bytes)
        #[arg(long, env = "POSTHASTE_JWT_HS256_SECRET_FILE", value_name = "FILE")]
        jwt_hs256_secret_file: PathBuf,
        /// Accept JWTs that your backend signs with a key of this JSON Web Key Set (RS256, ES256, EdDSA)
        #[arg(long, env = "POSTHASTE_JWT_JWKS", value_name = "FILE|URL", hide_env_values = true)]
        jwt_jwks: String,
        /// Required value of the iss claim of JWTs
        #[arg(long, env = "POSTHASTE_JWT_ISSUER", value_name = "TEXT")]
        jwt_issuer: String,
        /// Required value in the aud claim of JWTs
        #[arg(long, env = "POSTHASTE_JWT_AUDIENCE", value_name = "TEXT")]
        jwt_audience: String,
        /// Create a user for a valid JWT if no user has the name in its sub claim [default: false]
        #[arg(
            long,
            env = "POSTHASTE_JWT_PROVISION",
            value_name = "true|false",
            num_args = 0..=1,
            default_missing_value = "true"
        )]
        jwt_provision: Switch = Switch(false),
        /// Rate limits for requests [default: on]
        #[arg(long, env = "POSTHASTE_RATE_LIMITS", value_name = "on|off")]
        rate_limits: Switch = Switch(true),
        /// Whether people may create their own accounts [default: closed]
        #[arg(long, env = "POSTHASTE_REGISTRATION", value_name = "open|closed")]
        registration: Registration = Registration::Closed,
        /// Who may write to users who have not set direct_messages_from [default: everyone]
        #[arg(long, env = "POSTHASTE_DIRECT_MESSAGES_FROM", value_name = "everyone|friends")]
        direct_messages_from: Correspondents = Correspondents::Everyone,
        /// Days for which events are kept for readers that reconnect: 1 to 3650 [default: 30]
        #[arg(long, env = "POSTHASTE_EVENT_RETENTION_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(i64).range(EVENT_RETENTION_RANGE_DAYS))]
        event_retention_days: i64 = EVENT_RETENTION_DAYS,
        /// Limit of one uploaded file in MiB: 1 to 10240 [default: 128]
        #[arg(long, env = "POSTHASTE_MAX_FILE_MIB", value_name = "MIB", value_parser = clap::value_parser!(i64).range(MAX_FILE_RANGE_MIB))]
        max_file_mib: i64 = 128,
        /// Limit of the files of one user in MiB: 1 to 1048576 [default: 10240]
        #[arg(long, env = "POSTHASTE_USER_FILES_MIB", value_name = "MIB", value_parser = clap::value_parser!(i64).range(FILES_RANGE_MIB))]
        user_files_mib: i64 = 10_240,
        /// Limit of all files together in MiB: 1 to 1073741824. Uploads beyond it are refused with 507 [default: 1048576]
        #[arg(long, env = "POSTHASTE_ALL_FILES_MIB", value_name = "MIB", value_parser = clap::value_parser!(i64).range(ALL_FILES_RANGE_MIB))]
        all_files_mib: i64 = 1_048_576,
        /// Who may add custom emoji [default: admins]
        #[arg(long, env = "POSTHASTE_CUSTOM_EMOJI", value_name = "admins|everyone")]
        custom_emoji: EmojiEditors = EmojiEditors::Admins,
        /// Where GIFs are searched: nowhere, among those that administrators add, or in a service [default: off; local with --demo]
        #[arg(long, env = "POSTHASTE_GIF_PROVIDER", value_name = "off|local|klipy|giphy")]
        gif_provider: GifProvider,
        /// Key for --gif-provider klipy or giphy
        #[arg(long, env = "POSTHASTE_GIF_API_KEY", value_name = "KEY", hide_env_values = true)]
        gif_api_key: Secret,
        /// Address of the GIF service [default: its public address]
        #[arg(long, env = "POSTHASTE_GIF_URL", value_name = "URL", hide_env_values = true)]
        gif_url: String,
        /// GIFs for a narrower audience are not shown [default: pg]
        #[arg(long, env = "POSTHASTE_GIF_RATING", value_name = "g|pg|pg-13|r")]
        gif_rating: GifRating = GifRating::Pg,
        /// Which addresses are called to show previews of the links in messages [default: off]
        #[arg(long, env = "POSTHASTE_LINK_PREVIEWS", value_name = "off|public|any")]
        link_previews: LinkPreviewReach = LinkPreviewReach::Off,
        /// Start without the unreadable end of SQLite's write-ahead log, and keep a copy of the log. Use once; has no variable
        #[arg(long, action = ArgAction::SetTrue)]
        accept_lost_tail: bool = false; skip,
        /// Allow webhooks to private addresses and over plain http [default: false]
        #[arg(
            long,
            env = "POSTHASTE_WEBHOOK_ALLOW_PRIVATE",
            value_name = "true|false",
            num_args = 0..=1,
            default_missing_value = "true"
        )]
        webhook_allow_private: Switch = Switch(false),
        /// Public URL of the server
        #[arg(long, env = "POSTHASTE_PUBLIC_URL", value_name = "URL")]
        public_url: String,
        /// Origin whose pages may call the server from a browser. Repeat the option or separate origins with commas
        #[arg(long, env = "POSTHASTE_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
        cors_origin: Vec<String> = Vec::new(),
        /// Proxy whose X-Forwarded-For is trusted: an address, or a network such as 10.0.0.0/8. Repeat the option or separate
        /// proxies with commas
        #[arg(long, env = "POSTHASTE_TRUSTED_PROXIES", value_name = "NETWORK", value_delimiter = ',')]
        trusted_proxies: Vec<String> = Vec::new(),
        /// Separate address for /metrics, without access control
        #[arg(long, env = "POSTHASTE_METRICS_LISTEN", value_name = "ADDRESS")]
        metrics_listen: ListenAddress,
        /// How servers on the same data notify each other [default: postgres on PostgreSQL, else local]
        #[arg(long, env = "POSTHASTE_BUS", value_name = "local|postgres|nats")]
        bus: BusKind,
        /// Direct URL of PostgreSQL for LISTEN, if --database-url leads to a pooler [default: --database-url]
        #[arg(long, env = "POSTHASTE_LISTEN_URL", value_name = "URL", hide_env_values = true)]
        listen_url: Secret,
        /// NATS servers for --bus nats, separated by commas: nats://user:password@host:port or tls://…
        #[arg(long, env = "POSTHASTE_NATS_URL", value_name = "URL", hide_env_values = true)]
        nats_url: Secret,
        /// SMTP server for mail: smtp://user:password@host:port (STARTTLS, except on loopback) or smtps://… (TLS)
        #[arg(long, env = "POSTHASTE_SMTP_URL", value_name = "URL", hide_env_values = true)]
        smtp_url: Secret,
        /// Sender of mail: address@example.org or "Name <address@example.org>"
        #[arg(long, env = "POSTHASTE_MAIL_FROM", value_name = "ADDRESS")]
        mail_from: String,
        /// Format of the log on standard error [default: text]
        #[arg(long, env = "POSTHASTE_LOG_FORMAT", value_name = "text|json")]
        log_format: LogFormat = LogFormat::Text,
        /// Log level (error, warn, info, debug) or a filter such as posthaste=debug [default: info]
        #[arg(long, env = "POSTHASTE_LOG", value_name = "FILTER")]
        log: String = "info".into(),
    }
}

/// The value of an option that can contain a password. Its `Debug` output hides the value.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// Who may create accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Everyone may create an account.
    Open,
    /// Only administrators and API keys create accounts.
    Closed,
}

/// Who may add custom emoji.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmojiEditors {
    /// Administrators.
    Admins,
    /// Every user.
    Everyone,
}

/// Where GIFs are searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GifProvider {
    /// Nowhere.
    Off,
    /// Among the GIFs that administrators add.
    Local,
    /// KLIPY.
    Klipy,
    /// GIPHY.
    Giphy,
}

/// For which audience GIFs are suitable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GifRating {
    /// Everybody.
    G,
    /// Parental guidance is advised.
    Pg,
    /// From 13 years.
    #[value(name = "pg-13")]
    #[serde(rename = "pg-13")]
    Pg13,
    /// Adults.
    R,
}

/// Which addresses are called for previews of links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkPreviewReach {
    /// None: messages get no previews.
    Off,
    /// Addresses of the public internet.
    Public,
    /// All addresses, private ones included.
    Any,
}

/// Default for users who have not set `direct_messages_from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Correspondents {
    /// Everyone may write to them.
    Everyone,
    /// Only friends may write to them.
    Friends,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::config::serve;

    #[derive(Parser)]
    struct ServeLine {
        #[command(flatten)]
        options: ServeOptions,
    }

    #[test]
    fn flag_variable_and_key_have_one_name_and_are_documented() {
        let command = DataOptions::augment_args(ServeLine::command());
        let documentation = std::fs::read_to_string("docs/operating.md").unwrap();
        let mut options = 0;
        for option in command.get_arguments() {
            let name = option.get_id().as_str();
            assert_eq!(option.get_long(), Some(name.replace('_', "-").as_str()));
            let variable = (name != "accept_lost_tail").then(|| format!("POSTHASTE_{}", name.to_uppercase()));
            assert_eq!(option.get_env().and_then(|variable| variable.to_str()), variable.as_deref(), "{name}");
            // No option is a date, so each key is refused: a known key because of its type, an unknown key by name.
            let refusal = toml::from_str::<File>(&format!("{name} = 1979-05-27")).unwrap_err();
            let is_key = !["config", "accept_lost_tail"].contains(&name);
            assert_eq!(!refusal.message().contains("unknown field"), is_key, "{name}: {refusal}");
            // The table of options in the documentation has a row with all three names.
            let flag = format!("| `--{}", name.replace('_', "-"));
            let row = documentation
                .lines()
                .find(|line| line.strip_prefix(flag.as_str()).is_some_and(|rest| rest.starts_with([' ', '`'])));
            let row = row.unwrap_or_else(|| panic!("docs/operating.md has no row for {name}"));
            let names = variable.iter().map(String::as_str).chain(is_key.then_some(name));
            for other in names {
                assert!(row.contains(&format!("`{other}`")), "{other}: {row}");
            }
            options += 1;
        }
        assert!(options >= 30, "{options}");
    }

    #[test]
    fn the_help_shows_the_effective_defaults() {
        // So that a posthaste.toml in the working directory is not read.
        let data = DataOptions { config: Some("/dev/null".into()), ..DataOptions::default() };
        let decided = |words: &[&str]| {
            let line = ServeLine::try_parse_from(words).unwrap();
            format!("{:?}", serve(&data, line.options).unwrap())
        };
        let by_default = decided(&["posthaste"]);
        let mut compared = 0;
        for option in ServeLine::command().get_arguments() {
            let help = option.get_help().map(ToString::to_string).unwrap_or_default();
            let default = help.split_once("[default: ").and_then(|(_, rest)| rest.strip_suffix(']'));
            // The defaults of these depend on other options.
            if let Some(default) = default
                .filter(|_| !["bus", "listen_url", "gif_provider", "gif_url"].contains(&option.get_id().as_str()))
            {
                let flag = format!("--{}={default}", option.get_long().unwrap());
                assert_eq!(decided(&["posthaste", &flag]), by_default, "{flag}");
                compared += 1;
            }
        }
        assert!(compared >= 9, "{compared}");
    }
}
