//! What the operator can choose: command line, environment, file, in this order of weight.
//!
//! Invariant: each option has one definition, here; its flag, its `POSTHASTE_…` variable and its key in the file mean the
//! same. A key that is unknown is refused by name.

mod bus;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Deserialize;

pub use bus::BusKind;

use crate::app::{EVENT_RETENTION_DAYS, Settings};
use crate::domain::auth::Access;
use crate::domain::jwt::{JwtSettings, KeySource};
use crate::domain::users::DirectMessagesFrom;
use crate::http::client_address::TrustedProxies;
use crate::http::origin::{OriginRules, origin_of};
use crate::live::bus::BusSettings;
use crate::mail::MailSettings;
use crate::store::environment::Location;

/// Read from the working folder when no other file is named.
const DEFAULT_FILE: &str = "posthaste.toml";

/// Where the data is: what every command takes.
#[derive(Args, Clone, Debug, Default)]
pub struct DataOptions {
    /// Folder of the data [default: ./data]
    #[arg(long, env = "POSTHASTE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Database: sqlite:PATH, or postgres://user:password@host/name?sslmode=… [default: posthaste.db in the data folder]
    #[arg(long, env = "POSTHASTE_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// File with options, as TOML: a key is an option's name with _ for - [default: posthaste.toml, where there is one]
    #[arg(long, env = "POSTHASTE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Lets the database run with settings or on storage with which a power failure can lose acknowledged data
    #[arg(
        long,
        env = "POSTHASTE_ALLOW_UNSAFE_STORAGE",
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true
    )]
    pub allow_unsafe_storage: Option<bool>,
}

/// How the server runs.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeOptions {
    /// Address to listen on [default: 127.0.0.1:8000]
    #[arg(long, env = "POSTHASTE_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Open access, and the seed's four users and messages when the database is empty
    #[arg(long, env = "POSTHASTE_DEMO", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub demo: Option<bool>,
    /// Open access: callers need no credentials. For loopback; refuses other addresses
    #[arg(long, env = "POSTHASTE_OPEN", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub open: Option<bool>,
    /// Lets open access listen on an address that is not loopback
    #[arg(
        long,
        env = "POSTHASTE_ALLOW_OPEN_ANYWHERE",
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true
    )]
    pub allow_open_anywhere: Option<bool>,
    /// Lets in who has a JWT that your own backend signed with the secret in this file (HS256, at least 32 bytes)
    #[arg(long, env = "POSTHASTE_JWT_HS256_SECRET_FILE", value_name = "FILE")]
    pub jwt_hs256_secret_file: Option<PathBuf>,
    /// Lets in who has a JWT that your own backend signed with a key of this JSON Web Key Set (RS256, ES256, EdDSA)
    #[arg(long, env = "POSTHASTE_JWT_JWKS", value_name = "FILE|URL", hide_env_values = true)]
    pub jwt_jwks: Option<String>,
    /// The iss that a JWT must have
    #[arg(long, env = "POSTHASTE_JWT_ISSUER", value_name = "TEXT")]
    pub jwt_issuer: Option<String>,
    /// What must be in the aud of a JWT
    #[arg(long, env = "POSTHASTE_JWT_AUDIENCE", value_name = "TEXT")]
    pub jwt_audience: Option<String>,
    /// Whether a user is made for a JWT whose sub is nobody's name [default: false]
    #[arg(
        long,
        env = "POSTHASTE_JWT_PROVISION",
        value_name = "true|false",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub jwt_provision: Option<bool>,
    /// Whether callers are slowed down by rate limits [default: on]
    #[arg(long, env = "POSTHASTE_RATE_LIMITS", value_name = "on|off")]
    pub rate_limits: Option<Switch>,
    /// Whether people may make accounts by themselves [default: closed]
    #[arg(long, env = "POSTHASTE_REGISTRATION", value_name = "open|closed")]
    pub registration: Option<Registration>,
    /// From whom direct messages are taken by people who have not chosen [default: everyone]
    #[arg(long, env = "POSTHASTE_DIRECT_MESSAGES_FROM", value_name = "everyone|friends")]
    pub direct_messages_from: Option<Correspondents>,
    /// Days for which events are kept, for readers that come back: 1 to 3650 [default: 30]
    #[arg(long, env = "POSTHASTE_EVENT_RETENTION_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(i64).range(1..=3650))]
    pub event_retention_days: Option<i64>,
    /// Start once without the part of SQLite's write-ahead log that cannot be read, and keep a copy of it. Has no variable
    #[arg(long)]
    pub accept_lost_tail: bool,
    /// Lets webhooks call private addresses, and plain http [default: false]
    #[arg(
        long,
        env = "POSTHASTE_WEBHOOK_ALLOW_PRIVATE",
        value_name = "true|false",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub webhook_allow_private: Option<bool>,
    /// The URL under which people reach the server
    #[arg(long, env = "POSTHASTE_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// An origin whose pages may call from a browser; may be given several times, or with commas between
    #[arg(long, env = "POSTHASTE_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<String>,
    /// A proxy whose X-Forwarded-For is believed: an address, or a network such as 10.0.0.0/8; may be given several times, or
    /// with commas between
    #[arg(long, env = "POSTHASTE_TRUSTED_PROXIES", value_name = "NETWORK", value_delimiter = ',')]
    pub trusted_proxies: Vec<String>,
    /// Address of its own for /metrics, served to whoever reaches it
    #[arg(long, env = "POSTHASTE_METRICS_LISTEN", value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,
    /// How servers on the same data tell each other what happens [default: postgres on PostgreSQL, else local]
    #[arg(long, env = "POSTHASTE_BUS", value_name = "local|postgres|nats")]
    pub bus: Option<BusKind>,
    /// PostgreSQL for LISTEN, directly, where a pooler stands before --database-url [default: --database-url]
    #[arg(long, env = "POSTHASTE_LISTEN_URL", value_name = "URL", hide_env_values = true)]
    pub listen_url: Option<Secret>,
    /// NATS servers for --bus nats, with commas between: nats://user:password@host:port, or tls://…
    #[arg(long, env = "POSTHASTE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats_url: Option<Secret>,
    /// SMTP server for mail: smtp://user:password@host:port (STARTTLS, unless on loopback), or smtps://… (TLS)
    #[arg(long, env = "POSTHASTE_SMTP_URL", value_name = "URL", hide_env_values = true)]
    pub smtp_url: Option<Secret>,
    /// Sender of mail: address@example.org, or "Name <address@example.org>"
    #[arg(long, env = "POSTHASTE_MAIL_FROM", value_name = "ADDRESS")]
    pub mail_from: Option<String>,
    /// Form of the log, which goes to standard error [default: text]
    #[arg(long, env = "POSTHASTE_LOG_FORMAT", value_name = "text|json")]
    pub log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, or a filter such as posthaste=debug [default: info]
    #[arg(long, env = "POSTHASTE_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// An option that holds a password: `Debug` does not show it.
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

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// Who makes accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Everyone their own.
    Open,
    /// Administrators and API keys.
    Closed,
}

/// From whom direct messages are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Correspondents {
    /// From everyone.
    Everyone,
    /// From friends.
    Friends,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    database_url: Option<String>,
    allow_unsafe_storage: Option<bool>,
    listen: Option<SocketAddr>,
    demo: Option<bool>,
    open: Option<bool>,
    allow_open_anywhere: Option<bool>,
    jwt_hs256_secret_file: Option<PathBuf>,
    jwt_jwks: Option<String>,
    jwt_issuer: Option<String>,
    jwt_audience: Option<String>,
    jwt_provision: Option<bool>,
    rate_limits: Option<Switch>,
    registration: Option<Registration>,
    direct_messages_from: Option<Correspondents>,
    event_retention_days: Option<i64>,
    webhook_allow_private: Option<bool>,
    public_url: Option<String>,
    #[serde(default)]
    cors_origin: Vec<String>,
    #[serde(default)]
    trusted_proxies: Vec<String>,
    metrics_listen: Option<SocketAddr>,
    bus: Option<BusKind>,
    listen_url: Option<Secret>,
    nats_url: Option<Secret>,
    smtp_url: Option<Secret>,
    mail_from: Option<String>,
    log_format: Option<LogFormat>,
    log: Option<String>,
}

/// The data's place, decided.
#[derive(Clone, Debug)]
pub struct DataConfig {
    /// The folder.
    pub data_dir: PathBuf,
    /// The database.
    pub location: Location,
    /// Whether storage that can lose acknowledged data is accepted.
    pub allow_unsafe_storage: bool,
}

/// Everything decided that a server needs.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The data's place.
    pub data: DataConfig,
    /// Where to listen.
    pub listen: SocketAddr,
    /// What the rules need to know.
    pub settings: Settings,
    /// Which hosts and origins are ours.
    pub origins: OriginRules,
    /// Whose word about a caller's address is taken.
    pub trusted_proxies: TrustedProxies,
    /// Where metrics are served alone.
    pub metrics_listen: Option<SocketAddr>,
    /// How other servers hear of what happens here.
    pub bus: BusSettings,
}

/// How to log, decided.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The form of a line.
    pub format: LogFormat,
    /// What is logged.
    pub filter: String,
}

/// Decides where the data is.
///
/// # Errors
/// A sentence for the operator.
pub fn data(options: &DataOptions) -> Result<DataConfig, String> {
    decide_data(options, &read_file(options.config.as_deref())?)
}

/// Decides everything a server needs.
///
/// # Errors
/// A sentence for the operator.
pub fn serve(data_options: &DataOptions, options: ServeOptions) -> Result<(ServeConfig, LogConfig), String> {
    let file = read_file(data_options.config.as_deref())?;
    let data = decide_data(data_options, &file)?;
    let listen = options.listen.or(file.listen).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8_000)));
    let demo = options.demo.or(file.demo).unwrap_or(false);
    let open = demo || options.open.or(file.open).unwrap_or(false);
    let anywhere = options.allow_open_anywhere.or(file.allow_open_anywhere).unwrap_or(false);
    if open && !anywhere && !listen.ip().to_canonical().is_loopback() {
        return Err(format!(
            "open access lets in everyone who can reach {listen}: listen on 127.0.0.1, leave out --open and --demo, or say \
             --allow-open-anywhere"
        ));
    }
    let public_url = options.public_url.or(file.public_url);
    let public_origin = match &public_url {
        None => None,
        Some(url) => Some(web_origin(url).ok_or("--public-url must be an http or https URL")?),
    };
    let origins = if options.cors_origin.is_empty() { file.cors_origin } else { options.cors_origin };
    let cors_origins = origins
        .iter()
        .map(|origin| {
            web_origin(origin)
                .ok_or_else(|| format!("--cors-origin {origin} is not an origin such as https://example.org"))
        })
        .collect::<Result<_, _>>()?;
    let jwt = decide_jwt(JwtOptions {
        secret_file: options.jwt_hs256_secret_file.or(file.jwt_hs256_secret_file),
        jwks: options.jwt_jwks.or(file.jwt_jwks),
        issuer: options.jwt_issuer.or(file.jwt_issuer),
        audience: options.jwt_audience.or(file.jwt_audience),
        provision: options.jwt_provision.or(file.jwt_provision),
    })?;
    let proxies = if options.trusted_proxies.is_empty() { file.trusted_proxies } else { options.trusted_proxies };
    let trusted_proxies = TrustedProxies::parse(&proxies).map_err(|error| format!("--trusted-proxies {error}"))?;
    let event_retention_days =
        options.event_retention_days.or(file.event_retention_days).unwrap_or(EVENT_RETENTION_DAYS);
    if !(1..=3650).contains(&event_retention_days) {
        return Err("event_retention_days must be between 1 and 3650".into());
    }
    let bus = bus::decide(
        &data.location,
        options.bus.or(file.bus),
        options.listen_url.or(file.listen_url),
        options.nats_url.or(file.nats_url),
    )?;
    let allow_unsafe_storage = data.allow_unsafe_storage;
    let config = ServeConfig {
        data,
        listen,
        settings: Settings {
            access: if open { Access::Open } else { Access::Secured },
            demo,
            rate_limits: options.rate_limits.or(file.rate_limits) != Some(Switch::Off),
            registration_open: options.registration.or(file.registration) == Some(Registration::Open),
            direct_messages_from: match options.direct_messages_from.or(file.direct_messages_from) {
                Some(Correspondents::Friends) => DirectMessagesFrom::Friends,
                Some(Correspondents::Everyone) | None => DirectMessagesFrom::Everyone,
            },
            event_retention_days,
            accept_lost_tail: options.accept_lost_tail,
            webhook_allow_private: options.webhook_allow_private.or(file.webhook_allow_private).unwrap_or(false),
            public_url,
            allow_unsafe_storage,
            jwt,
            mail: decide_mail(options.smtp_url.or(file.smtp_url), options.mail_from.or(file.mail_from))?,
        },
        origins: OriginRules { public_origin, cors_origins },
        trusted_proxies,
        metrics_listen: options.metrics_listen.or(file.metrics_listen),
        bus,
    };
    let log = LogConfig {
        format: options.log_format.or(file.log_format).unwrap_or(LogFormat::Text),
        filter: options.log.or(file.log).unwrap_or_else(|| "info".into()),
    };
    Ok((config, log))
}

fn decide_mail(url: Option<Secret>, from: Option<String>) -> Result<Option<MailSettings>, String> {
    match (url, from) {
        (Some(Secret(url)), Some(from)) => Ok(Some(MailSettings { url, from })),
        (None, None) => Ok(None),
        (Some(_), None) => Err("--smtp-url needs --mail-from, the address that mail is sent from".into()),
        (None, Some(_)) => Err("--mail-from needs --smtp-url, the server that mail leaves by".into()),
    }
}

/// What was said about JWTs, wherever it was said.
struct JwtOptions {
    secret_file: Option<PathBuf>,
    jwks: Option<String>,
    issuer: Option<String>,
    audience: Option<String>,
    provision: Option<bool>,
}

fn decide_jwt(options: JwtOptions) -> Result<Option<JwtSettings>, String> {
    let keys = match (options.secret_file, options.jwks) {
        (Some(_), Some(_)) => {
            return Err(
                "--jwt-hs256-secret-file and --jwt-jwks exclude each other: choose what your backend signs with".into(),
            );
        }
        (Some(path), None) => KeySource::Hs256File(path),
        (None, Some(place)) => KeySource::Jwks(place),
        (None, None) => {
            let said = [
                ("--jwt-issuer", options.issuer.is_some()),
                ("--jwt-audience", options.audience.is_some()),
                ("--jwt-provision", options.provision == Some(true)),
            ];
            return match said.into_iter().find(|(_, said)| *said) {
                None => Ok(None),
                Some((flag, _)) => Err(format!(
                    "{flag} says how JWTs are read, and nothing says how they are verified: add --jwt-hs256-secret-file or \
                     --jwt-jwks"
                )),
            };
        }
    };
    keys.check()?;
    Ok(Some(JwtSettings {
        keys,
        issuer: required(options.issuer, "--jwt-issuer", "the iss of your backend's tokens")?,
        audience: required(options.audience, "--jwt-audience", "what the aud of tokens for this server has")?,
        provision: options.provision.unwrap_or(false),
    }))
}

fn required(value: Option<String>, flag: &str, meaning: &str) -> Result<String, String> {
    match value {
        None => Err(format!("JWTs need {flag} too: {meaning}")),
        Some(text) if text.is_empty() => Err(format!("{flag} is empty: it is {meaning}")),
        Some(text) => Ok(text),
    }
}

fn web_origin(text: &str) -> Option<String> {
    let url = url::Url::parse(text).ok()?;
    matches!(url.scheme(), "http" | "https").then(|| origin_of(&url)).flatten()
}

fn read_file(path: Option<&Path>) -> Result<File, String> {
    let default = Path::new(DEFAULT_FILE);
    let Some(path) = path.or_else(|| default.exists().then_some(default)) else {
        return Ok(File::default());
    };
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    toml::from_str(&text).map_err(|error| format!("{}: {}", path.display(), error.message()))
}

fn decide_data(options: &DataOptions, file: &File) -> Result<DataConfig, String> {
    let data_dir = options.data_dir.clone().or_else(|| file.data_dir.clone()).unwrap_or_else(|| "data".into());
    let location = match options.database_url.as_ref().or(file.database_url.as_ref()) {
        Some(url) => Location::parse(url)?,
        None => Location::Sqlite(data_dir.join("posthaste.db")),
    };
    let allow_unsafe_storage = options.allow_unsafe_storage.or(file.allow_unsafe_storage).unwrap_or(false);
    Ok(DataConfig { data_dir, location, allow_unsafe_storage })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(options: ServeOptions) -> Result<Option<JwtSettings>, String> {
        // Not the file that may lie in the working folder.
        let data = DataOptions { config: Some("/dev/null".into()), ..DataOptions::default() };
        serve(&data, options).map(|(config, _)| config.settings.jwt)
    }

    fn jwks(place: &str) -> ServeOptions {
        ServeOptions {
            jwt_jwks: Some(place.into()),
            jwt_issuer: Some("https://example.org".into()),
            jwt_audience: Some("posthaste".into()),
            ..ServeOptions::default()
        }
    }

    #[test]
    fn jwts_are_off_unless_there_are_keys() {
        assert!(decide(ServeOptions::default()).unwrap().is_none());
        assert!(decide(ServeOptions { jwt_provision: Some(false), ..ServeOptions::default() }).unwrap().is_none());
        let wrong = [
            ServeOptions { jwt_issuer: Some("a".into()), ..ServeOptions::default() },
            ServeOptions { jwt_audience: Some("a".into()), ..ServeOptions::default() },
            ServeOptions { jwt_provision: Some(true), ..ServeOptions::default() },
        ];
        for options in wrong {
            let error = decide(options).unwrap_err();
            assert!(error.contains("add --jwt-hs256-secret-file or --jwt-jwks"), "{error}");
        }
    }

    #[test]
    fn settings_of_jwts_come_as_they_were_said() {
        let settings = decide(jwks("https://example.org/jwks.json")).unwrap().unwrap();
        assert_eq!(settings.keys, KeySource::Jwks("https://example.org/jwks.json".into()));
        assert_eq!((settings.issuer.as_str(), settings.audience.as_str()), ("https://example.org", "posthaste"));
        assert!(!settings.provision);
        let secret = ServeOptions {
            jwt_jwks: None,
            jwt_hs256_secret_file: Some("secret".into()),
            jwt_provision: Some(true),
            ..jwks("")
        };
        let settings = decide(secret).unwrap().unwrap();
        assert_eq!(settings.keys, KeySource::Hs256File("secret".into()));
        assert!(settings.provision);
    }

    #[test]
    fn unsafe_storage_is_allowed_by_the_flag_or_by_the_file_and_the_flag_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("posthaste.toml");
        for (text, flag, allowed) in [
            ("", None, false),
            ("", Some(true), true),
            ("allow_unsafe_storage = true", None, true),
            ("allow_unsafe_storage = true", Some(false), false),
        ] {
            std::fs::write(&path, text).unwrap();
            let options =
                DataOptions { config: Some(path.clone()), allow_unsafe_storage: flag, ..DataOptions::default() };
            assert_eq!(data(&options).unwrap().allow_unsafe_storage, allowed, "{text} {flag:?}");
            let (config, _) = serve(&options, ServeOptions::default()).unwrap();
            assert_eq!(config.settings.allow_unsafe_storage, allowed, "{text} {flag:?}");
        }
    }

    #[test]
    fn wrong_combinations_for_jwts_are_refused_with_a_sentence() {
        let both = ServeOptions { jwt_hs256_secret_file: Some("secret".into()), ..jwks("keys.json") };
        let wrong = [
            (both, "exclude each other"),
            (ServeOptions { jwt_issuer: None, ..jwks("keys.json") }, "JWTs need --jwt-issuer too"),
            (ServeOptions { jwt_issuer: Some(String::new()), ..jwks("keys.json") }, "--jwt-issuer is empty"),
            (ServeOptions { jwt_audience: None, ..jwks("keys.json") }, "JWTs need --jwt-audience too"),
            (ServeOptions { jwt_audience: Some(String::new()), ..jwks("keys.json") }, "--jwt-audience is empty"),
            (jwks(""), "--jwt-jwks is empty"),
            (jwks("http://example.org/jwks.json"), "must be https"),
            (jwks("http://127.0.0.1.example.org/jwks.json"), "must be https"),
            (jwks("http://localhost@example.org/jwks.json"), "must be https"),
            (jwks("https://user:word@example.org/jwks.json"), "user name or password"),
            (jwks("ftp://example.org/jwks.json"), "must be a file, or a URL with https"),
            (jwks("https://"), "not a URL"),
        ];
        for (options, sentence) in wrong {
            let error = decide(options).unwrap_err();
            assert!(error.contains(sentence), "{error}");
            assert!(!error.contains("word@"), "{error}");
        }
    }

    #[test]
    fn keys_may_come_over_http_from_this_machine() {
        for place in
            ["http://localhost:1/", "http://127.0.0.1/jwks", "http://[::1]:8080/", "keys.json", "/etc/keys.json"]
        {
            assert!(decide(jwks(place)).is_ok(), "{place}");
        }
    }

    #[test]
    fn each_option_of_jwts_has_a_key_in_the_file_and_a_flag_that_outweighs_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("posthaste.toml");
        let text = "jwt_jwks = \"keys.json\"\njwt_issuer = \"a\"\njwt_audience = \"b\"\njwt_provision = true\n";
        std::fs::write(&path, text).unwrap();
        let data = DataOptions { config: Some(path.clone()), ..DataOptions::default() };
        let options = ServeOptions { jwt_issuer: Some("flag".into()), ..ServeOptions::default() };
        let settings = serve(&data, options).unwrap().0.settings.jwt.unwrap();
        assert_eq!(settings.keys, KeySource::Jwks("keys.json".into()));
        assert_eq!((settings.issuer.as_str(), settings.audience.as_str()), ("flag", "b"));
        assert!(settings.provision);
        std::fs::write(&path, "jwt_hs256_secret_file = \"secret\"\n").unwrap();
        let settings = serve(&data, jwks("keys.json"));
        assert!(settings.unwrap_err().contains("exclude each other"));
    }

    #[test]
    fn the_switch_may_stand_alone_or_with_its_value() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: ServeOptions,
        }

        for (words, provision) in [
            (&["posthaste", "--jwt-provision", "true"][..], Some(true)),
            (&["posthaste", "--jwt-provision", "false"], Some(false)),
            (&["posthaste", "--jwt-provision=false", "--demo"], Some(false)),
            (&["posthaste", "--jwt-provision", "--demo"], Some(true)),
            (&["posthaste"], None),
        ] {
            let line = <Line as clap::Parser>::try_parse_from(words).unwrap();
            assert_eq!(line.options.jwt_provision, provision, "{words:?}");
        }
    }
}
