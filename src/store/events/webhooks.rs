//! Rows of `messaging.webhooks` and `messaging.webhook_deliveries`.
//!
//! Invariant: what is behind a webhook's position has not been taken up; what is not behind it has a delivery, was not asked
//! for, or is forgotten.

use super::events::Logged;
use crate::base::error::Result;
use crate::base::ids::WebhookId;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// Where events are delivered.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Given by the database.
    pub id: WebhookId,
    /// Where.
    pub url: String,
    /// Which types, with spaces between; all when there are none.
    pub event_types: Option<String>,
    /// The key of its signatures.
    pub secret: Vec<u8>,
    /// Whether anything is delivered.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Up to where events were taken up.
    pub position: i64,
}

/// A delivery as it stands in the ledger.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Of which event.
    pub position: i64,
    /// The type of the event.
    pub kind: String,
    /// Where it happened; 0 for what is between people.
    pub conversation: i64,
    /// `pending`, `delivered` or `dead`.
    pub state: String,
    /// How often it was tried.
    pub attempts: i64,
    /// When it is tried next, while it is pending.
    pub next_at: Timestamp,
    /// When it was tried last.
    pub last_at: Option<Timestamp>,
    /// What the receiver answered last, if it did.
    pub last_status: Option<i64>,
}

columns! {
    Webhook {
        id: "id",
        url: "url",
        event_types: "event_types",
        secret: "secret",
        enabled: "enabled",
        created_at: "created_at",
        position: "position",
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

/// A new webhook; its id is not used.
pub async fn insert(conn: &mut Conn, new: &Webhook) -> Result<WebhookId> {
    conn.one(
        "INSERT INTO messaging.webhooks (url, event_types, secret, enabled, created_at, position)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
        &[
            Value::Text(&new.url),
            Value::OptionText(new.event_types.as_deref()),
            Value::Bytes(&new.secret),
            Value::Bool(new.enabled),
            Value::Time(new.created_at),
            Value::I64(new.position),
        ],
        |row| row.i64(0).map(WebhookId),
    )
    .await
}

/// How many there are.
pub async fn count(conn: &mut Conn) -> Result<i64> {
    conn.one("SELECT count(*) FROM messaging.webhooks", &[], |row| row.i64(0)).await
}

/// All of them behind `after`, by id.
pub async fn list(conn: &mut Conn, after: WebhookId, limit: i64) -> Result<Vec<Webhook>> {
    conn.rows(
        sql!("SELECT ", Webhook::COLUMNS, " FROM messaging.webhooks WHERE id > $1 ORDER BY id LIMIT $2"),
        &[Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// One of them.
pub async fn by_id(conn: &mut Conn, id: WebhookId) -> Result<Option<Webhook>> {
    conn.first(sql!("SELECT ", Webhook::COLUMNS, " FROM messaging.webhooks WHERE id = $1"), &[Value::I64(id.0)], read)
        .await
}

/// Changes what its maker may change.
pub async fn update(conn: &mut Conn, changed: &Webhook) -> Result<()> {
    conn.execute(
        "UPDATE messaging.webhooks SET url = $2, event_types = $3, enabled = $4 WHERE id = $1",
        &[
            Value::I64(changed.id.0),
            Value::Text(&changed.url),
            Value::OptionText(changed.event_types.as_deref()),
            Value::Bool(changed.enabled),
        ],
    )
    .await?;
    Ok(())
}

/// Removes one with its ledger; whether there was one.
pub async fn delete(conn: &mut Conn, id: WebhookId) -> Result<bool> {
    let removed = conn.execute("DELETE FROM messaging.webhooks WHERE id = $1", &[Value::I64(id.0)]).await?;
    conn.execute("DELETE FROM messaging.webhook_deliveries WHERE webhook_id = $1", &[Value::I64(id.0)]).await?;
    Ok(removed > 0)
}

/// Takes or keeps the lease; whether it is the holder's until then. Another holder's lease is over when it ends outside
/// `valid`: before now, or later than a lease can end.
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

/// Gives every lease of a holder back.
pub async fn release(conn: &mut Conn, holder: &str) -> Result<()> {
    conn.execute(
        "UPDATE messaging.webhooks SET lease_holder = NULL, lease_until = NULL WHERE lease_holder = $1",
        &[Value::Text(holder)],
    )
    .await?;
    Ok(())
}

/// Sets the position back or on, if it is still where it was read; whether it was.
pub async fn move_on(conn: &mut Conn, id: WebhookId, from: i64, to: i64) -> Result<bool> {
    let moved = conn
        .execute(
            "UPDATE messaging.webhooks SET position = $3 WHERE id = $1 AND position = $2",
            &[Value::I64(id.0), Value::I64(from), Value::I64(to)],
        )
        .await?;
    Ok(moved > 0)
}

/// Takes an event up; one that was taken up before is sent again.
pub async fn take_up(conn: &mut Conn, id: WebhookId, event: &Logged, now: Timestamp) -> Result<()> {
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

/// How many wait, as far as `limit`.
pub async fn count_pending(conn: &mut Conn, id: WebhookId, limit: i64) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM (SELECT 1 FROM messaging.webhook_deliveries
                                WHERE webhook_id = $1 AND state = 'pending' LIMIT $2) AS waiting",
        &[Value::I64(id.0), Value::I64(limit)],
        |row| row.i64(0),
    )
    .await
}

/// The first that waits in each conversation, where it was not tried yet or its time has come. A last attempt after
/// `latest` was made before the clock was set back: its time has come too.
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

/// Notes how an attempt ended, unless the event was taken up anew in the meantime.
pub async fn note(conn: &mut Conn, id: WebhookId, outcome: &Delivery) -> Result<()> {
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

/// The ledger, from the newest event on, before `before`.
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

/// Forgets what has ended, but for the newest `kept`.
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
