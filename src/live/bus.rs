//! The bus: messages between the servers that share a database, so that they need not wait for their next read of the event
//! log.
//!
//! The bus carries wake-ups, which say that the event log has grown, and ephemeral events. Both may be lost. Without a working
//! bus each server still reads the log every [`POLL_INTERVAL`](super::POLL_INTERVAL), and ephemeral events reach only the
//! readers on their own server.
//!
//! Every message is signed with a key that is derived from a secret in the database, because other programs can write to the bus
//! too: every role of a PostgreSQL database may NOTIFY. A message with a wrong signature is ignored.
//!
//! Invariants:
//! - A server does not forward messages. It sends a wake-up only after a commit of its own, and only if the event log has grown.
//!   It ignores its own messages.
//! - No request waits for the bus.

mod nats;
mod postgres;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::broadcast::error::RecvError;

use super::{EphemeralDelivery, Live};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::hex;
use crate::domain::events::events;
use crate::store::db::Db;
use crate::store::postgres::notify;

/// The pause between two wake-ups. Commits within it share one wake-up.
const COALESCING_INTERVAL: Duration = Duration::from_millis(5);
/// The pause after the event log could not be read.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Which bus this server uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BusSettings {
    /// No bus: other servers notice new events when they next read the log.
    #[default]
    Local,
    /// LISTEN and NOTIFY of PostgreSQL.
    Postgres {
        /// The URL for LISTEN. It must not lead to a pooler. It can contain a password: never print it.
        listen_url: String,
    },
    /// A NATS server.
    Nats {
        /// One URL, or several separated by commas. They can contain a password: never print them.
        url: String,
    },
}

/// A message on the bus.
#[derive(Debug, Serialize, Deserialize)]
struct BusMessage<'a> {
    /// The name of the server that sent it. A server ignores its own messages.
    server: &'a str,
    /// An ephemeral event to deliver. `None` makes the message a wake-up.
    #[serde(rename = "whisper", default, skip_serializing_if = "Option::is_none")]
    ephemeral: Option<EphemeralDelivery>,
}

/// How messages reach the other servers.
enum Transport {
    Postgres { listen_url: String },
    Nats(nats::Settings),
}

/// Sends messages to the other servers.
enum Publisher<'a> {
    Postgres(&'a App),
    Nats(nats::Connection),
}

impl Publisher<'_> {
    async fn publish(&self, text: String) -> Result<()> {
        match self {
            Self::Postgres(app) => app.db.notify(&text).await,
            Self::Nats(connection) => connection.publish(text).await,
        }
    }
}

/// The connection of one server to the bus.
pub struct Bus {
    /// `None` without a bus.
    transport: Option<Transport>,
    /// Signs and verifies messages.
    key: hmac::Key,
    /// The name of this server on the bus, new at each start.
    server: String,
}

impl Bus {
    /// Checks the settings. Opens no connection before [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Internal`] with a sentence for the operator if the settings cannot be used.
    pub fn new(app: &App, settings: &BusSettings) -> Result<Self> {
        let transport = match settings {
            BusSettings::Local => None,
            BusSettings::Postgres { listen_url } => {
                if !matches!(app.db, Db::Postgres(_)) {
                    return Err(Error::internal("--bus postgres needs a PostgreSQL database"));
                }
                notify::check(listen_url)?;
                Some(Transport::Postgres { listen_url: listen_url.clone() })
            }
            BusSettings::Nats { url } => Some(Transport::Nats(nats::Settings::new(app, url)?)),
        };
        let key = Sha256::new().chain_update(b"posthaste bus signature ").chain_update(app.name_key).finalize();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Ok(Self { transport, key, server: hex(&app.rng.bytes::<8>().map_err(Error::internal)?) })
    }

    /// Whether there is no bus.
    pub fn is_local(&self) -> bool {
        self.transport.is_none()
    }

    /// Sends and receives messages as long as the server runs. Ends if either cannot continue.
    pub async fn run(&self, live: &Arc<Live>) {
        match &self.transport {
            None => {}
            Some(Transport::Postgres { listen_url }) => {
                let publisher = Publisher::Postgres(&live.app);
                self.exchange(live, &publisher, postgres::receive(listen_url, self, live)).await;
            }
            Some(Transport::Nats(settings)) => match nats::Connection::open(settings, live).await {
                Ok((connection, messages)) => {
                    let publisher = Publisher::Nats(connection);
                    self.exchange(live, &publisher, nats::receive(messages, self, live)).await;
                }
                Err(error) => tracing::error!(%error, "the bus does not run: NATS cannot be used"),
            },
        }
    }

    /// Sends and receives until one of the three parts ends.
    async fn exchange(&self, live: &Live, publisher: &Publisher<'_>, receiving: impl Future<Output = ()>) {
        tokio::select! {
            () = receiving => {}
            () = self.send_wake_ups(live, publisher) => {}
            () = self.send_ephemeral_events(live, publisher) => {}
        }
    }

    async fn send_wake_ups(&self, live: &Live, publisher: &Publisher<'_>) {
        let mut commits = live.app.commits.listen();
        let mut announced = None;
        while commits.changed().await.is_ok() {
            match events::log(&live.app).await {
                Ok(log) => {
                    let now = Some((log.epoch, log.last_position));
                    if announced != now {
                        self.send(None, publisher).await;
                        announced = now;
                    }
                    tokio::time::sleep(COALESCING_INTERVAL).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "the event log could not be read, so other servers get no wake-up");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn send_ephemeral_events(&self, live: &Live, publisher: &Publisher<'_>) {
        let mut events = live.ephemeral_events();
        loop {
            match events.recv().await {
                Ok(event) => self.send(Some(event), publisher).await,
                Err(RecvError::Lagged(count)) => {
                    tracing::debug!(count, "the bus was too slow; some ephemeral events reached only this server");
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn send(&self, ephemeral: Option<EphemeralDelivery>, publisher: &Publisher<'_>) {
        let text = serde_json::to_string(&BusMessage { server: &self.server, ephemeral }).map_err(Error::internal);
        let outcome = match text {
            Ok(text) => {
                publisher.publish(format!("{} {text}", STANDARD.encode(hmac::sign(&self.key, text.as_bytes())))).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a message was not sent over the bus");
        }
    }

    /// Handles a message from the bus, which may come from this server itself.
    fn handle(&self, live: &Live, text: &[u8]) {
        let Some(text) = self.verified(text) else {
            tracing::debug!("a message on the bus has a wrong signature: no server on this database sent it");
            return;
        };
        let message: BusMessage<'_> = match serde_json::from_str(text) {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(%error, "a message on the bus is malformed");
                return;
            }
        };
        if message.server == self.server {
            return;
        }
        match message.ephemeral {
            None => live.look(),
            Some(event) => live.deliver_ephemeral(&event),
        }
    }

    /// The text after the signature; `None` if the signature is wrong.
    fn verified<'a>(&self, text: &'a [u8]) -> Option<&'a str> {
        let (signature, text) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        hmac::verify(&self.key, text.as_bytes(), &STANDARD.decode(signature).ok()?).ok()?;
        Some(text)
    }
}
