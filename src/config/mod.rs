//! The configuration. A flag takes precedence over an environment variable, a variable over the configuration file, and the file
//! over the default.
//!
//! Invariant: only `options` defines options. This module checks their values together and derives the settings. An
//! unknown key in the configuration file is an error that names the key and its line.

mod bus;
pub mod environment;
pub mod file;
mod gifs;
pub mod log;
mod options;
mod values;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use bus::BusKind;
use options::{
    ALL_FILES_RANGE_MIB, DataValues, EVENT_RETENTION_RANGE_DAYS, FILES_RANGE_MIB, MAX_FILE_RANGE_MIB, ServeValues,
};
pub use options::{
    Correspondents, DataOptions, EmojiEditors, GifProvider, GifRating, LinkPreviewReach, LogFormat, Registration,
    Secret, ServeOptions,
};
pub use values::{ListenAddress, Switch};

use crate::app::Settings;
use crate::blobs;
use crate::domain::access::principal::Access;
use crate::domain::files::files::FileSettings;
use crate::domain::identity::jwt::{JwtSettings, KeySource};
use crate::domain::identity::users::DirectMessagesFrom;
use crate::http::access::client_address::TrustedProxies;
use crate::http::access::origin::{OriginRules, origin_of};
use crate::live::bus::BusSettings;
use crate::mail::MailSettings;
use crate::outbound::addresses::Reach;
use crate::store::driver::environment::Location;

const MIB: i64 = 1_024 * 1_024;
/// The name of SQLite's file in the data folder.
const SQLITE_FILE: &str = "posthaste.db";

/// The settings of the data, derived from the options.
#[derive(Clone, Debug)]
pub struct DataConfig {
    /// The folder of the data.
    pub data_dir: PathBuf,
    /// The database.
    pub location: Location,
    /// Where the bytes of files are stored.
    pub blobs: blobs::Location,
    /// Whether storage that can lose acknowledged data is accepted.
    pub allow_unsafe_storage: bool,
    /// The configuration file that was read, if there is one.
    pub file: Option<PathBuf>,
}

impl DataConfig {
    /// The options with which another command uses the same database, for a shell. A URL of PostgreSQL is left out, because
    /// it can hold a password.
    pub fn command_options(&self) -> String {
        match &self.location {
            Location::Sqlite(path) if *path == self.data_dir.join(SQLITE_FILE) => {
                format!("--data-dir {}", shell_word(&self.data_dir))
            }
            Location::Sqlite(path) => format!("--database-url sqlite:{}", shell_word(path)),
            Location::Postgres(_) => "--database-url URL_OF_THIS_DATABASE".to_owned(),
        }
    }
}

/// An absolute path as a word of a shell.
fn shell_word(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let plain = |character: char| character.is_alphanumeric() || "/._-+:@".contains(character);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// All settings of a server, derived from the options.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The settings of the data.
    pub data: DataConfig,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Whether open access to a database with accounts is allowed.
    pub allow_open_existing: bool,
    /// The settings of the domain.
    pub settings: Settings,
    /// The hosts and origins of the server, and the other origins that may call it.
    pub origins: OriginRules,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: TrustedProxies,
    /// A separate address for metrics.
    pub metrics_listen: Option<SocketAddr>,
    /// How servers on the same data notify each other.
    pub bus: BusSettings,
}

/// The settings of the log, derived from the options.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The format of a line.
    pub format: LogFormat,
    /// The filter that selects what is logged.
    pub filter: String,
}

/// Derives the settings of the data.
///
/// # Errors
/// A sentence for the operator.
pub fn data(options: &DataOptions) -> Result<DataConfig, String> {
    environment::refuse_empty()?;
    let mut file = file::read(options.config.as_deref())?;
    data_config(options.clone().over(&mut file), file::path(options.config.as_deref()))
}

/// Derives the settings of a server and of its log.
///
/// # Errors
/// A sentence for the operator.
pub fn serve(data_options: &DataOptions, options: ServeOptions) -> Result<(ServeConfig, LogConfig), String> {
    environment::refuse_empty()?;
    let mut file = file::read(data_options.config.as_deref())?;
    let data = data_config(data_options.clone().over(&mut file), file::path(data_options.config.as_deref()))?;
    let values = options.over(&mut file);
    let open = values.demo.0 || values.open.0;
    let listen = values.listen.0;
    log::check(&values.log)?;
    if open && !values.allow_open_anywhere.0 && !listen.ip().to_canonical().is_loopback() {
        return Err(format!(
            "Open access would let in everybody who can reach {listen}; listen on 127.0.0.1, remove --open and --demo, or add \
             --allow-open-anywhere"
        ));
    }
    let origins = origin_rules(values.public_url.as_deref(), &values.cors_origin)?;
    let jwt = jwt_settings(&values)?;
    let trusted_proxies =
        TrustedProxies::parse(&values.trusted_proxies).map_err(|error| format!("--trusted-proxies {error}"))?;
    for (key, value, range) in [
        ("event_retention_days", values.event_retention_days, EVENT_RETENTION_RANGE_DAYS),
        ("max_file_mib", values.max_file_mib, MAX_FILE_RANGE_MIB),
        ("user_files_mib", values.user_files_mib, FILES_RANGE_MIB),
        ("all_files_mib", values.all_files_mib, ALL_FILES_RANGE_MIB),
    ] {
        if !range.contains(&value) {
            return Err(format!("{key} must be between {} and {}", range.start(), range.end()));
        }
    }
    let files = FileSettings {
        location: data.blobs.clone(),
        spool: data.data_dir.join("uploads"),
        max_file_bytes: values.max_file_mib.unsigned_abs() * MIB.unsigned_abs(),
        max_user_bytes: values.user_files_mib * MIB,
        max_server_bytes: values.all_files_mib * MIB,
    };
    let provider = values.gif_provider.unwrap_or(if values.demo.0 { GifProvider::Local } else { GifProvider::Off });
    let gifs = gifs::settings(provider, values.gif_api_key, values.gif_url.as_deref(), values.gif_rating)?;
    let bus = bus::settings(&data.location, values.bus, values.listen_url, values.nats_url)?;
    let settings = Settings {
        access: if open { Access::Open } else { Access::Secured },
        demo: values.demo.0,
        rate_limits: values.rate_limits.0,
        registration_open: values.registration == Registration::Open,
        direct_messages_from: match values.direct_messages_from {
            Correspondents::Everyone => DirectMessagesFrom::Everyone,
            Correspondents::Friends => DirectMessagesFrom::Friends,
        },
        members_add_emoji: values.custom_emoji == EmojiEditors::Everyone,
        event_retention_days: values.event_retention_days,
        accept_lost_tail: values.accept_lost_tail,
        webhook_allow_private: values.webhook_allow_private.0,
        link_previews: match values.link_previews {
            LinkPreviewReach::Off => None,
            LinkPreviewReach::Public => Some(Reach::PublicWeb),
            LinkPreviewReach::Any => Some(Reach::Anywhere),
        },
        public_url: values.public_url,
        allow_unsafe_storage: data.allow_unsafe_storage,
        jwt,
        mail: mail_settings(values.smtp_url, values.mail_from)?,
        files: Some(files),
        gifs,
    };
    let metrics_listen = values.metrics_listen.map(|address| address.0);
    if metrics_listen == Some(listen) && listen.port() != 0 {
        return Err(format!("--listen and --metrics-listen are both {listen}; choose another port for one of them"));
    }
    let allow_open_existing = values.allow_open_existing.0;
    let config =
        ServeConfig { data, listen, allow_open_existing, settings, origins, trusted_proxies, metrics_listen, bus };
    Ok((config, LogConfig { format: values.log_format, filter: values.log }))
}

fn data_config(values: DataValues, file: Option<PathBuf>) -> Result<DataConfig, String> {
    if values.data_dir.as_os_str().is_empty() {
        return Err("--data-dir is empty; name a folder".into());
    }
    let location = match values.database_url {
        Some(url) => Location::parse(&url)?,
        None => Location::Sqlite(values.data_dir.join(SQLITE_FILE)),
    };
    let blobs = match values.blob_url {
        Some(url) => url.parse().map_err(|error| format!("--blob-url: {error}"))?,
        None => blobs::Location::Folder(values.data_dir.join("files")),
    };
    let allow_unsafe_storage = values.allow_unsafe_storage.0;
    Ok(DataConfig { data_dir: values.data_dir, location, blobs, allow_unsafe_storage, file })
}

fn origin_rules(public_url: Option<&str>, cors_origin: &[String]) -> Result<OriginRules, String> {
    let public_origin = match public_url {
        None => None,
        Some(url) => Some(web_origin(url).ok_or("--public-url must be an http or https URL")?),
    };
    let cors_origins = cors_origin.iter().map(|origin| {
        web_origin(origin).ok_or_else(|| format!("--cors-origin {origin} is not an origin such as https://example.org"))
    });
    Ok(OriginRules { public_origin, cors_origins: cors_origins.collect::<Result<_, _>>()? })
}

fn mail_settings(url: Option<Secret>, from: Option<String>) -> Result<Option<MailSettings>, String> {
    match (url, from) {
        (Some(Secret(url)), Some(from)) => Ok(Some(MailSettings { url, from })),
        (None, None) => Ok(None),
        (Some(_), None) => Err("--smtp-url needs --mail-from, the sender address of mail".into()),
        (None, Some(_)) => Err("--mail-from needs --smtp-url, the SMTP server".into()),
    }
}

fn jwt_settings(values: &ServeValues) -> Result<Option<JwtSettings>, String> {
    let keys = match (&values.jwt_hs256_secret_file, &values.jwt_jwks) {
        (Some(_), Some(_)) => {
            return Err(
                "--jwt-hs256-secret-file and --jwt-jwks exclude each other; give the one that your backend signs with"
                    .into(),
            );
        }
        (Some(path), None) => KeySource::Hs256File(path.clone()),
        (None, Some(place)) => KeySource::Jwks(place.clone()),
        (None, None) => {
            let given = [
                ("--jwt-issuer", values.jwt_issuer.is_some()),
                ("--jwt-audience", values.jwt_audience.is_some()),
                ("--jwt-provision", values.jwt_provision.0),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                None => Ok(None),
                Some((flag, _)) => Err(format!(
                    "{flag} has no effect without keys that verify JWTs; add --jwt-hs256-secret-file or --jwt-jwks"
                )),
            };
        }
    };
    keys.check()?;
    Ok(Some(JwtSettings {
        keys,
        issuer: required(
            &values.jwt_issuer,
            "--jwt-issuer",
            "the value of the iss claim in the tokens of your backend",
        )?,
        audience: required(
            &values.jwt_audience,
            "--jwt-audience",
            "a value of the aud claim in tokens for this server",
        )?,
        provision: values.jwt_provision.0,
    }))
}

fn required(value: &Option<String>, flag: &str, meaning: &str) -> Result<String, String> {
    match value {
        None => Err(format!("JWTs need {flag}: {meaning}")),
        Some(text) if text.is_empty() => Err(format!("{flag} is empty; give {meaning}")),
        Some(text) => Ok(text.clone()),
    }
}

fn web_origin(text: &str) -> Option<String> {
    let url = url::Url::parse(text).ok()?;
    matches!(url.scheme(), "http" | "https").then(|| origin_of(&url)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(options: ServeOptions) -> Result<Option<JwtSettings>, String> {
        // So that a posthaste.toml in the working directory is not read.
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
    fn jwts_are_off_without_keys() {
        assert!(decide(ServeOptions::default()).unwrap().is_none());
        assert!(
            decide(ServeOptions { jwt_provision: Some(Switch(false)), ..ServeOptions::default() }).unwrap().is_none()
        );
        let wrong = [
            ServeOptions { jwt_issuer: Some("a".into()), ..ServeOptions::default() },
            ServeOptions { jwt_audience: Some("a".into()), ..ServeOptions::default() },
            ServeOptions { jwt_provision: Some(Switch(true)), ..ServeOptions::default() },
        ];
        for options in wrong {
            let error = decide(options).unwrap_err();
            assert!(error.contains("add --jwt-hs256-secret-file or --jwt-jwks"), "{error}");
        }
    }

    #[test]
    fn jwt_settings_come_from_the_options() {
        let settings = decide(jwks("https://example.org/jwks.json")).unwrap().unwrap();
        assert_eq!(settings.keys, KeySource::Jwks("https://example.org/jwks.json".into()));
        assert_eq!((settings.issuer.as_str(), settings.audience.as_str()), ("https://example.org", "posthaste"));
        assert!(!settings.provision);
        let secret = ServeOptions {
            jwt_jwks: None,
            jwt_hs256_secret_file: Some("secret".into()),
            jwt_provision: Some(Switch(true)),
            ..jwks("")
        };
        let settings = decide(secret).unwrap().unwrap();
        assert_eq!(settings.keys, KeySource::Hs256File("secret".into()));
        assert!(settings.provision);
    }

    #[test]
    fn unsafe_storage_is_allowed_by_flag_or_file_and_the_flag_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("posthaste.toml");
        for (text, flag, allowed) in [
            ("", None, false),
            ("", Some(true), true),
            ("allow_unsafe_storage = true", None, true),
            ("allow_unsafe_storage = true", Some(false), false),
        ] {
            std::fs::write(&path, text).unwrap();
            let allow_unsafe_storage = flag.map(Switch);
            let options = DataOptions { config: Some(path.clone()), allow_unsafe_storage, ..DataOptions::default() };
            assert_eq!(data(&options).unwrap().allow_unsafe_storage, allowed, "{text} {flag:?}");
            let (config, _) = serve(&options, ServeOptions::default()).unwrap();
            assert_eq!(config.settings.allow_unsafe_storage, allowed, "{text} {flag:?}");
        }
    }

    #[test]
    fn invalid_jwt_options_are_refused_with_a_sentence() {
        let both = ServeOptions { jwt_hs256_secret_file: Some("secret".into()), ..jwks("keys.json") };
        let wrong = [
            (both, "exclude each other"),
            (ServeOptions { jwt_issuer: None, ..jwks("keys.json") }, "JWTs need --jwt-issuer"),
            (ServeOptions { jwt_issuer: Some(String::new()), ..jwks("keys.json") }, "--jwt-issuer is empty"),
            (ServeOptions { jwt_audience: None, ..jwks("keys.json") }, "JWTs need --jwt-audience"),
            (ServeOptions { jwt_audience: Some(String::new()), ..jwks("keys.json") }, "--jwt-audience is empty"),
            (jwks(""), "--jwt-jwks is empty"),
            (jwks("http://example.org/jwks.json"), "must use https"),
            (jwks("http://127.0.0.1.example.org/jwks.json"), "must use https"),
            (jwks("http://localhost@example.org/jwks.json"), "must use https"),
            (jwks("https://user:word@example.org/jwks.json"), "must not contain a user name or a password"),
            (jwks("ftp://example.org/jwks.json"), "must be the path of a file, or a URL with https"),
            (jwks("https://"), "not a URL"),
        ];
        for (options, sentence) in wrong {
            let error = decide(options).unwrap_err();
            assert!(error.contains(sentence), "{error}");
            assert!(!error.contains("word@"), "{error}");
        }
    }

    #[test]
    fn keys_may_come_over_http_from_loopback() {
        for place in
            ["http://localhost:1/", "http://127.0.0.1/jwks", "http://[::1]:8080/", "keys.json", "/etc/keys.json"]
        {
            assert!(decide(jwks(place)).is_ok(), "{place}");
        }
    }

    #[test]
    fn jwt_options_can_be_set_in_the_file_and_the_flag_wins() {
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
    fn a_boolean_flag_works_with_and_without_a_value() {
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
            assert_eq!(line.options.jwt_provision, provision.map(Switch), "{words:?}");
        }
    }
}
