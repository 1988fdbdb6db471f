//! Rows of `messaging.webhooks` and `messaging.webhook_deliveries`.
//!
//! Invariant: the events after a webhook's position are not queued yet. Each event up to the position was queued as a
//! delivery. Exceptions are events that are older than the webhook, events of a type that the webhook does not ask for, and
//! events that were deleted from the event log before they were queued. A replay moves the position back, so that events
//! are queued again.

use super::events::LoggedEvent;
use crate::base::error::Result;
use crate::base::ids::WebhookId;
use crate::base::time::Timestamp;
use crate::store::db::columns::{columns, read, sql, word_column};
use crate::store::db::{Conn, words};
use crate::store::driver::values::Value;

/// Why a webhook is disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisabledReason {
    /// An administrator disabled it.
    Administrator,
    /// The receiver answered 410 Gone.
    Gone,
}

impl DisabledReason {
    /// The word in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Gone => "gone",
        }
    }

    /// The reason with this word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`](crate::base::error::Error::UnknownValue).
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("webhooks.disabled_reason", &[Self::Administrator, Self::Gone], Self::as_str, word)
    }
}

word_column!(DisabledReason);

/// A secret that was replaced and still signs beside the current one.
#[derive(Clone, Debug)]
pub struct PreviousSecret {
    /// The key.
    pub secret: Vec<u8>,
    /// When it stops signing.
    pub until: Timestamp,
}

/// An outgoing webhook.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Assigned by the database.
    pub id: WebhookId,
    /// The address to which events are delivered.
    pub url: String,
    /// The types of events that are delivered, separated by spaces; `None` for all.
    pub event_types: Option<String>,
    /// The key with which deliveries are signed.
    pub secret: Vec<u8>,
    /// The key that was replaced last, until some time after the replacement.
    pub previous_secret: Option<PreviousSecret>,
    /// Whether events are delivered.
    pub enabled: bool,
    /// When it was disabled. `None` while it is enabled, and if an older version disabled it.
    pub disabled_at: Option<Timestamp>,
    /// Why it was disabled. `None` while it is enabled.
    pub disabled_reason: Option<DisabledReason>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The position in the event log up to which events were queued as deliveries.
    pub position: i64,
}

/// The delivery of one event to one webhook.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The position of the event.
    pub position: i64,
    /// The type of the event.
    pub kind: String,
    /// The conversation of the event; 0 for an event about users.
    pub conversation: i64,
    /// `pending`, `delivered` or `dead`.
    pub state: String,
    /// The number of attempts.
    pub attempts: i64,
    /// The time of the next attempt, while the delivery is pending.
    pub next_at: Timestamp,
    /// The time of the last attempt.
    pub last_at: Option<Timestamp>,
    /// The HTTP status of the last answer; `None` if the last attempt got no answer.
    pub last_status: Option<i64>,
}

columns! {
    Webhook {
        id: "id",
        url: "url",
        event_types: "event_types",
        secret: "secret",
        previous_secret: "previous_secret",
        previous_secret_until: "previous_secret_until",
        enabled: "enabled",
        disabled_at: "disabled_at",
        disabled_reason: "disabled_reason",
        created_at: "created_at",
        position: "position",
    } => {
        let previous_secret = Option::zip(previous_secret, previous_secret_until);
        let previous_secret = previous_secret.map(|(secret, until)| PreviousSecret { secret, until });
        Webhook {
            id,
            url,
            event_types,
            secret,
            previous_secret,
            enabled,
            disabled_at,
            disabled_reason,
            created_at,
            position,
        }
    }
}

columns! {
    Delivery {
        position: "d.position",
        kind: "d.type",
        conversation: "d.conversation_id",
        state: "d.state",
        attempts: "d.attempts",
        next_at: "d.next_at",
        last_at: "d.last_at",
        last_status: "d.last_status",
    }
}

/// Inserts a webhook and returns its id. The `id` of `new` is ignored.
pub async fn insert(conn: &mut Conn, new: &Webhook) -> Result<WebhookId> {
    conn.one(
        "INSERT INTO messaging.webhooks (url, event_types, secret, enabled, created_at, position, disabled_at,
                                         disabled_reason)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
        &[
            Value::Text(&new.url),
            Value::OptionText(new.event_types.as_deref()),
            Value::Bytes(&new.secret),
            Value::Bool(new.enabled),
            Value::Time(new.created_at),
            Value::I64(new.position),
            Value::OptionTime(new.disabled_at),
            Value::OptionText(new.disabled_reason.map(DisabledReason::as_str)),
        ],
        |row| row.i64(0).map(WebhookId),
    )
    .await
}

/// The number of webhooks.
pub async fn count(conn: &mut Conn) -> Result<i64> {
    conn.one("SELECT count(*) FROM messaging.webhooks", &[], |row| row.i64(0)).await
}

/// The webhooks with an id greater than `after`, by id.
pub async fn list(conn: &mut Conn, after: WebhookId, limit: i64) -> Result<Vec<Webhook>> {
    conn.rows(
        sql!("SELECT ", Webhook::COLUMNS, " FROM messaging.webhooks WHERE id > $1 ORDER BY id LIMIT $2"),
        &[Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// The webhook with this id.
pub async fn by_id(conn: &mut Conn, id: WebhookId) -> Result<Option<Webhook>> {
    conn.first(sql!("SELECT ", Webhook::COLUMNS, " FROM messaging.webhooks WHERE id = $1"), &[Value::I64(id.0)], read)
        .await
}

/// Updates the URL, the event types, and whether the webhook is enabled.
pub async fn update(conn: &mut Conn, changed: &Webhook) -> Result<()> {
    conn.execute(
        "UPDATE messaging.webhooks SET url = $2, event_types = $3, enabled = $4, disabled_at = $5, disabled_reason = $6
          WHERE id = $1",
        &[
            Value::I64(changed.id.0),
            Value::Text(&changed.url),
            Value::OptionText(changed.event_types.as_deref()),
            Value::Bool(changed.enabled),
            Value::OptionTime(changed.disabled_at),
            Value::OptionText(changed.disabled_reason.map(DisabledReason::as_str)),
        ],
    )
    .await?;
    Ok(())
}

/// Disables a webhook, if it is enabled and still has this URL. Returns whether it was disabled.
pub async fn disable(conn: &mut Conn, id: WebhookId, url: &str, reason: DisabledReason, at: Timestamp) -> Result<bool> {
    let disabled = conn
        .execute(
            "UPDATE messaging.webhooks SET enabled = FALSE, disabled_at = $3, disabled_reason = $4
              WHERE id = $1 AND enabled AND url = $2",
            &[Value::I64(id.0), Value::Text(url), Value::Time(at), Value::Text(reason.as_str())],
        )
        .await?;
    Ok(disabled > 0)
}

/// Replaces the secret. The previous one signs too, until `until`.
pub async fn rotate_secret(conn: &mut Conn, id: WebhookId, secret: &[u8], until: Timestamp) -> Result<()> {
    conn.execute(
        "UPDATE messaging.webhooks SET previous_secret = secret, previous_secret_until = $3, secret = $2 WHERE id = $1",
        &[Value::I64(id.0), Value::Bytes(secret), Value::Time(until)],
    )
    .await?;
    Ok(())
}

/// Deletes previous secrets that sign no more. Returns how many.
pub async fn delete_previous_secrets(conn: &mut Conn, now: Timestamp) -> Result<u64> {
    conn.execute(
        "UPDATE messaging.webhooks SET previous_secret = NULL, previous_secret_until = NULL
          WHERE previous_secret_until <= $1",
        &[Value::Time(now)],
    )
    .await
}

/// Deletes a webhook and the records of its deliveries. Returns whether it existed.
pub async fn delete(conn: &mut Conn, id: WebhookId) -> Result<bool> {
    let removed = conn.execute("DELETE FROM messaging.webhooks WHERE id = $1", &[Value::I64(id.0)]).await?;
    conn.execute("DELETE FROM messaging.webhook_deliveries WHERE webhook_id = $1", &[Value::I64(id.0)]).await?;
    Ok(removed > 0)
}

/// Takes or renews the lease of an enabled webhook for `holder`, until `until`. Returns whether `holder` has the lease.
///
/// `valid` is the range of times at which an unexpired lease can end. A lease of another holder counts as expired if it
/// ends before that range, or after it. If the lease ends after that range, the clock was set back since the lease was
/// taken.
pub async fn lease(
    conn: &mut Conn,
    id: WebhookId,
    holder: &str,
    valid: (Timestamp, Timestamp),
    until: Timestamp,
) -> Result<bool> {
    let held = conn
        .execute(
            "UPDATE messaging.webhooks SET lease_holder = $2, lease_until = $4
              WHERE id = $1 AND enabled AND (lease_until IS NULL OR lease_until < $3 OR lease_until > $5 OR lease_holder = $2)",
            &[
                Value::I64(id.0),
                Value::Text(holder),
                Value::Time(valid.0),
                Value::Time(until),
                Value::Time(valid.1),
            ],
        )
        .await?;
    Ok(held > 0)
}

/// Releases all leases of a holder.
pub async fn release(conn: &mut Conn, holder: &str) -> Result<()> {
    conn.execute(
        "UPDATE messaging.webhooks SET lease_holder = NULL, lease_until = NULL WHERE lease_holder = $1",
        &[Value::Text(holder)],
    )
    .await?;
    Ok(())
}

/// Sets the position to `to` if it is still `from`. Returns whether it was set.
pub async fn set_position(conn: &mut Conn, id: WebhookId, from: i64, to: i64) -> Result<bool> {
    let moved = conn
        .execute(
            "UPDATE messaging.webhooks SET position = $3 WHERE id = $1 AND position = $2",
            &[Value::I64(id.0), Value::I64(from), Value::I64(to)],
        )
        .await?;
    Ok(moved > 0)
}

/// Queues the delivery of an event. If the event was queued before, it is delivered again.
pub async fn queue_delivery(conn: &mut Conn, id: WebhookId, event: &LoggedEvent, now: Timestamp) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.webhook_deliveries (webhook_id, position, type, conversation_id, state, attempts, next_at)
         VALUES ($1, $2, $3, $4, 'pending', 0, $5)
         ON CONFLICT (webhook_id, position) DO UPDATE
            SET state = 'pending', attempts = 0, next_at = excluded.next_at",
        &[
            Value::I64(id.0),
            Value::I64(event.position),
            Value::Text(event.kind.as_str()),
            Value::I64(event.conversation_id.map_or(0, |id| id.0)),
            Value::Time(now),
        ],
    )
    .await?;
    Ok(())
}

/// The number of pending deliveries, counted up to `limit`.
pub async fn count_pending(conn: &mut Conn, id: WebhookId, limit: i64) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM (SELECT 1 FROM messaging.webhook_deliveries
                                WHERE webhook_id = $1 AND state = 'pending' LIMIT $2) AS waiting",
        &[Value::I64(id.0), Value::I64(limit)],
        |row| row.i64(0),
    )
    .await
}

/// The number of deliveries that were given up and are still in the list.
pub async fn count_dead(conn: &mut Conn, id: WebhookId) -> Result<i64> {
    let sql = "SELECT count(*) FROM messaging.webhook_deliveries WHERE webhook_id = $1 AND state = 'dead'";
    conn.one(sql, &[Value::I64(id.0)], |row| row.i64(0)).await
}

/// The position of the oldest event that waits for its delivery. `queued_to` is the position of the webhook.
pub async fn oldest_waiting(conn: &mut Conn, id: WebhookId, queued_to: i64) -> Result<i64> {
    let sql = "SELECT min(position) FROM messaging.webhook_deliveries WHERE webhook_id = $1 AND state = 'pending'";
    let pending = conn.one(sql, &[Value::I64(id.0)], |row| row.option_i64(0)).await?;
    Ok(pending.unwrap_or(queued_to + 1).min(queued_to + 1))
}

/// The first pending delivery of each conversation, if it is due: it has had no attempt yet, or the time of its next
/// attempt has come. It is also due if its last attempt was after `latest`. In that case the clock was set back since the
/// attempt.
pub async fn due(
    conn: &mut Conn,
    id: WebhookId,
    (now, latest): (Timestamp, Timestamp),
    limit: i64,
) -> Result<Vec<Delivery>> {
    conn.rows(
        sql!(
            "SELECT ",
            Delivery::COLUMNS,
            " FROM messaging.webhook_deliveries d
              WHERE d.webhook_id = $1 AND d.state = 'pending'
                AND (d.attempts = 0 OR d.next_at <= $2 OR d.last_at > $4)
                AND NOT EXISTS (SELECT 1 FROM messaging.webhook_deliveries e
                                 WHERE e.webhook_id = $1 AND e.state = 'pending'
                                   AND e.conversation_id = d.conversation_id AND e.position < d.position)
              ORDER BY d.position LIMIT $3"
        ),
        &[Value::I64(id.0), Value::Time(now), Value::I64(limit), Value::Time(latest)],
        read,
    )
    .await
}

/// Records the outcome of an attempt, unless the event was queued again in the meantime.
pub async fn record_attempt(conn: &mut Conn, id: WebhookId, outcome: &Delivery) -> Result<()> {
    conn.execute(
        "UPDATE messaging.webhook_deliveries
            SET state = $3, attempts = $4, next_at = $5, last_at = $6, last_status = $7
          WHERE webhook_id = $1 AND position = $2 AND attempts = $8",
        &[
            Value::I64(id.0),
            Value::I64(outcome.position),
            Value::Text(&outcome.state),
            Value::I64(outcome.attempts),
            Value::Time(outcome.next_at),
            Value::OptionTime(outcome.last_at),
            Value::OptionI64(outcome.last_status),
            Value::I64(outcome.attempts - 1),
        ],
    )
    .await?;
    Ok(())
}

/// The deliveries of events before the position `before`, the newest event first.
pub async fn ledger(conn: &mut Conn, id: WebhookId, before: i64, limit: i64) -> Result<Vec<Delivery>> {
    conn.rows(
        sql!(
            "SELECT ",
            Delivery::COLUMNS,
            " FROM messaging.webhook_deliveries d
              WHERE d.webhook_id = $1 AND d.position < $2 ORDER BY d.position DESC LIMIT $3"
        ),
        &[Value::I64(id.0), Value::I64(before), Value::I64(limit)],
        read,
    )
    .await
}

/// Keeps the newest `kept` deliveries, pending or not. Deletes older ones that are not pending.
pub async fn trim(conn: &mut Conn, id: WebhookId, kept: i64) -> Result<()> {
    let oldest = "SELECT position FROM messaging.webhook_deliveries WHERE webhook_id = $1
                   ORDER BY position DESC LIMIT 1 OFFSET $2";
    let Some(last) = conn.first(oldest, &[Value::I64(id.0), Value::I64(kept)], |row| row.i64(0)).await? else {
        return Ok(());
    };
    conn.execute(
        "DELETE FROM messaging.webhook_deliveries WHERE webhook_id = $1 AND position <= $2 AND state <> 'pending'",
        &[Value::I64(id.0), Value::I64(last)],
    )
    .await?;
    Ok(())
}
