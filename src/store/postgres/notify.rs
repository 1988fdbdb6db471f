//! NOTIFY and LISTEN: short texts that one node sends to all nodes on the same database. They are hints: a text may be
//! lost, so no node depends on receiving one.
//!
//! Invariant: texts are sent through the pool, in their own transactions, so that no other transaction waits for them. Texts
//! are received on a separate connection, which must not go through a pooler.

use std::pin::pin;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_postgres::AsyncMessage;

use super::connect::{ConnectionDriver, Refusal, Target};
use super::{Database, errors, tls};
use crate::base::error::{Error, Result};
use crate::store::driver::values::Value;

/// The longest text, in bytes. PostgreSQL refuses texts of 8,000 bytes or more.
pub const MAX_BYTES: usize = 7_900;
/// The maximum number of received texts that wait for [`Listener::next`]. At this number the node stops reading from the
/// connection, and PostgreSQL keeps further texts.
const RECEIVED_LIMIT: usize = 1_024;
/// The time without a text after which the connection is tested with an empty query.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// How long the answer to that test may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long LISTEN may take.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long NOTIFY may take.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks that a listening connection could be configured from a URL. Does not connect.
///
/// # Errors
/// [`Error::Internal`] with a sentence for the operator, which contains no secrets of the URL.
pub fn check(url: &str) -> Result<()> {
    tls::configure(url).map(drop)
}

/// Sends a text to every node that listens, including this one.
///
/// # Errors
/// When the text is too long, or the database cannot be reached.
pub async fn notify(database: &Database, text: &str) -> Result<()> {
    if text.len() > MAX_BYTES {
        return Err(Error::internal("the payload is too long for NOTIFY"));
    }
    // Without this setting the commit of a NOTIFY would wait for a sync of the disk while it holds a lock that every NOTIFY
    // of the PostgreSQL cluster takes. A hint need not survive a crash. The setting ends with this statement.
    let sql = "SELECT set_config('synchronous_commit', 'off', true), pg_notify('posthaste', $1)";
    database.execute_outside_transaction(sql, &[Value::Text(text)], NOTIFY_TIMEOUT).await
}

/// A connection that listens. It closes when it is dropped.
pub struct Listener {
    client: ClientWrapper,
    received: mpsc::Receiver<String>,
}

impl Listener {
    /// Connects and starts to listen. Texts that are sent from now on are received.
    ///
    /// # Errors
    /// [`Error::Internal`] when the URL cannot be used, [`Error::Unavailable`] when PostgreSQL cannot be reached.
    pub async fn open(url: &str) -> Result<Self> {
        let target = Target::parse(url, "posthaste-listen")?;
        let (sender, received) = mpsc::channel(RECEIVED_LIMIT);
        let drive = move |connection: ConnectionDriver| tokio::spawn(forward(connection, sender.clone()));
        // `true` accepts PostgreSQL settings that could lose commits in a crash. This connection writes nothing.
        let client = target.connect(true, &drive).await.map_err(Refusal::into_error)?;
        let listening = timeout(LISTEN_TIMEOUT, client.batch_execute("LISTEN posthaste")).await;
        let listening = listening.map_err(|_| Error::unavailable("PostgreSQL took too long to answer"))?;
        listening.map_err(|error| errors::fault(error).error)?;
        Ok(Self { client, received })
    }

    /// The next text. `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            tokio::select! {
                received = self.received.recv() => return received,
                () = sleep(PROBE_INTERVAL) => {}
            }
            // Without a test, a broken connection looks like one on which no text was sent.
            let answer = timeout(PROBE_TIMEOUT, self.client.simple_query("")).await;
            if !matches!(answer, Ok(Ok(_))) {
                return None;
            }
        }
    }
}

/// Runs a connection and forwards the received texts. Returns when the connection ends, which also happens when its client
/// is dropped.
async fn forward(mut connection: ConnectionDriver, sender: mpsc::Sender<String>) {
    let mut messages = pin!(futures_util::stream::poll_fn(|context| connection.poll_message(context)));
    while let Some(Ok(message)) = futures_util::StreamExt::next(&mut messages).await {
        if let AsyncMessage::Notification(notification) = message
            && sender.send(notification.payload().to_owned()).await.is_err()
        {
            return;
        }
    }
}
