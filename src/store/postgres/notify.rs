//! NOTIFY and LISTEN: short texts from one server on a database to the others. Hints: nobody may rest on their coming.
//!
//! Invariant: what is told goes through the pool, in a transaction of its own, so that it waits for nothing that matters and
//! nothing waits for it; what is heard comes on a connection of its own, which no pooler may stand before.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;

use super::{CONNECT_TIMEOUT, tls, translate};
use crate::error::{Error, Result};
use crate::store::{Db, Value};

/// Bytes of one text: PostgreSQL takes less than 8,000.
pub const MAX_BYTES: usize = 7_900;
/// Texts that were heard and wait to be read; beyond it PostgreSQL keeps them.
const HEARD_WAITING: usize = 1_024;
/// How long telling may take.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a connection for listening can be made of a URL, without making it.
///
/// # Errors
/// [`Error::Internal`] with a sentence for the operator, without the URL's secrets.
pub fn check(url: &str) -> Result<()> {
    tls::configure(url).map(drop)
}

/// Tells every server that listens, this one too.
///
/// # Errors
/// When the text is too long; when the database is not PostgreSQL, or cannot be reached.
pub async fn tell(db: &Db, text: &str) -> Result<()> {
    if text.len() > MAX_BYTES {
        return Err(Error::internal("too long for NOTIFY"));
    }
    // The commit of a NOTIFY is flushed like any other, while a lock is held that every NOTIFY of the cluster takes. A hint
    // need not outlive a crash. The setting ends with this statement.
    let sql = "SELECT set_config('synchronous_commit', 'off', true), pg_notify('posthaste', $1)";
    db.alone(sql, &[Value::Text(text)], TELL_TIMEOUT).await
}

/// A connection that listens. It ends when it is dropped.
pub struct Listener {
    // LISTEN lasts as long as the client does.
    _client: tokio_postgres::Client,
    heard: mpsc::Receiver<String>,
}

impl Listener {
    /// Connects and listens: what is told from now on is heard.
    ///
    /// # Errors
    /// [`Error::Internal`] when the URL cannot be used, [`Error::Unavailable`] when the server cannot be reached.
    pub async fn open(url: &str) -> Result<Self> {
        let opening = tokio::time::timeout(CONNECT_TIMEOUT, Self::connect(url));
        opening.await.map_err(|_| Error::unavailable("the database took too long to answer"))?
    }

    async fn connect(url: &str) -> Result<Self> {
        let (mut config, connector) = tls::configure(url)?;
        // A connection that hears nothing is like one that is dead: the system has to ask.
        config
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3);
        if config.get_application_name().is_none() {
            config.application_name("posthaste-listen");
        }
        let (client, mut connection) = config.connect(connector).await.map_err(translate)?;
        let (sender, heard) = mpsc::channel(HEARD_WAITING);
        tokio::spawn(async move {
            let mut messages = pin!(futures_util::stream::poll_fn(|context| connection.poll_message(context)));
            let mut next = async || futures_util::StreamExt::next(&mut messages).await;
            // Ends with the connection, which ends with its client.
            while let Some(Ok(message)) = next().await {
                if let AsyncMessage::Notification(told) = message
                    && sender.send(told.payload().to_owned()).await.is_err()
                {
                    return;
                }
            }
        });
        client.batch_execute("LISTEN posthaste").await.map_err(translate)?;
        Ok(Self { _client: client, heard })
    }

    /// The next text; `None` once the connection is gone.
    pub async fn next(&mut self) -> Option<String> {
        self.heard.recv().await
    }
}
