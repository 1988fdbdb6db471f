//! Rows of `messaging.revocations`, and the row of `messaging.server_state` that numbers them.
//!
//! Invariant: a revocation takes its position from a row that stays locked until the commit. So positions become visible in
//! their order: when a node has read a position, no smaller one appears later.

use crate::base::error::Result;
use crate::base::ids::{ApiKeyId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::{Conn, Row};
use crate::store::driver::values::Value;
use crate::store::postgres::Counter;

/// The user or API key of a revocation. A node that has cached their credentials must read them again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Revoked {
    /// All credentials of a user.
    User(UserId),
    /// An API key.
    ApiKey(ApiKeyId),
}

/// Adds a revocation, so that every node reads the credentials from the database again. On PostgreSQL the revocation is
/// numbered together with the COMMIT, after the events of the transaction. On SQLite it must be the last write of the
/// transaction.
pub async fn insert(conn: &mut Conn, revoked: Revoked, now: Timestamp) -> Result<()> {
    let (user, api_key) = match revoked {
        Revoked::User(id) => (Some(id.0), None),
        Revoked::ApiKey(id) => (None, Some(id.0)),
    };
    if let Conn::Postgres(connection) = conn {
        // If the counter's row is missing, the position is NULL, which the table refuses.
        let sql = "WITH state AS (
                 UPDATE messaging.server_state SET last_revocation = last_revocation + 1 WHERE id = 1
                 RETURNING last_revocation)
             INSERT INTO messaging.revocations (position, user_id, api_key_id, at)
             VALUES ((SELECT last_revocation FROM state), $1::bigint, $2::bigint, $3::timestamptz)";
        let values = [Value::OptionI64(user), Value::OptionI64(api_key), Value::Time(now)];
        return connection.queue(Counter::Revocations, sql, &values).await;
    }
    let position = conn
        .one(
            "UPDATE messaging.server_state SET last_revocation = last_revocation + 1 WHERE id = 1 RETURNING last_revocation",
            &[],
            |row| row.i64(0),
        )
        .await?;
    conn.execute(
        "INSERT INTO messaging.revocations (position, user_id, api_key_id, at) VALUES ($1, $2, $3, $4)",
        &[Value::I64(position), Value::OptionI64(user), Value::OptionI64(api_key), Value::Time(now)],
    )
    .await?;
    Ok(())
}

/// The position of the last revocation.
pub async fn last_position(conn: &mut Conn) -> Result<i64> {
    conn.one("SELECT last_revocation FROM messaging.server_state WHERE id = 1", &[], |row| row.i64(0)).await
}

fn revocation(row: &Row<'_>) -> Result<(i64, Option<Revoked>)> {
    let user = row.option_i64(1)?.map(|id| Revoked::User(UserId(id)));
    Ok((row.i64(0)?, user.or(row.option_i64(2)?.map(|id| Revoked::ApiKey(ApiKeyId(id))))))
}

/// Revocations after a position, in the order of their positions. `None` for a row that has neither a user nor a key.
pub async fn after(conn: &mut Conn, position: i64, limit: i64) -> Result<Vec<(i64, Option<Revoked>)>> {
    conn.rows(
        "SELECT position, user_id, api_key_id FROM messaging.revocations WHERE position > $1 ORDER BY position LIMIT $2",
        &[Value::I64(position), Value::I64(limit)],
        revocation,
    )
    .await
}

/// Deletes all revocations except the last `kept` ones. Returns how many.
pub async fn trim(conn: &mut Conn, kept: i64) -> Result<u64> {
    let last = last_position(conn).await?;
    conn.execute("DELETE FROM messaging.revocations WHERE position <= $1", &[Value::I64(last - kept)]).await
}

/// The key for the keyed hashes of names.
pub async fn name_key(conn: &mut Conn) -> Result<Vec<u8>> {
    conn.one("SELECT name_key FROM messaging.server_state WHERE id = 1", &[], |row| row.bytes(0).map(<[u8]>::to_vec))
        .await
}
