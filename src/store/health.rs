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

/// How many messages have counts that disagree with the reactions under them. The order of the emoji is that of their coming,
/// which nothing else tells.
pub async fn count_miscounted_messages(conn: &mut Conn) -> Result<i64> {
    // Each emoji stands in the counts with its number, and nothing else stands there: two words an emoji.
    let under_messages = conn
        .one(
            "SELECT count(*) FROM (
                 SELECT r.conversation_id, r.seq
                   FROM (SELECT conversation_id, seq, emoji, count(*) AS count FROM messaging.reactions
                          GROUP BY conversation_id, seq, emoji) AS r
                   LEFT JOIN messaging.messages m ON m.conversation_id = r.conversation_id AND m.seq = r.seq
                  GROUP BY r.conversation_id, r.seq, m.reaction_counts
                 HAVING m.reaction_counts IS NULL
                     OR count(*) <> sum(CASE WHEN ' ' || m.reaction_counts || ' ' LIKE '% ' || r.emoji || ' ' || r.count || ' %'
                                             THEN 1 ELSE 0 END)
                     OR length(m.reaction_counts) - length(replace(m.reaction_counts, ' ', '')) <> 2 * count(*) - 1
                 ) AS miscounted",
            &[],
            |row| row.i64(0),
        )
        .await?;
    let without_any = conn
        .one(
            "SELECT count(*) FROM messaging.messages m
              WHERE m.reaction_counts IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM messaging.reactions r
                                 WHERE r.conversation_id = m.conversation_id AND r.seq = m.seq)",
            &[],
            |row| row.i64(0),
        )
        .await?;
    Ok(under_messages + without_any)
}
