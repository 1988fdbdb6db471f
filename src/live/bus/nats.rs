//! The bus over NATS. The client connects, and connects again, by itself.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ServerAddr, Subscriber};
use futures_util::StreamExt as _;
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};

use super::{Bus, Live};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::hex;

/// How often the connection is asked whether it is alive.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Messages that were heard and wait to be read; beyond it they are lost.
const HEARD_WAITING: usize = 1_024;

/// What is shown to a NATS server.
#[derive(Clone)]
enum Login {
    Nothing,
    Token(String),
    Password(String, String),
}

/// Where the servers of one NATS cluster are, and who is with us there.
pub struct Settings {
    servers: Vec<ServerAddr>,
    login: Login,
    subject: String,
}

impl Settings {
    /// Reads the URL: of one server, or of several with commas between.
    ///
    /// # Errors
    /// [`Error::Internal`] with a sentence for the operator, without the URL's secrets.
    pub fn new(app: &App, url: &str) -> Result<Self> {
        let urls: Option<Vec<url::Url>> = url.split(',').map(|url| url::Url::parse(url.trim()).ok()).collect();
        let urls = urls.filter(|urls| urls.iter().all(|url| matches!(url.scheme(), "nats" | "tls") && url.has_host()));
        let wrong = || Error::internal("--nats-url must be nats://host:port or tls://host:port");
        let urls = urls.ok_or_else(wrong)?;
        // The client leaves what a URL says of it alone. The servers of a cluster have it in common.
        let login = urls.iter().find_map(login_of).unwrap_or(Login::Nothing);
        let bare = |mut url: url::Url| {
            // What the client logs of a URL has no password in it then.
            url.set_username("").and_then(|()| url.set_password(None)).ok()?;
            ServerAddr::from_url(url).ok()
        };
        let servers: Option<Vec<ServerAddr>> = urls.into_iter().map(bare).collect();
        let servers = servers.ok_or_else(wrong)?;
        // Of the data, so that several installations may share a NATS server and not hear each other; not to be guessed.
        let key = Sha256::new().chain_update(b"posthaste bus ").chain_update(app.name_key).finalize();
        Ok(Self { servers, login, subject: format!("posthaste.{}", hex(&key[..16])) })
    }
}

fn login_of(url: &url::Url) -> Option<Login> {
    let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    match (url.username(), url.password()) {
        ("", None) => None,
        (token, None) => Some(Login::Token(plain(token))),
        (user, Some(password)) => Some(Login::Password(plain(user), plain(password))),
    }
}

/// A client of NATS, and what it hears.
pub struct Connection {
    client: Client,
    subject: String,
}

impl Connection {
    /// Begins to connect; whether there is a server yet does not matter.
    ///
    /// # Errors
    /// When the certificates of the system cannot be read.
    pub async fn open(settings: &Settings, live: &Arc<Live>) -> Result<(Self, Subscriber)> {
        let live = Arc::clone(live);
        let tell = move |event: Event| {
            let live = Arc::clone(&live);
            async move {
                match event {
                    Event::Connected => {
                        tracing::debug!("connected to NATS");
                        // What was told while nobody listened is in the log.
                        live.look();
                    }
                    Event::Disconnected => tracing::warn!("the connection to NATS was lost"),
                    event => tracing::warn!(%event, "NATS"),
                }
            }
        };
        let mut options = ConnectOptions::new()
            .name("posthaste")
            .no_echo()
            .retry_on_initial_connect()
            .ping_interval(PING_INTERVAL)
            .connection_timeout(CONNECT_TIMEOUT)
            .reconnect_delay_callback(|attempt| {
                LONGEST_PAUSE.min(Duration::from_millis(50) * 2_u32.pow(attempt.min(10) as u32))
            })
            .subscription_capacity(HEARD_WAITING)
            .event_callback(tell);
        options = match settings.login.clone() {
            Login::Nothing => options,
            Login::Token(token) => options.token(token),
            Login::Password(user, password) => options.user_and_password(user, password),
        };
        // The client's own choice would be the process's default provider, which nobody sets here.
        options = options.tls_client_config(tls()?);
        let client = options.connect(settings.servers.clone()).await.map_err(Error::unavailable)?;
        let heard = client.subscribe(settings.subject.clone()).await.map_err(Error::unavailable)?;
        Ok((Self { client, subject: settings.subject.clone() }, heard))
    }

    /// Tells every other server.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a connection: a hint that waits for one is worth nothing any more.
    pub async fn tell(&self, text: String) -> Result<()> {
        if self.client.connection_state() != State::Connected {
            return Err(Error::unavailable("no connection to NATS"));
        }
        self.client.publish(self.subject.clone(), text.into()).await.map_err(Error::unavailable)
    }
}

/// Hears for as long as it is polled.
pub async fn listen(mut heard: Subscriber, bus: &Bus, live: &Live) {
    while let Some(message) = heard.next().await {
        bus.hear(live, &message.payload);
    }
}

fn tls() -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(Error::internal)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
