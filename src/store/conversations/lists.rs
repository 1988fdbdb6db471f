//! Lists of conversations, with filters.

use super::conversation_kinds::Kind;
use super::conversations::Conversation;
use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{read, sql};
use crate::store::driver::values::Value;

/// Which conversations are listed. An empty filter selects all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those of this kind.
    pub kind: Option<Kind>,
    /// Those with unread messages of the user, or those without.
    pub unread: Option<bool>,
    /// Those that the user has archived, or the others.
    pub archived: Option<bool>,
}

impl Filter {
    fn kinds(self) -> &'static [&'static str] {
        match self.kind {
            None => &["direct", "group"],
            Some(Kind::Direct) => &["direct"],
            Some(Kind::Group) => &["group"],
        }
    }

    /// The numbers that a condition may have: 1 if it holds, 0 if not.
    const fn numbers(wanted: Option<bool>) -> &'static [i64] {
        match wanted {
            None => &[0, 1],
            Some(false) => &[0],
            Some(true) => &[1],
        }
    }
}

/// The conversations of a user that are not hidden, latest activity first, after the place `before`.
pub async fn latest_of(
    conn: &mut Conn,
    user: UserId,
    before: (Timestamp, ConversationId),
    limit: i64,
) -> Result<Vec<Conversation>> {
    conn.rows(
        sql!(
            "SELECT ",
            Conversation::COLUMNS,
            " FROM (SELECT l.id FROM messaging.members k JOIN messaging.conversations l ON l.id = k.conversation_id
                    WHERE k.user_id = $1 AND l.deleted_at IS NULL AND l.last_seq >= k.hidden_below_seq
                      AND (l.last_sent_at, l.id) < ($2, $3)
                    ORDER BY l.last_sent_at DESC, l.id DESC LIMIT $4) AS p
             JOIN messaging.conversations c ON c.id = p.id
             JOIN messaging.members m ON m.conversation_id = c.id AND m.user_id = $1
             ORDER BY c.last_sent_at DESC, c.id DESC"
        ),
        &[Value::I64(user.0), Value::Time(before.0), Value::I64(before.1.0), Value::I64(limit)],
        read,
    )
    .await
}

/// Like [`latest_of`], with a filter. The condition for unread messages is that of `watermarks::unread_count` in the domain.
pub async fn latest_filtered(
    conn: &mut Conn,
    user: UserId,
    filter: Filter,
    before: (Timestamp, ConversationId),
    limit: i64,
) -> Result<Vec<Conversation>> {
    conn.rows(
        sql!(
            "SELECT ",
            Conversation::COLUMNS,
            " FROM (SELECT l.id FROM messaging.members k JOIN messaging.conversations l ON l.id = k.conversation_id
                    WHERE k.user_id = $1 AND l.deleted_at IS NULL AND l.last_seq >= k.hidden_below_seq
                      AND (l.last_sent_at, l.id) < ($2, $3) AND l.kind = ANY($5)
                      AND CAST(CASE WHEN l.last_seq > k.read_seq OR l.last_seq >= k.unread_from THEN 1 ELSE 0 END AS BIGINT)
                          = ANY($6)
                      AND CAST(CASE WHEN k.archived THEN 1 ELSE 0 END AS BIGINT) = ANY($7)
                    ORDER BY l.last_sent_at DESC, l.id DESC LIMIT $4) AS p
             JOIN messaging.conversations c ON c.id = p.id
             JOIN messaging.members m ON m.conversation_id = c.id AND m.user_id = $1
             ORDER BY c.last_sent_at DESC, c.id DESC"
        ),
        &[
            Value::I64(user.0),
            Value::Time(before.0),
            Value::I64(before.1.0),
            Value::I64(limit),
            Value::Texts(filter.kinds()),
            Value::I64s(Filter::numbers(filter.unread)),
            Value::I64s(Filter::numbers(filter.archived)),
        ],
        read,
    )
    .await
}

/// All conversations by id, after one of them, without the part of a member. Of the filter, only the kind counts.
pub async fn all_after(
    conn: &mut Conn,
    after: ConversationId,
    filter: Filter,
    limit: i64,
) -> Result<Vec<Conversation>> {
    conn.rows(
        sql!(
            "SELECT ",
            Conversation::COLUMNS,
            " FROM messaging.conversations c
             LEFT JOIN messaging.members m ON m.conversation_id = c.id AND m.user_id = NULL
             WHERE c.id > $1 AND c.deleted_at IS NULL AND c.kind = ANY($2)
             ORDER BY c.id LIMIT $3"
        ),
        &[Value::I64(after.0), Value::Texts(filter.kinds()), Value::I64(limit)],
        read,
    )
    .await
}
