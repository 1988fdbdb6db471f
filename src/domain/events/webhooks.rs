//! Outgoing webhooks: the delivery of events to addresses of the operator.
//!
//! Invariants:
//! - The events of a conversation are delivered in order and at least once. Every attempt has the same id.
//! - An event that cannot be delivered delays only the later events of its conversation. Its delivery becomes `dead`
//!   when the attempt after the last delay of `RETRY_DELAYS` has failed.
//! - A receiver that answers 410 gets nothing more: its webhook is disabled until an administrator enables it again.
//! - Nothing is sent to an address outside the public internet, unless the operator allows it.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::event_data::Event;
use super::events::{self, Cursor};
use crate::app::App;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::{MAX_ID, WebhookId};
use crate::base::time::{MAX_CLOCK_SKEW_MICROS, Timestamp};
use crate::domain::identity::audit::{self, Action, By};
use crate::domain::shared::idempotency::{KeyedAnswer, Once};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::outbound::addresses::{Reach, check_url};
use crate::store;
use crate::store::db::Conn;
use crate::store::events::events::Kind;
pub use crate::store::events::webhooks::{Delivery, DisabledReason, Webhook};

/// Maximum number of webhooks.
pub const LIMIT: i64 = 20;
/// The longest URL, in characters.
pub const MAX_URL_CHARACTERS: usize = 2_000;
/// The number of newest deliveries whose records are kept for each webhook. Pending deliveries are always kept.
pub const LEDGER_LIMIT: i64 = 1_000;
/// Maximum number of pending deliveries of one webhook. While there are this many, no further events are queued from the event log.
pub const PENDING_LIMIT: i64 = 10_000;
/// Maximum number of events that are queued in one transaction.
const CHUNK: i64 = 200;
/// The longest scheme of a URL that an error repeats.
const MAX_SHOWN_SCHEME_CHARACTERS: usize = 32;
/// The status of a receiver that wants nothing more.
const GONE: u16 = 410;
/// The type of the event that a test delivers.
const TEST_EVENT: &str = "webhook.test";
const LIST: &str = "webhooks";
const LEDGER: &str = "webhook-deliveries";

/// For how long the previous secret of a webhook signs beside the new one: 24 hours.
pub const ROTATION_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// The delay after each failed attempt. Together they are three days. The attempt after the last delay is the last one.
const RETRY_DELAYS: [Duration; 10] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
    Duration::from_hours(1),
    Duration::from_hours(3),
    Duration::from_hours(6),
    Duration::from_hours(12),
    Duration::from_hours(24),
    Duration::from_hours(26),
];

/// The fields of a webhook that is created or changed. A field that is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// The address to which events are delivered.
    pub url: Option<String>,
    /// The types of events that are delivered; `Some(None)` for all.
    pub event_types: Option<Option<Vec<String>>>,
    /// Whether events are delivered.
    pub enabled: Option<bool>,
}

/// What the client of webhooks may call.
pub const fn reach(allow_private: bool) -> Reach {
    if allow_private { Reach::Anywhere } else { Reach::PublicHttps }
}

/// Checks the URL of a webhook. The error names the option of the operator that allows the URL, if one does.
fn check_address(url: &str, allow_private: bool) -> std::result::Result<(), String> {
    const OPTION: &str = "the operator can allow it with --webhook-allow-private true";
    let Err(detail) = check_url(url, reach(allow_private)) else { return Ok(()) };
    if let Some((scheme, _)) = url.split_once(':')
        && !matches!(scheme.to_ascii_lowercase().as_str(), "https" | "http")
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && (1..=MAX_SHOWN_SCHEME_CHARACTERS).contains(&scheme.len())
    {
        return Err(format!("{detail}, but it begins with {}:", scheme.to_ascii_lowercase()));
    }
    // Whether the option is what is missing.
    if !allow_private && check_url(url, reach(true)).is_ok() {
        Err(format!("{detail}; {OPTION}"))
    } else {
        Err(detail.into())
    }
}

fn apply(fields: Fields, webhook: &mut Webhook, now: Timestamp, allow_private: bool) -> Result<()> {
    let mut errors = Vec::new();
    if let Some(url) = fields.url {
        if url.chars().count() > MAX_URL_CHARACTERS {
            errors.push(FieldError::new("url", "out_of_range", "must have at most 2000 characters"));
        } else if let Err(detail) = check_address(&url, allow_private) {
            errors.push(FieldError::new("url", "wrong_value", detail));
        }
        webhook.url = url;
    }
    match fields.event_types {
        Some(Some(types)) => {
            if types.is_empty() || types.len() > 64 || types.iter().any(|word| Kind::parse(word).is_none()) {
                let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
                let detail = format!("must be null or a list of 1 to 64 event types, each one of {}", known.join(", "));
                errors.push(FieldError::new("event_types", "wrong_value", detail));
            }
            webhook.event_types = Some(types.join(" "));
        }
        Some(None) => webhook.event_types = None,
        None => {}
    }
    match fields.enabled {
        Some(true) => (webhook.enabled, webhook.disabled_at, webhook.disabled_reason) = (true, None, None),
        Some(false) if webhook.enabled => {
            webhook.enabled = false;
            webhook.disabled_at = Some(now);
            webhook.disabled_reason = Some(DisabledReason::Administrator);
        }
        Some(false) | None => {}
    }
    if errors.is_empty() { Ok(()) } else { Err(Error::Invalid(errors)) }
}

/// The text form of a secret, for the operator.
pub fn secret_text(secret: &[u8]) -> String {
    format!("whsec_{}", STANDARD.encode(secret))
}

/// The signatures of a delivery, in the Standard Webhooks scheme: one by the current secret and, during a rotation, one by the
/// previous secret, separated by a space.
pub fn signatures(webhook: &Webhook, id: &str, now: Timestamp, timestamp_s: i64, body: &[u8]) -> String {
    let current = sign(&webhook.secret, id, timestamp_s, body);
    match &webhook.previous_secret {
        Some(previous) if previous.until > now => {
            format!("{current} {}", sign(&previous.secret, id, timestamp_s, body))
        }
        _ => current,
    }
}

fn sign(secret: &[u8], id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{id}.{timestamp_s}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

/// The JSON of the event that a test delivers. It is not in the event log.
///
/// # Errors
/// The event cannot be written as JSON, which would be a bug.
pub fn test_event(id: WebhookId, at: Timestamp) -> Result<Vec<u8>> {
    let event = serde_json::json!({"cursor": null, "type": TEST_EVENT, "at": at, "data": {"webhook_id": id.0}});
    serde_json::to_vec(&event).map_err(Error::internal)
}

fn not_found() -> Error {
    Error::NotFound { code: "webhook_not_found", detail: "Webhook not found".into() }
}

/// Creates a webhook. It receives the events that are logged after it.
///
/// # Errors
/// 422 with every invalid field; 409 `too_many_webhooks`.
pub async fn create(app: &App, fields: Fields, by: By, once: Once<Webhook>) -> Result<KeyedAnswer> {
    let secret = app.rng.bytes::<32>().map_err(Error::internal)?.to_vec();
    let mut new = Webhook {
        id: WebhookId(0),
        url: String::new(),
        event_types: None,
        secret,
        previous_secret: None,
        enabled: true,
        disabled_at: None,
        disabled_reason: None,
        created_at: by.at,
        position: 0,
    };
    apply(fields, &mut new, by.at, app.settings.webhook_allow_private)?;
    app.db
        .write((new, by, once), |conn, (new, by, once)| {
            Box::pin(async move {
                if let Some(given) = once.given(conn, by.at).await? {
                    return Ok(given);
                }
                if store::events::webhooks::count(conn).await? >= LIMIT {
                    let detail = format!("There are already {LIMIT} webhooks; delete one first");
                    return Err(Error::Conflict { code: "too_many_webhooks", detail: detail.into() });
                }
                let position = store::events::events::last_position(conn).await?;
                let mut created = Webhook { position, ..new.clone() };
                created.id = store::events::webhooks::insert(conn, &created).await?;
                audit::record(conn, by, Action::WebhookCreated, None, Some(format!("webhook {}", created.id.0)))
                    .await?;
                once.give(conn, by.at, &created, by.actor).await
            })
        })
        .await
}

/// Lists webhooks by id.
///
/// # Errors
/// 422 `invalid_cursor`.
pub async fn list(app: &App, limit: Limit, cursor: Option<&str>) -> Result<Page<Vec<Webhook>>> {
    let after = WebhookId(pagination::begin(LIST, cursor, 0)?);
    let found = app
        .db
        .read((after, limit), |conn, (after, limit)| {
            Box::pin(store::events::webhooks::list(conn, *after, limit.to_read()))
        })
        .await?;
    Ok(Page::new(LIST, found, limit, |last| [last.id.0]))
}

/// One webhook.
///
/// # Errors
/// 404 `webhook_not_found`.
pub async fn get(app: &App, id: WebhookId) -> Result<Webhook> {
    app.db.read(id, |conn, id| Box::pin(store::events::webhooks::by_id(conn, *id))).await?.ok_or_else(not_found)
}

/// Replaces the secret of a webhook. For [`ROTATION_MICROS`] the previous secret signs too. If another one was replaced within that
/// time, that one ends.
///
/// # Errors
/// 404 `webhook_not_found`.
pub async fn rotate_secret(app: &App, id: WebhookId, by: By, once: Once<Webhook>) -> Result<KeyedAnswer> {
    let secret = app.rng.bytes::<32>().map_err(Error::internal)?.to_vec();
    app.db
        .write((id, secret, by, once), |conn, (id, secret, by, once)| {
            Box::pin(async move {
                if let Some(given) = once.given(conn, by.at).await? {
                    return Ok(given);
                }
                let until = by.at.plus_micros(ROTATION_MICROS);
                store::events::webhooks::rotate_secret(conn, *id, secret, until).await?;
                let rotated = store::events::webhooks::by_id(conn, *id).await?.ok_or_else(not_found)?;
                let detail = Some(format!("webhook {}", id.0));
                audit::record(conn, by, Action::WebhookSecretRotated, None, detail).await?;
                once.give(conn, by.at, &rotated, by.actor).await
            })
        })
        .await
}

/// Changes a webhook.
///
/// # Errors
/// 404 `webhook_not_found`; 422 with every invalid field.
pub async fn update(app: &App, id: WebhookId, fields: Fields, by: By) -> Result<Webhook> {
    let input = (id, fields, by, app.settings.webhook_allow_private);
    app.db
        .write(input, |conn, (id, fields, by, allow_private)| {
            Box::pin(async move {
                let mut found = store::events::webhooks::by_id(conn, *id).await?.ok_or_else(not_found)?;
                apply(fields.clone(), &mut found, by.at, *allow_private)?;
                store::events::webhooks::update(conn, &found).await?;
                audit::record(conn, by, Action::WebhookChanged, None, Some(format!("webhook {}", id.0))).await?;
                Ok(found)
            })
        })
        .await
}

/// Deletes a webhook and the records of its deliveries.
///
/// # Errors
/// 404 `webhook_not_found`.
pub async fn delete(app: &App, id: WebhookId, by: By) -> Result<()> {
    app.db
        .write((id, by), |conn, (id, by)| {
            Box::pin(async move {
                if !store::events::webhooks::delete(conn, *id).await? {
                    return Err(not_found());
                }
                audit::record(conn, by, Action::WebhookRemoved, None, Some(format!("webhook {}", id.0))).await
            })
        })
        .await
}

/// Lists the deliveries of a webhook, the newest event first.
///
/// # Errors
/// 404 `webhook_not_found`; 422 `invalid_cursor`.
pub async fn ledger(app: &App, id: WebhookId, limit: Limit, cursor: Option<&str>) -> Result<Page<Vec<Delivery>>> {
    let before = pagination::begin(LEDGER, cursor, MAX_ID)?;
    let found = app
        .db
        .read((id, before, limit), |conn, (id, before, limit)| {
            Box::pin(async move {
                store::events::webhooks::by_id(conn, *id).await?.ok_or_else(not_found)?;
                store::events::webhooks::ledger(conn, *id, *before, limit.to_read()).await
            })
        })
        .await?;
    Ok(Page::new(LEDGER, found, limit, |last| [last.position]))
}

/// Delivers all events after a cursor again.
///
/// # Errors
/// 404 `webhook_not_found`; 410 `cursor_expired`; 422 `invalid_cursor`; 503 if events were queued for the webhook at the same
/// time.
pub async fn replay(app: &App, id: WebhookId, after: &str) -> Result<()> {
    let cursor = Cursor::read(after)?;
    app.db
        .write((id, cursor), |conn, (id, cursor)| {
            Box::pin(async move {
                let found = store::events::webhooks::by_id(conn, *id).await?.ok_or_else(not_found)?;
                let log = store::events::events::log(conn).await?;
                let kept = log.trimmed_position..=log.last_position;
                if log.epoch != cursor.epoch || !kept.contains(&cursor.position) {
                    return Err(events::cursor_expired());
                }
                // The position never moves forwards, because that would skip events that are not queued yet.
                let to = cursor.position.min(found.position);
                if store::events::webhooks::set_position(conn, *id, found.position, to).await? {
                    return Ok(());
                }
                Err(Error::unavailable("the position of the webhook was moved at the same time"))
            })
        })
        .await
}

/// The webhooks that are enabled.
///
/// # Errors
/// Errors of the database.
pub async fn enabled(app: &App) -> Result<Vec<Webhook>> {
    let all = app.db.read((), |conn, ()| Box::pin(store::events::webhooks::list(conn, WebhookId(0), LIMIT))).await?;
    Ok(all.into_iter().filter(|webhook| webhook.enabled).collect())
}

/// Takes or renews the lease of a webhook. Returns whether `holder` has the lease until `until`. While the clocks of this node and
/// of the database disagree, takes only a lease that no other node holds.
///
/// # Errors
/// Errors of the database.
pub async fn lease(app: &App, id: WebhookId, holder: String, until: Timestamp) -> Result<bool> {
    let valid = if app.clock.is_trusted() {
        (app.clock.now(), until.plus_micros(MAX_CLOCK_SKEW_MICROS))
    } else {
        (Timestamp::MIN, Timestamp::MAX)
    };
    app.db
        .write((id, holder, valid, until), |conn, (id, holder, valid, until)| {
            Box::pin(store::events::webhooks::lease(conn, *id, holder, *valid, *until))
        })
        .await
}

/// Releases all leases of a holder.
///
/// # Errors
/// Errors of the database.
pub async fn release(app: &App, holder: String) -> Result<()> {
    app.db.write(holder, |conn, holder| Box::pin(store::events::webhooks::release(conn, holder))).await
}

/// Queues deliveries for the events after the webhook's position. Returns whether to call this again, because there are
/// more events or because another transaction has moved the position.
///
/// # Errors
/// Errors of the database.
pub async fn queue_new_events(app: &App, id: WebhookId) -> Result<bool> {
    // Reads first, so that nothing is written while there are no new events.
    let (webhook, last) = app
        .db
        .read(id, |conn, id| {
            Box::pin(async move {
                Ok((
                    store::events::webhooks::by_id(conn, *id).await?,
                    store::events::events::last_position(conn).await?,
                ))
            })
        })
        .await?;
    if webhook.is_none_or(|webhook| webhook.position >= last) {
        return Ok(false);
    }
    app.db.write((id, app.clock.now()), |conn, (id, now)| Box::pin(queue_chunk(conn, *id, *now))).await
}

async fn queue_chunk(conn: &mut Conn, id: WebhookId, now: Timestamp) -> Result<bool> {
    let Some(webhook) = store::events::webhooks::by_id(conn, id).await? else { return Ok(false) };
    let log = store::events::events::log(conn).await?;
    if store::events::webhooks::count_pending(conn, id, PENDING_LIMIT).await? >= PENDING_LIMIT {
        return Ok(false);
    }
    // Events that were deleted from the log before they were queued cannot be delivered.
    let after = webhook.position.max(log.trimmed_position);
    let chunk = store::events::events::between(conn, after, log.last_position, CHUNK).await?;
    // Another transaction has moved the position. The caller tries again.
    if !store::events::webhooks::set_position(conn, id, webhook.position, chunk.up_to).await? {
        return Ok(true);
    }
    let types = webhook.event_types.as_deref();
    let wanted = |kind: &str| types.is_none_or(|types| types.split(' ').any(|word| word == kind));
    for event in chunk.events.iter().filter(|event| wanted(event.kind.as_str())) {
        store::events::webhooks::queue_delivery(conn, id, event, now).await?;
    }
    store::events::webhooks::trim(conn, id, LEDGER_LIMIT).await?;
    Ok(chunk.up_to < log.last_position)
}

/// The deliveries that may be sent now: in each conversation, the first pending one. While the clocks of this node and
/// of the database disagree, these are only deliveries without an earlier attempt.
///
/// # Errors
/// Errors of the database.
pub async fn due(app: &App, id: WebhookId, limit: i64) -> Result<Vec<Delivery>> {
    let times = if app.clock.is_trusted() {
        let now = app.clock.now();
        (now, now.plus_micros(MAX_CLOCK_SKEW_MICROS))
    } else {
        (Timestamp::MIN, Timestamp::MAX)
    };
    app.db
        .read((id, times, limit), |conn, (id, times, limit)| {
            Box::pin(store::events::webhooks::due(conn, *id, *times, *limit))
        })
        .await
}

/// The epoch of the event log, and the event at a position. The event is `None` if it, or the object to which it refers, no longer
/// exists.
///
/// # Errors
/// Errors of the database.
pub async fn event_at(app: &App, position: i64) -> Result<(String, Option<Event>)> {
    app.db
        .read(position, |conn, position| {
            Box::pin(async move {
                let log = store::events::events::log(conn).await?;
                let chunk = store::events::events::between(conn, *position - 1, *position, 1).await?;
                Ok((log.epoch, events::load(conn, &chunk.events).await?))
            })
        })
        .await
        .map(|(epoch, loaded)| (epoch, events::count_damaged(app, loaded).pop()))
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// The receiver answered with this status.
    Answered(u16),
    /// The receiver did not answer, or its address must not be called.
    Failed,
    /// The event no longer exists.
    EventGone,
}

/// Records the outcome of an attempt. After a failure, sets the time of the next attempt. After the last attempt, the
/// delivery becomes `dead`. After the answer 410 the webhook is disabled, unless its URL was changed in the meantime.
///
/// # Errors
/// Errors of the database.
pub async fn record_attempt(app: &App, webhook: Webhook, delivery: Delivery, outcome: Outcome) -> Result<()> {
    let now = app.clock.now();
    let is_gone = matches!(outcome, Outcome::Answered(GONE));
    let delay = usize::try_from(delivery.attempts).ok().and_then(|attempts| RETRY_DELAYS.get(attempts));
    let (state, last_status) = match outcome {
        Outcome::Answered(status @ 200..=299) => ("delivered", Some(status)),
        Outcome::EventGone => ("dead", None),
        Outcome::Answered(status) if delay.is_some() => ("pending", Some(status)),
        Outcome::Answered(status) => ("dead", Some(status)),
        Outcome::Failed if delay.is_some() => ("pending", None),
        Outcome::Failed => ("dead", None),
    };
    let delay_us = delay.map_or(0, |delay| i64::try_from(delay.as_micros()).unwrap_or(i64::MAX));
    let updated = Delivery {
        state: state.to_owned(),
        attempts: delivery.attempts + 1,
        next_at: now.plus_micros(delay_us),
        last_at: Some(now),
        last_status: last_status.map(i64::from),
        ..delivery
    };
    let delivered = state == "delivered";
    let id = webhook.id;
    let disabled = app
        .db
        .write((webhook, updated, is_gone, now), |conn, (webhook, updated, is_gone, now)| {
            Box::pin(async move {
                store::events::webhooks::record_attempt(conn, webhook.id, updated).await?;
                if !*is_gone
                    || !store::events::webhooks::disable(conn, webhook.id, &webhook.url, DisabledReason::Gone, *now)
                        .await?
                {
                    return Ok(false);
                }
                let by = By::operator(*now);
                let detail = Some(format!("webhook {}: the receiver answered 410", webhook.id.0));
                audit::record(conn, &by, Action::WebhookDisabled, None, detail).await?;
                Ok(true)
            })
        })
        .await?;
    app.metrics.webhook_attempts(if delivered { "delivered" } else { "failed" }).inc();
    if disabled {
        tracing::warn!(
            webhook = id.0,
            "a webhook is disabled, because its receiver answered 410; enable it again with PATCH /api/webhooks/{}",
            id.0
        );
    }
    Ok(())
}

/// Counts the deliveries of all webhooks for `/metrics`.
///
/// # Errors
/// Errors of the database.
pub async fn measure(app: &App) -> Result<()> {
    let now = app.clock.now();
    let (pending, dead, gone, oldest) = app
        .db
        .read((), |conn, ()| {
            Box::pin(async move {
                let (mut pending, mut dead, mut gone, mut oldest) = (0, 0, 0, None);
                let last_position = store::events::events::last_position(conn).await?;
                for webhook in store::events::webhooks::list(conn, WebhookId(0), LIMIT).await? {
                    dead += store::events::webhooks::count_dead(conn, webhook.id).await?;
                    gone += i64::from(webhook.disabled_reason == Some(DisabledReason::Gone));
                    if !webhook.enabled {
                        continue;
                    }
                    pending += store::events::webhooks::count_pending(conn, webhook.id, PENDING_LIMIT).await?;
                    let first = store::events::webhooks::oldest_waiting(conn, webhook.id, webhook.position).await?;
                    let chunk = store::events::events::between(conn, first - 1, last_position, 1).await?;
                    let at = chunk.events.first().map(|event| event.at);
                    oldest = [oldest, at].into_iter().flatten().min();
                }
                Ok((pending, dead, gone, oldest))
            })
        })
        .await?;
    app.metrics.webhook_deliveries_pending.set(pending);
    app.metrics.webhook_deliveries_dead.set(dead);
    app.metrics.webhooks_gone.set(gone);
    let age_us = oldest.map_or(0, |at: Timestamp| (now.micros() - at.micros()).max(0));
    app.metrics.webhook_oldest_pending_age_seconds.set(age_us as f64 / 1_000_000.0);
    Ok(())
}
