//! Whether the data is whole.

use super::Conn;
use crate::error::Result;

/// Whether the file is undamaged. PostgreSQL looks after its own files.
pub async fn is_intact(conn: &mut Conn) -> Result<bool> {
    match conn {
        Conn::Sqlite(_) => conn.one("PRAGMA quick_check", &[], |row| Ok(row.text(0)? == "ok")).await,
        Conn::Postgres(_) => Ok(true),
    }
}

/// How many conversations disagree with their messages: what a wrong restore or a hand in the tables would break.
pub async fn count_broken_conversations(conn: &mut Conn) -> Result<i64> {
    conn.one(
        "SELECT count(*) FROM messaging.conversations c
          WHERE c.last_seq <> coalesce((SELECT m.seq FROM messaging.messages m
                                         WHERE m.conversation_id = c.id ORDER BY m.seq DESC LIMIT 1), 0)",
        &[],
        |row| row.i64(0),
    )
    .await
}
