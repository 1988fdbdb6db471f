//! The bus: what one server tells the others on the same data, so that they need not wait for their next look at the log.
//!
//! It carries two things: that there is something new in the log, and whispers, which are not logged. Both are hints. With a
//! bus that is dead the log is looked at every [`POLL_INTERVAL`](super::POLL_INTERVAL), and whispers stay on their server.
//!
//! What is said is signed with a key of the data: whoever else can speak there (every role of a database may NOTIFY) is not
//! believed.
//!
//! Invariants:
//! - Nobody echoes: a server tells of the log only after a commit of its own that found the log moved, and passes on nothing
//!   that it heard. What it said itself it does not hear.
//! - Nothing that serves a request waits for the bus.

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

use super::{Live, Whisper};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::hex;
use crate::domain::events::events;
use crate::store::db::Db;
use crate::store::postgres::notify;

/// Between two looks at whether the log has moved: what is committed meanwhile is told of together.
const COALESCING_INTERVAL: Duration = Duration::from_millis(5);
/// How long to wait after the log could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// Which bus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BusSettings {
    /// None: other servers find out by looking.
    #[default]
    Local,
    /// LISTEN and NOTIFY of the database.
    Postgres {
        /// Where to listen: a connection without a pooler before it. Holds a password: never printed.
        listen_url: String,
    },
    /// A NATS server.
    Nats {
        /// Where: one URL, or several with commas between. Holds a password: never printed.
        url: String,
    },
}

/// What one server tells the others.
#[derive(Debug, Serialize, Deserialize)]
struct Message<'a> {
    /// Which server says it, so that it does not listen to itself.
    server: &'a str,
    /// To be told there too; without it, there is something new in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    whisper: Option<Whisper>,
}

/// The way to the other servers.
enum Line {
    Postgres { listen_url: String },
    Nats(nats::Settings),
}

/// What tells the others.
enum Mouth<'a> {
    Postgres(&'a App),
    Nats(nats::Connection),
}

impl Mouth<'_> {
    async fn tell(&self, text: String) -> Result<()> {
        match self {
            Self::Postgres(app) => app.db.notify(&text).await,
            Self::Nats(connection) => connection.tell(text).await,
        }
    }
}

/// A server's end of the bus.
pub struct Bus {
    line: Option<Line>,
    key: hmac::Key,
    /// This server among the others.
    server: String,
}

impl Bus {
    /// Makes it ready; nothing is connected before [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Internal`] with a sentence for the operator when the settings cannot be used.
    pub fn new(app: &App, settings: &BusSettings) -> Result<Self> {
        let line = match settings {
            BusSettings::Local => None,
            BusSettings::Postgres { listen_url } => {
                if !matches!(app.db, Db::Postgres(_)) {
                    return Err(Error::internal("the bus postgres needs a PostgreSQL database"));
                }
                notify::check(listen_url)?;
                Some(Line::Postgres { listen_url: listen_url.clone() })
            }
            BusSettings::Nats { url } => Some(Line::Nats(nats::Settings::new(app, url)?)),
        };
        let key = Sha256::new().chain_update(b"posthaste bus signature ").chain_update(app.name_key).finalize();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Ok(Self { line, key, server: hex(&app.rng.bytes::<8>().map_err(Error::internal)?) })
    }

    /// Whether other servers can be reached at all.
    pub fn is_local(&self) -> bool {
        self.line.is_none()
    }

    /// Publishes and listens for as long as the server runs. Ends when one of the two cannot go on.
    pub async fn run(&self, live: &Arc<Live>) {
        match &self.line {
            None => {}
            Some(Line::Postgres { listen_url }) => {
                let mouth = Mouth::Postgres(&live.app);
                self.exchange(live, &mouth, postgres::listen(listen_url, self, live)).await;
            }
            Some(Line::Nats(settings)) => match nats::Connection::open(settings, live).await {
                Ok((connection, heard)) => {
                    let mouth = Mouth::Nats(connection);
                    self.exchange(live, &mouth, nats::listen(heard, self, live)).await;
                }
                Err(error) => tracing::error!(%error, "there is no bus: NATS cannot be used"),
            },
        }
    }

    async fn exchange(&self, live: &Live, mouth: &Mouth<'_>, listening: impl Future<Output = ()>) {
        tokio::select! {
            () = listening => {}
            () = self.tell_of_the_log(live, mouth) => {}
            () = self.tell_whispers(live, mouth) => {}
        }
    }

    async fn tell_of_the_log(&self, live: &Live, mouth: &Mouth<'_>) {
        let mut commits = live.app.commits.listen();
        let mut told_of = None;
        while commits.changed().await.is_ok() {
            match events::log(&live.app).await {
                Ok(log) => {
                    let now = Some((log.epoch, log.last_position));
                    if told_of != now {
                        self.say(None, mouth).await;
                        told_of = now;
                    }
                    tokio::time::sleep(COALESCING_INTERVAL).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "the log of events could not be read to tell of it");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn tell_whispers(&self, live: &Live, mouth: &Mouth<'_>) {
        let mut whispers = live.whispers();
        loop {
            match whispers.recv().await {
                Ok(whisper) => self.say(Some(whisper), mouth).await,
                Err(RecvError::Lagged(count)) => tracing::debug!(count, "the bus was too slow for some whispers"),
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn say(&self, whisper: Option<Whisper>, mouth: &Mouth<'_>) {
        let text = serde_json::to_string(&Message { server: &self.server, whisper }).map_err(Error::internal);
        let outcome = match text {
            Ok(text) => mouth.tell(format!("{} {text}", STANDARD.encode(hmac::sign(&self.key, text.as_bytes())))).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "other servers were not told, and will find out by themselves");
        }
    }

    /// Something was said on the bus, by this server or another one.
    fn hear(&self, live: &Live, text: &[u8]) {
        let Some(text) = self.signed(text) else {
            tracing::debug!("what came over the bus is not of a server on the same data");
            return;
        };
        let message: Message<'_> = match serde_json::from_str(text) {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(%error, "what came over the bus cannot be read");
                return;
            }
        };
        if message.server == self.server {
            return;
        }
        match message.whisper {
            None => live.look(),
            Some(whisper) => live.hear(&whisper),
        }
    }

    /// What is behind a signature that is right.
    fn signed<'a>(&self, text: &'a [u8]) -> Option<&'a str> {
        let (signature, text) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        hmac::verify(&self.key, text.as_bytes(), &STANDARD.decode(signature).ok()?).ok()?;
        Some(text)
    }
}
