//! Delivers events to webhooks: a task for each, so that a receiver which hangs or fails hurts nobody else.
//!
//! Invariants: one server at a time delivers for a webhook, the one with its lease; at most [`PARALLEL`] requests of a webhook
//! are under way, and one of each conversation; the address that is connected to is the one that was looked at.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::task::{AbortHandle, JoinSet};
use tracing::Instrument as _;

use super::{Live, POLL_INTERVAL};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{WebhookId, hex};
use crate::base::tasks::{PanicPoint, log_panic, panic_point};
use crate::domain::events::events::Cursor;
use crate::domain::events::webhooks::{self, Delivery, Outcome, Webhook};

/// How long a receiver may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Requests under way for one webhook.
const PARALLEL: usize = 8;
/// How long a lease lasts.
const LEASE_US: i64 = 60_000_000;
/// When it is renewed: more than [`TIMEOUT`] before its end, so that nobody else begins while a request is under way.
const RENEWED_AFTER: Duration = Duration::from_secs(20);

/// Finds addresses, and keeps those back that must not be called.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|found| webhooks::is_public(found.ip())).collect();
            if public.is_empty() {
                return Err("has no public address".into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

fn client(allow_private: bool) -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("posthaste/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .pool_max_idle_per_host(PARALLEL)
        .connect_timeout(TIMEOUT)
        .timeout(TIMEOUT);
    let builder = if allow_private { builder } else { builder.https_only(true).dns_resolver(Arc::new(PublicOnly)) };
    builder.build().map_err(Error::internal)
}

/// What delivers. Kept for as long as the server runs, so that a task which is started again has the leases of the one that
/// failed.
#[derive(Clone)]
pub(super) struct Worker {
    app: Arc<App>,
    client: reqwest::Client,
    /// This server, as the holder of leases.
    holder: Arc<str>,
}

impl Live {
    /// Delivers to webhooks until the server stops.
    pub async fn deliver(self: Arc<Self>) {
        if let Err(error) = self.try_deliver().await {
            tracing::error!(%error, "webhooks are not delivered");
        }
    }

    async fn try_deliver(&self) -> Result<()> {
        let stopped = self.stopped();
        tokio::pin!(stopped);
        let mut tasks: HashMap<WebhookId, AbortHandle> = HashMap::new();
        let mut running = JoinSet::new();
        let mut is_known_to_fail = false;
        loop {
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
                            // A machine without certificates serves everything else, and says this once.
                            Err(error) => {
                                if !is_known_to_fail {
                                    tracing::error!(%error, "webhooks are not delivered");
                                }
                                is_known_to_fail = true;
                                break;
                            }
                        };
                        let work = log_panic("webhook", worker.run(webhook.id));
                        tasks.insert(webhook.id, running.spawn(work.in_current_span()));
                    }
                }
                Err(error) => tracing::warn!(%error, "the webhooks could not be read"),
            }
            while running.try_join_next().is_some() {}
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = &mut stopped => break,
            }
        }
        running.shutdown().await;
        let worker = self.known_worker().clone();
        match worker {
            Some(worker) => webhooks::release(&self.app, worker.holder.to_string()).await,
            None => Ok(()),
        }
    }

    /// Made once there is a webhook: it reads the machine's certificates.
    fn webhook_worker(&self) -> Result<Worker> {
        let mut known = self.known_worker();
        match &*known {
            Some(worker) => Ok(worker.clone()),
            None => Ok(known.insert(Worker::new(self)?).clone()),
        }
    }

    fn known_worker(&self) -> MutexGuard<'_, Option<Worker>> {
        self.webhook_worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    fn new(live: &Live) -> Result<Self> {
        let holder = hex(&live.app.rng.bytes::<8>().map_err(Error::internal)?).into();
        let client = client(live.app.settings.webhook_allow_private)?;
        Ok(Self { app: Arc::clone(&live.app), client, holder })
    }

    async fn run(self, id: WebhookId) {
        let mut commits = self.app.commits.listen();
        let mut leased: Option<tokio::time::Instant> = None;
        let mut under_way = JoinSet::new();
        let mut busy = HashSet::new();
        loop {
            // What was committed before this look needs no other one.
            commits.borrow_and_update();
            let more = match self.step(id, &mut leased, &mut under_way, &mut busy).await {
                Ok(more) => more,
                Err(error) => {
                    tracing::warn!(%error, webhook = id.0, "a webhook could not be served");
                    false
                }
            };
            if more {
                continue;
            }
            tokio::select! {
                Some(ended) = under_way.join_next() => {
                    match ended {
                        Ok(conversation) => { busy.remove(&conversation); }
                        // It panicked, and its conversation stays busy here: the next task begins anew.
                        Err(_) => return,
                    }
                }
                changed = commits.changed(), if leased.is_some() => if changed.is_err() { return },
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    }

    /// Takes up what is new and begins what is due; whether there is more to take up.
    async fn step(
        &self,
        id: WebhookId,
        leased: &mut Option<tokio::time::Instant>,
        under_way: &mut JoinSet<i64>,
        busy: &mut HashSet<i64>,
    ) -> Result<bool> {
        if leased.is_none_or(|since| since.elapsed() >= RENEWED_AFTER) {
            *leased = None;
            let since = tokio::time::Instant::now();
            let until = self.app.clock.now().plus_micros(LEASE_US);
            if !webhooks::lease(&self.app, id, self.holder.to_string(), until).await? {
                return Ok(false);
            }
            *leased = Some(since);
        }
        let more = webhooks::take_up(&self.app, id).await?;
        if busy.len() >= PARALLEL {
            return Ok(false);
        }
        let due = webhooks::due(&self.app, id, 2 * PARALLEL as i64).await?;
        for delivery in due {
            if busy.len() >= PARALLEL {
                return Ok(false);
            }
            if busy.insert(delivery.conversation) {
                under_way.spawn(log_panic("webhook-delivery", self.clone().deliver(id, delivery)).in_current_span());
            }
        }
        Ok(more)
    }

    /// One attempt; its conversation is free afterwards.
    async fn deliver(self, id: WebhookId, delivery: Delivery) -> i64 {
        let conversation = delivery.conversation;
        let attempt = self.attempt(id, &delivery).await;
        panic_point(PanicPoint::WebhookCalled);
        let attempted = match attempt {
            Ok(Some(outcome)) => webhooks::note(&self.app, id, delivery, outcome).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = attempted {
            tracing::warn!(%error, webhook = id.0, "a delivery could not be noted");
            // It is still pending: not again at once.
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        conversation
    }

    /// `None` when the webhook is gone.
    async fn attempt(&self, id: WebhookId, delivery: &Delivery) -> Result<Option<Outcome>> {
        let Some(webhook) = webhooks::enabled(&self.app).await?.into_iter().find(|webhook| webhook.id == id) else {
            return Ok(None);
        };
        let (epoch, event) = webhooks::event_at(&self.app, delivery.position).await?;
        let Some(event) = event else { return Ok(Some(Outcome::Gone)) };
        let body = (self.app.renderer.event)(&event, &Cursor::write(&epoch, event.position))?;
        let message_id = format!("evt_{epoch}_{}", event.position);
        Ok(Some(self.send(&webhook, &message_id, body).await))
    }

    async fn send(&self, webhook: &Webhook, message_id: &str, body: Vec<u8>) -> Outcome {
        // Hosts that are addresses never meet the resolver.
        let Ok(url) = webhooks::check_url(&webhook.url, self.app.settings.webhook_allow_private) else {
            return Outcome::Failed;
        };
        let timestamp_s = self.app.clock.now().micros().div_euclid(1_000_000);
        let signature = webhooks::sign(&webhook.secret, message_id, timestamp_s, &body);
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("webhook-id", message_id)
            .header("webhook-timestamp", timestamp_s.to_string())
            .header("webhook-signature", signature)
            .body(body);
        match request.send().await {
            Ok(response) => Outcome::Answered(response.status().as_u16()),
            Err(error) => {
                tracing::debug!(error = %error.without_url(), webhook = webhook.id.0, "a receiver did not answer");
                Outcome::Failed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name that is not refused for itself, but for what it stands for.
    #[tokio::test]
    async fn a_name_that_stands_for_a_private_address_is_not_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("https://localhost:{port}/");
        let error = client(false).unwrap().post(&url).send().await.unwrap_err();
        assert!(format!("{error:?}").contains("has no public address"), "{error:?}");
        let seen = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
        assert!(seen.is_err(), "{seen:?}");
        // The name is one that could be connected to.
        drop(client(true).unwrap().post(url).timeout(TIMEOUT / 100).send().await);
        tokio::time::timeout(Duration::from_secs(5), listener.accept()).await.unwrap().unwrap();
    }
}
