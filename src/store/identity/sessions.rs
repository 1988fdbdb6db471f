//! Rows of `messaging.sessions`.
//!
//! Invariant: a row holds the hash of its token, never the token. A session that has ended has no row.

use crate::base::error::Result;
use crate::base::ids::{SessionId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// The hash of a secret that a caller sends: a token, a key or a code.
pub type SecretHash = [u8; 32];

/// A log-in of a user on one device.
#[derive(Clone, Debug)]
pub struct Session {
    /// Assigned by the database.
    pub id: SessionId,
    /// The user who logged in.
    pub user_id: UserId,
    /// When the user logged in.
    pub created_at: Timestamp,
    /// When the session was last used, accurate to a few minutes.
    pub last_seen_at: Timestamp,
    /// When the session ends if it is not used again.
    pub expires_at: Timestamp,
    /// When the session ends in any case, even if it is in use.
    pub ends_at: Timestamp,
    /// The User-Agent of the client.
    pub agent: String,
    /// The address from which the session was last used.
    pub address: String,
}

columns! {
    Session {
        id: "id",
        user_id: "user_id",
        created_at: "created_at",
        last_seen_at: "last_seen_at",
        expires_at: "expires_at",
        ends_at: "ends_at",
        agent: "agent",
        address: "address",
    }
}

/// Inserts a new session. The `id` of `session` is ignored.
pub async fn insert(conn: &mut Conn, token_hash: &SecretHash, session: &Session) -> Result<SessionId> {
    conn.one(
        "INSERT INTO messaging.sessions (token_hash, user_id, created_at, last_seen_at, expires_at, ends_at, agent, address)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
        &[
            Value::Bytes(token_hash),
            Value::I64(session.user_id.0),
            Value::Time(session.created_at),
            Value::Time(session.last_seen_at),
            Value::Time(session.expires_at),
            Value::Time(session.ends_at),
            Value::Text(&session.agent),
            Value::Text(&session.address),
        ],
        |row| row.i64(0).map(SessionId),
    )
    .await
}

/// The session of a token.
pub async fn by_token(conn: &mut Conn, token_hash: &SecretHash) -> Result<Option<Session>> {
    conn.first(
        sql!("SELECT ", Session::COLUMNS, " FROM messaging.sessions WHERE token_hash = $1"),
        &[Value::Bytes(token_hash)],
        read,
    )
    .await
}

/// The sessions of a user that have not expired, in the order of their ids, after `after`.
pub async fn list(conn: &mut Conn, user: UserId, now: Timestamp, after: SessionId, limit: i64) -> Result<Vec<Session>> {
    conn.rows(
        sql!(
            "SELECT ",
            Session::COLUMNS,
            " FROM messaging.sessions WHERE user_id = $1 AND id > $2 AND expires_at > $3 ORDER BY id LIMIT $4"
        ),
        &[Value::I64(user.0), Value::I64(after.0), Value::Time(now), Value::I64(limit)],
        read,
    )
    .await
}

/// Records that a session was used, and extends it until `expires_at`.
pub async fn touch(
    conn: &mut Conn,
    id: SessionId,
    seen_at: Timestamp,
    expires_at: Timestamp,
    address: &str,
) -> Result<()> {
    conn.execute(
        "UPDATE messaging.sessions SET last_seen_at = $2, expires_at = $3, address = $4
          WHERE id = $1 AND last_seen_at < $2",
        &[Value::I64(id.0), Value::Time(seen_at), Value::Time(expires_at), Value::Text(address)],
    )
    .await?;
    Ok(())
}

/// Ends one session of a user, and returns whether it existed.
pub async fn delete(conn: &mut Conn, user: UserId, id: SessionId) -> Result<bool> {
    let count = conn
        .execute(
            "DELETE FROM messaging.sessions WHERE user_id = $1 AND id = $2",
            &[Value::I64(user.0), Value::I64(id.0)],
        )
        .await?;
    Ok(count > 0)
}

/// Ends all sessions of a user except `kept`. Returns how many.
pub async fn delete_of(conn: &mut Conn, user: UserId, kept: Option<SessionId>) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.sessions WHERE user_id = $1 AND id <> $2",
        &[Value::I64(user.0), Value::I64(kept.map_or(0, |id| id.0))],
    )
    .await
}

/// Ends the oldest sessions of a user, so that `limit` remain. Returns how many were ended.
pub async fn delete_beyond(conn: &mut Conn, user: UserId, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.sessions WHERE user_id = $1 AND id <= coalesce(
             (SELECT id FROM messaging.sessions WHERE user_id = $1 ORDER BY id DESC LIMIT 1 OFFSET $2), 0)",
        &[Value::I64(user.0), Value::I64(limit)],
    )
    .await
}

/// Deletes up to `limit` sessions that expired before `now`. Returns how many.
pub async fn delete_expired(conn: &mut Conn, now: Timestamp, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.sessions WHERE id IN (
             SELECT id FROM messaging.sessions WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)",
        &[Value::Time(now), Value::I64(limit)],
    )
    .await
}
