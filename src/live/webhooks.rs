//! Delivers events to webhooks. Each webhook has a task of its own, so that a receiver that hangs or fails does not delay others.
//!
//! Invariants: only the server that holds the lease of a webhook delivers to it. At most `PARALLEL_REQUESTS` requests of a
//! webhook are in flight, at most one of them for each conversation. Unless private addresses are allowed, the client connects only
//! to addresses of the public internet.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tracing::Instrument as _;

use super::{Live, POLL_INTERVAL};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{WebhookId, hex};
use crate::base::tasks::{PanicPoint, log_panic, panic_point};
use crate::domain::events::events::Cursor;
use crate::domain::events::webhooks::{self, Delivery, Outcome, Webhook};
use crate::outbound::{self, addresses::check_url};

/// How long a receiver may take to answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum number of requests in flight for one webhook.
const PARALLEL_REQUESTS: usize = 8;
/// How long a lease of a webhook lasts.
const LEASE_US: i64 = 60_000_000;
/// The age at which a lease is renewed. More than [`TIMEOUT`] then remains, so no other server starts while a request is in
/// flight.
const RENEW_AFTER: Duration = Duration::from_secs(20);
/// How often the deliveries are counted for `/metrics`.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);

/// The outcome of a test.
#[derive(Clone, Debug)]
pub struct TestOutcome {
    /// The status of the answer. `None` if there was none.
    pub status: Option<u16>,
    /// The time until the answer or the failure.
    pub duration: Duration,
    /// What went wrong, in a sentence. `None` after an answer with 2xx.
    pub error: Option<String>,
}

/// The values that the tasks of all webhooks share. They are kept as long as the server runs, so that a restarted task still holds
/// the leases.
#[derive(Clone)]
pub(super) struct WebhookWorker {
    app: Arc<App>,
    client: reqwest::Client,
    /// The name under which this server holds leases.
    holder: Arc<str>,
}

impl Live {
    /// Sends a test event to a webhook, also to one that is disabled. Changes nothing about the webhook.
    ///
    /// # Errors
    /// An internal error if the machine has no CA certificates.
    pub async fn test_webhook(&self, webhook: &Webhook) -> Result<TestOutcome> {
        let worker = self.webhook_worker()?;
        let message_id = format!("test_{}", hex(&self.app.rng.bytes::<16>().map_err(Error::internal)?));
        let body = webhooks::test_event(webhook.id, self.app.clock.now())?;
        let started = tokio::time::Instant::now();
        let answer = worker.post(webhook, &message_id, body).await;
        let duration = started.elapsed();
        let (status, error) = match answer {
            Ok(status @ 200..=299) => (Some(status), None),
            Ok(status @ 300..=399) => {
                (Some(status), Some(format!("The receiver answered {status}; redirects are not followed")))
            }
            Ok(status @ 410) => {
                let detail =
                    format!("The receiver answered {status}; after this answer to an event, the webhook is disabled");
                (Some(status), Some(detail))
            }
            Ok(status) => (Some(status), Some(format!("The receiver answered {status}, which is not a success"))),
            Err(reason) => (None, Some(reason)),
        };
        Ok(TestOutcome { status, duration, error })
    }

    /// Delivers to webhooks until the server stops.
    pub async fn deliver_webhooks(self: Arc<Self>) {
        if let Err(error) = self.try_deliver_webhooks().await {
            tracing::error!(%error, "webhooks are not delivered");
        }
    }

    async fn try_deliver_webhooks(&self) -> Result<()> {
        let stopped = self.stopped();
        tokio::pin!(stopped);
        let mut tasks: HashMap<WebhookId, AbortHandle> = HashMap::new();
        let mut running = JoinSet::new();
        let mut failure_is_logged = false;
        let mut measured_at: Option<tokio::time::Instant> = None;
        loop {
            if measured_at.is_none_or(|at| at.elapsed() >= MEASURE_INTERVAL) {
                measured_at = Some(tokio::time::Instant::now());
                if let Err(error) = webhooks::measure(&self.app).await {
                    tracing::debug!(%error, "the deliveries to webhooks could not be counted");
                }
            }
            match webhooks::enabled(&self.app).await {
                Ok(enabled) => {
                    tasks.retain(|id, task| {
                        let stays = !task.is_finished() && enabled.iter().any(|webhook| webhook.id == *id);
                        if !stays {
                            task.abort();
                        }
                        stays
                    });
                    for webhook in enabled {
                        if tasks.contains_key(&webhook.id) {
                            continue;
                        }
                        let worker = match self.webhook_worker() {
                            Ok(worker) => worker,
                            // On a machine without CA certificates everything else still works. The error is logged once.
                            Err(error) => {
                                if !failure_is_logged {
                                    tracing::error!(%error, "webhooks are not delivered");
                                }
                                failure_is_logged = true;
                                break;
                            }
                        };
                        let work = log_panic("webhook", worker.run(webhook.id));
                        tasks.insert(webhook.id, running.spawn(work.in_current_span()));
                    }
                }
                Err(error) => tracing::warn!(%error, "the list of webhooks could not be read"),
            }
            while running.try_join_next().is_some() {}
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = &mut stopped => break,
            }
        }
        running.shutdown().await;
        let worker = self.lock_webhook_worker().clone();
        match worker {
            Some(worker) => webhooks::release(&self.app, worker.holder.to_string()).await,
            None => Ok(()),
        }
    }

    /// Returns the worker. It is created when the first webhook needs it and not earlier, because creating it reads the CA
    /// certificates of the machine.
    fn webhook_worker(&self) -> Result<WebhookWorker> {
        let mut worker = self.lock_webhook_worker();
        match &*worker {
            Some(worker) => Ok(worker.clone()),
            None => Ok(worker.insert(WebhookWorker::new(self)?).clone()),
        }
    }

    fn lock_webhook_worker(&self) -> MutexGuard<'_, Option<WebhookWorker>> {
        self.webhook_worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WebhookWorker {
    fn new(live: &Live) -> Result<Self> {
        let holder = hex(&live.app.rng.bytes::<8>().map_err(Error::internal)?).into();
        let reach = webhooks::reach(live.app.settings.webhook_allow_private);
        let client = outbound::client(reach, TIMEOUT, PARALLEL_REQUESTS).map_err(Error::internal)?;
        Ok(Self { app: Arc::clone(&live.app), client, holder })
    }

    /// Delivers to one webhook until this task is aborted or a delivery panics.
    async fn run(self, id: WebhookId) {
        let mut commits = self.app.commits.listen();
        let mut leased_at: Option<tokio::time::Instant> = None;
        let mut in_flight = JoinSet::new();
        let mut busy_conversations = HashSet::new();
        loop {
            // The step below sees all commits so far, so they need not start another step.
            commits.borrow_and_update();
            let more = match self.step(id, &mut leased_at, &mut in_flight, &mut busy_conversations).await {
                Ok(more) => more,
                Err(error) => {
                    tracing::warn!(%error, webhook = id.0, "deliveries of a webhook could not be prepared");
                    false
                }
            };
            if more {
                continue;
            }
            tokio::select! {
                Some(ended) = in_flight.join_next() => {
                    match ended {
                        Ok(conversation) => { busy_conversations.remove(&conversation); }
                        // The delivery panicked, and this task does not know which conversation to free. A new task starts
                        // without busy conversations.
                        Err(_) => return,
                    }
                }
                changed = commits.changed(), if leased_at.is_some() => if changed.is_err() { return },
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    }

    /// Renews the lease if necessary, queues new events, and starts the deliveries that are due. Returns whether to
    /// call this again immediately, because more events wait in the event log.
    async fn step(
        &self,
        id: WebhookId,
        leased_at: &mut Option<tokio::time::Instant>,
        in_flight: &mut JoinSet<i64>,
        busy_conversations: &mut HashSet<i64>,
    ) -> Result<bool> {
        if leased_at.is_none_or(|at| at.elapsed() >= RENEW_AFTER) {
            *leased_at = None;
            let now = tokio::time::Instant::now();
            let until = self.app.clock.now().plus_micros(LEASE_US);
            if !webhooks::lease(&self.app, id, self.holder.to_string(), until).await? {
                return Ok(false);
            }
            *leased_at = Some(now);
        }
        let more = webhooks::queue_new_events(&self.app, id).await?;
        if busy_conversations.len() >= PARALLEL_REQUESTS {
            return Ok(false);
        }
        let due = webhooks::due(&self.app, id, 2 * PARALLEL_REQUESTS as i64).await?;
        for delivery in due {
            if busy_conversations.len() >= PARALLEL_REQUESTS {
                return Ok(false);
            }
            if busy_conversations.insert(delivery.conversation) {
                in_flight.spawn(log_panic("webhook-delivery", self.clone().deliver(id, delivery)).in_current_span());
            }
        }
        Ok(more)
    }

    /// Makes one attempt and records its outcome. Returns the conversation, which is not busy any more.
    async fn deliver(self, id: WebhookId, delivery: Delivery) -> i64 {
        let conversation = delivery.conversation;
        let attempt = self.attempt(id, &delivery).await;
        panic_point(PanicPoint::WebhookCalled);
        let recorded = match attempt {
            Ok(Some((webhook, outcome))) => webhooks::record_attempt(&self.app, webhook, delivery, outcome).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = recorded {
            tracing::warn!(%error, webhook = id.0, "a delivery could not be made or recorded; it is repeated");
            // The delivery is still pending, and must not be repeated without a pause.
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        conversation
    }

    /// Returns `None` if the webhook was deleted or disabled.
    async fn attempt(&self, id: WebhookId, delivery: &Delivery) -> Result<Option<(Webhook, Outcome)>> {
        let Some(webhook) = webhooks::enabled(&self.app).await?.into_iter().find(|webhook| webhook.id == id) else {
            return Ok(None);
        };
        let (epoch, event) = webhooks::event_at(&self.app, delivery.position).await?;
        let Some(event) = event else { return Ok(Some((webhook, Outcome::EventGone))) };
        let body = (self.app.renderer.event)(&event, &Cursor::write(&epoch, event.position))?;
        let message_id = format!("evt_{epoch}_{}", event.position);
        let outcome = match self.post(&webhook, &message_id, body).await {
            Ok(status) => Outcome::Answered(status),
            Err(reason) => {
                tracing::debug!(reason, webhook = webhook.id.0, "the receiver of a webhook did not answer");
                Outcome::Failed
            }
        };
        Ok(Some((webhook, outcome)))
    }

    /// Sends a signed event. Returns the status of the answer, or a sentence that says why there is none and contains no URL.
    async fn post(&self, webhook: &Webhook, message_id: &str, body: Vec<u8>) -> std::result::Result<u16, String> {
        // The client checks only hosts that are names.
        let url = check_url(&webhook.url, webhooks::reach(self.app.settings.webhook_allow_private))
            .map_err(|reason| format!("The URL {reason}"))?;
        let now = self.app.clock.now();
        let timestamp_s = now.micros().div_euclid(1_000_000);
        let signatures = webhooks::signatures(webhook, message_id, now, timestamp_s, &body);
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", message_id)
            .header("webhook-timestamp", timestamp_s.to_string())
            .header("webhook-signature", signatures)
            .body(body);
        match request.send().await {
            Ok(response) => Ok(response.status().as_u16()),
            Err(error) if error.is_timeout() => {
                Err(format!("The receiver did not answer within {} seconds", TIMEOUT.as_secs()))
            }
            Err(error) => Err(format!("The receiver could not be reached: {}", outbound::explain(error))),
        }
    }
}
