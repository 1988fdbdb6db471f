//! The bus over NATS. The NATS client connects and reconnects by itself.

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

/// How often the client checks that the connection is alive.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Maximum number of received messages that wait to be handled. Further ones are dropped.
const RECEIVED_LIMIT: usize = 1_024;

/// The credentials for a NATS server.
#[derive(Clone)]
enum Login {
    None,
    Token(String),
    Password(String, String),
}

/// The NATS servers of one cluster, the credentials for them, and the subject that carries the messages.
pub struct Settings {
    servers: Vec<ServerAddr>,
    login: Login,
    subject: String,
}

impl Settings {
    /// Reads one URL, or several separated by commas.
    ///
    /// # Errors
    /// [`Error::Internal`] with a sentence for the operator, which does not contain the secrets of the URL.
    pub fn new(app: &App, url: &str) -> Result<Self> {
        let urls: Option<Vec<url::Url>> = url.split(',').map(|url| url::Url::parse(url.trim()).ok()).collect();
        let urls = urls.filter(|urls| urls.iter().all(|url| matches!(url.scheme(), "nats" | "tls") && url.has_host()));
        let wrong = || Error::internal("--nats-url must be nats://host:port or tls://host:port");
        let urls = urls.ok_or_else(wrong)?;
        // The client ignores credentials in a URL. All servers of a cluster take the same ones.
        let login = urls.iter().find_map(credentials).unwrap_or(Some(Login::None));
        let not_utf8 =
            "the user name, the password or the token in --nats-url is not UTF-8; percent-encode its UTF-8 bytes";
        let login = login.ok_or_else(|| Error::internal(not_utf8))?;
        let bare = |mut url: url::Url| {
            // The client logs URLs, so they must not contain the password.
            url.set_username("").and_then(|()| url.set_password(None)).ok()?;
            ServerAddr::from_url(url).ok()
        };
        let servers: Option<Vec<ServerAddr>> = urls.into_iter().map(bare).collect();
        let servers = servers.ok_or_else(wrong)?;
        // The subject is derived from a secret in the database, so nobody can guess it. Installations that share a NATS server do
        // not receive each other's messages, because their subjects differ.
        let key = Sha256::new().chain_update(b"posthaste bus ").chain_update(app.name_key).finalize();
        Ok(Self { servers, login, subject: format!("posthaste.{}", hex(&key[..16])) })
    }
}

/// The credentials in a URL. `None` if there are none, and `Some(None)` if they are not UTF-8.
fn credentials(url: &url::Url) -> Option<Option<Login>> {
    let plain = |text| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    match (url.username(), url.password()) {
        ("", None) => None,
        (token, None) => Some(plain(token).map(Login::Token)),
        (user, Some(password)) => {
            Some(plain(user).zip(plain(password)).map(|(user, password)| Login::Password(user, password)))
        }
    }
}

/// A client of NATS that publishes messages.
pub struct Connection {
    client: Client,
    subject: String,
}

impl Connection {
    /// Starts to connect, and returns the client and the messages that it receives. Succeeds even while no NATS server can be
    /// reached.
    ///
    /// # Errors
    /// [`Error::Internal`] if TLS cannot be set up; [`Error::Unavailable`] if the client cannot be started.
    pub async fn open(settings: &Settings, live: &Arc<Live>) -> Result<(Self, Subscriber)> {
        let live = Arc::clone(live);
        let on_event = move |event: Event| {
            let live = Arc::clone(&live);
            async move {
                match event {
                    Event::Connected => {
                        tracing::debug!("connected to NATS");
                        // Wake-ups are lost while there is no connection. So the tailer reads the log now.
                        live.look();
                    }
                    Event::Disconnected => tracing::warn!("the connection to NATS was lost; the client connects again"),
                    event => tracing::warn!(%event, "the NATS client reports a problem"),
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
            .subscription_capacity(RECEIVED_LIMIT)
            .event_callback(on_event);
        options = match settings.login.clone() {
            Login::None => options,
            Login::Token(token) => options.token(token),
            Login::Password(user, password) => options.user_and_password(user, password),
        };
        // Without this the client would use the default TLS provider of the process, and none is set.
        options = options.tls_client_config(tls()?);
        let client = options.connect(settings.servers.clone()).await.map_err(Error::unavailable)?;
        let messages = client.subscribe(settings.subject.clone()).await.map_err(Error::unavailable)?;
        Ok((Self { client, subject: settings.subject.clone() }, messages))
    }

    /// Sends a message to every other server.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a connection. The message is then dropped: after a reconnect it would come too late.
    pub async fn publish(&self, text: String) -> Result<()> {
        if self.client.connection_state() != State::Connected {
            return Err(Error::unavailable("no connection to NATS"));
        }
        self.client.publish(self.subject.clone(), text.into()).await.map_err(Error::unavailable)
    }
}

/// Handles the messages that are received, until the subscription ends.
pub async fn receive(mut messages: Subscriber, bus: &Bus, live: &Live) {
    while let Some(message) = messages.next().await {
        bus.handle(live, &message.payload);
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
