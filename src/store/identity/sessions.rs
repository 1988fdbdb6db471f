//! Rows of `messaging.sessions`.
//!
//! Invariant: a row holds the hash of its token, never the token; a session that was ended has no row.

use crate::base::error::Result;
use crate::base::ids::{SessionId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// The hash of something that its holder shows.
pub type SecretHash = [u8; 32];

/// A device that is logged in.
#[derive(Clone, Debug)]
pub struct Session {
    /// Given by the database.
    pub id: SessionId,
    /// Whose.
    pub user_id: UserId,
    /// When its person logged in.
    pub created_at: Timestamp,
    /// When it was used last, to within minutes.
    pub last_seen_at: Timestamp,
    /// When it ends unless it is used before.
    pub expires_at: Timestamp,
    /// When it ends in any case.
    pub ends_at: Timestamp,
    /// The program's own name for itself.
    pub agent: String,
    /// Where it was used from last.
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

/// A new session; its id is not used.
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

/// The sessions of a person that have not expired, by id, after `after`.
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

/// Notes that a session was used, which moves its end.
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

/// Ends one session of a person; whether there was one.
pub async fn delete(conn: &mut Conn, user: UserId, id: SessionId) -> Result<bool> {
    let count = conn
        .execute(
            "DELETE FROM messaging.sessions WHERE user_id = $1 AND id = $2",
            &[Value::I64(user.0), Value::I64(id.0)],
        )
        .await?;
    Ok(count > 0)
}

/// Ends every session of a person, but for `kept`; how many.
pub async fn delete_of(conn: &mut Conn, user: UserId, kept: Option<SessionId>) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.sessions WHERE user_id = $1 AND id <> $2",
        &[Value::I64(user.0), Value::I64(kept.map_or(0, |id| id.0))],
    )
    .await
}

/// Ends the oldest sessions of a person beyond `limit` of them; how many.
pub async fn delete_beyond(conn: &mut Conn, user: UserId, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.sessions WHERE user_id = $1 AND id <= coalesce(
             (SELECT id FROM messaging.sessions WHERE user_id = $1 ORDER BY id DESC LIMIT 1 OFFSET $2), 0)",
        &[Value::I64(user.0), Value::I64(limit)],
    )
    .await
}

/// Forgets up to `limit` sessions that expired before `now`; how many.
pub async fn delete_expired(conn: &mut Conn, now: Timestamp, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.sessions WHERE id IN (
             SELECT id FROM messaging.sessions WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)",
        &[Value::Time(now), Value::I64(limit)],
    )
    .await
}
