//! The mark of a database that was used with open access only. It is the second row of `messaging.server_state`.

use crate::base::error::Result;
use crate::store::db::Conn;
use crate::store::driver::values::Value;

/// The id of the row. The state of the server is in the row with the id 1.
const MARK: i64 = 2;

/// Whether the database has the mark.
pub async fn is_marked(conn: &mut Conn) -> Result<bool> {
    let sql = "SELECT id FROM messaging.server_state WHERE id = $1";
    Ok(conn.first(sql, &[Value::I64(MARK)], |row| row.i64(0)).await?.is_some())
}

/// Adds the mark.
pub async fn mark(conn: &mut Conn) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.server_state (id, last_revocation, name_key) VALUES ($1, 0, $2) ON CONFLICT (id) DO NOTHING",
        &[Value::I64(MARK), Value::Bytes(&[])],
    )
    .await
    .map(drop)
}

/// Removes the mark.
pub async fn remove_mark(conn: &mut Conn) -> Result<()> {
    conn.execute("DELETE FROM messaging.server_state WHERE id = $1", &[Value::I64(MARK)]).await.map(drop)
}
