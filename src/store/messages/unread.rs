//! Unread counts: how many messages of a conversation a member has not read, and how many of them mention the member.
//!
//! Invariant: system messages are not counted. `messaging.uncounted_messages` has a row for each of them, with their running
//! count. It is written with the message, under the lock of the conversation.

use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::store::db::Conn;
use crate::store::driver::values::Value;

/// The messages of a conversation that are counted for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The conversation.
    pub conversation: ConversationId,
    /// The member.
    pub user: UserId,
    /// The messages after this `seq` are unread.
    pub unread_after: i64,
    /// The mentions after this `seq` are counted.
    pub mentions_after: i64,
    /// The last message that is counted.
    pub last_seq: i64,
}

/// The number of unread messages, and of the messages among them that mention the member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Unread messages, without system messages.
    pub unread: i64,
    /// Mentions by other users.
    pub mentions: i64,
}

impl Span {
    fn is_empty(&self) -> bool {
        self.unread_after.min(self.mentions_after) >= self.last_seq
    }

    fn counts(&self, (mentions, before, total): (i64, i64, i64)) -> Counts {
        let unread = (self.last_seq - self.unread_after).max(0) - (total - before);
        Counts { unread: unread.max(0), mentions }
    }
}

/// The counts of each span, in the same order. Spans without messages need no query.
pub async fn counts(conn: &mut Conn, spans: &[Span]) -> Result<Vec<Counts>> {
    let open: Vec<Span> = spans.iter().filter(|span| !span.is_empty()).copied().collect();
    let mut found = if open.is_empty() { Vec::new() } else { read_counts(conn, &open).await? }.into_iter();
    Ok(spans
        .iter()
        .map(|span| if span.is_empty() { Counts::default() } else { found.next().unwrap_or_default() })
        .collect())
}

async fn read_counts(conn: &mut Conn, spans: &[Span]) -> Result<Vec<Counts>> {
    if let Conn::Sqlite(_) = conn {
        let mut counts = Vec::with_capacity(spans.len());
        for span in spans {
            let row = conn
                .one(
                    "SELECT (SELECT count(*) FROM messaging.mentions m
                              WHERE m.user_id = $2 AND m.conversation_id = $1 AND m.seq > $4 AND m.seq <= $5 AND NOT m.own),
                            (SELECT n.total FROM messaging.uncounted_messages n
                              WHERE n.conversation_id = $1 AND n.seq <= $3 ORDER BY n.seq DESC LIMIT 1),
                            (SELECT n.total FROM messaging.uncounted_messages n
                              WHERE n.conversation_id = $1 AND n.seq <= $5 ORDER BY n.seq DESC LIMIT 1)",
                    &[
                        Value::I64(span.conversation.0),
                        Value::I64(span.user.0),
                        Value::I64(span.unread_after.min(span.last_seq)),
                        Value::I64(span.mentions_after),
                        Value::I64(span.last_seq),
                    ],
                    |row| Ok((row.i64(0)?, row.option_i64(1)?.unwrap_or(0), row.option_i64(2)?.unwrap_or(0))),
                )
                .await?;
            counts.push(span.counts(row));
        }
        return Ok(counts);
    }
    let column = |read: fn(&Span) -> i64| spans.iter().map(read).collect::<Vec<i64>>();
    let rows = conn
        .rows(
            "SELECT (SELECT count(*) FROM messaging.mentions m
                      WHERE m.user_id = p.user_id AND m.conversation_id = p.conversation_id
                        AND m.seq > p.mentions_after AND m.seq <= p.last_seq AND NOT m.own),
                    (SELECT n.total FROM messaging.uncounted_messages n
                      WHERE n.conversation_id = p.conversation_id AND n.seq <= p.unread_after ORDER BY n.seq DESC LIMIT 1),
                    (SELECT n.total FROM messaging.uncounted_messages n
                      WHERE n.conversation_id = p.conversation_id AND n.seq <= p.last_seq ORDER BY n.seq DESC LIMIT 1)
               FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
                    WITH ORDINALITY AS p (conversation_id, user_id, unread_after, mentions_after, last_seq, place)
              ORDER BY p.place",
            &[
                Value::I64s(&column(|span| span.conversation.0)),
                Value::I64s(&column(|span| span.user.0)),
                Value::I64s(&column(|span| span.unread_after.min(span.last_seq))),
                Value::I64s(&column(|span| span.mentions_after)),
                Value::I64s(&column(|span| span.last_seq)),
            ],
            |row| Ok((row.i64(0)?, row.option_i64(1)?.unwrap_or(0), row.option_i64(2)?.unwrap_or(0))),
        )
        .await?;
    Ok(spans.iter().zip(rows).map(|(span, row)| span.counts(row)).collect())
}

/// Records that a message is not counted. The caller must hold the lock of the conversation.
pub(in crate::store) async fn leave_out(conn: &mut Conn, conversation: ConversationId, seq: i64) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.uncounted_messages (conversation_id, seq, total)
         VALUES ($1, $2, 1 + coalesce((SELECT n.total FROM messaging.uncounted_messages n
                                        WHERE n.conversation_id = $1 ORDER BY n.seq DESC LIMIT 1), 0))",
        &[Value::I64(conversation.0), Value::I64(seq)],
    )
    .await?;
    Ok(())
}
