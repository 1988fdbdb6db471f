//! NOTIFY and LISTEN: short texts from one server on a database to the others. Hints: nobody may rest on their coming.
//!
//! Invariant: what is told goes through the pool, in a transaction of its own, so that it waits for nothing that matters and
//! nothing waits for it; what is heard comes on a connection of its own, which no pooler may stand before.

use std::pin::pin;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_postgres::AsyncMessage;

use super::connect::{Driver, Refusal, Target};
use super::{Database, errors, tls};
use crate::base::error::{Error, Result};
use crate::store::driver::values::Value;

/// Bytes of one text: PostgreSQL takes less than 8,000.
pub const MAX_BYTES: usize = 7_900;
/// Texts that were heard and wait to be read; beyond it PostgreSQL keeps them.
const HEARD_WAITING: usize = 1_024;
/// Silence after which the connection is checked with an empty query.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Time that the answer to it may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long LISTEN may take.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long NOTIFY may take.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a connection for listening can be made of a URL, without making it.
///
/// # Errors
/// [`Error::Internal`] with a sentence for the operator, without the URL's secrets.
pub fn check(url: &str) -> Result<()> {
    tls::configure(url).map(drop)
}

/// Sends a text to every server that listens, this one too.
///
/// # Errors
/// When the text is too long, or the database cannot be reached.
pub async fn notify(database: &Database, text: &str) -> Result<()> {
    if text.len() > MAX_BYTES {
        return Err(Error::internal("too long for NOTIFY"));
    }
    // The commit of a NOTIFY is flushed like any other, while a lock is held that every NOTIFY of the cluster takes. A hint
    // need not outlive a crash. The setting ends with this statement.
    let sql = "SELECT set_config('synchronous_commit', 'off', true), pg_notify('posthaste', $1)";
    database.alone(sql, &[Value::Text(text)], NOTIFY_TIMEOUT).await
}

/// A connection that listens. It ends when it is dropped.
pub struct Listener {
    client: ClientWrapper,
    heard: mpsc::Receiver<String>,
}

impl Listener {
    /// Connects and listens: what is published from now on is heard.
    ///
    /// # Errors
    /// [`Error::Internal`] when the URL cannot be used, [`Error::Unavailable`] when the server cannot be reached.
    pub async fn open(url: &str) -> Result<Self> {
        let target = Target::parse(url, "posthaste-listen")?;
        let (sender, heard) = mpsc::channel(HEARD_WAITING);
        let drive = move |connection: Driver| tokio::spawn(forward(connection, sender.clone()));
        // Nothing is written here, so the settings that decide about durability do not matter.
        let client = target.connect(true, &drive).await.map_err(Refusal::into_error)?;
        let listening = timeout(LISTEN_TIMEOUT, client.batch_execute("LISTEN posthaste")).await;
        let listening = listening.map_err(|_| Error::unavailable("the database took too long to answer"))?;
        listening.map_err(|error| errors::fault(error).error)?;
        Ok(Self { client, heard })
    }

    /// The next text; `None` once the connection is gone.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            tokio::select! {
                heard = self.heard.recv() => return heard,
                () = sleep(PROBE_INTERVAL) => {}
            }
            // A dead connection is as silent as one over which nothing happens.
            let answer = timeout(PROBE_TIMEOUT, self.client.simple_query("")).await;
            if !matches!(answer, Ok(Ok(_))) {
                return None;
            }
        }
    }
}

/// Drives a connection, and passes on what is heard. Ends with the connection, which ends with its client.
async fn forward(mut connection: Driver, sender: mpsc::Sender<String>) {
    let mut messages = pin!(futures_util::stream::poll_fn(|context| connection.poll_message(context)));
    while let Some(Ok(message)) = futures_util::StreamExt::next(&mut messages).await {
        if let AsyncMessage::Notification(notification) = message
            && sender.send(notification.payload().to_owned()).await.is_err()
        {
            return;
        }
    }
}
