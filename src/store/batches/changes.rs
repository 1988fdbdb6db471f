//! Locking, reading and writing for a batch of small changes: reactions and receipts. On PostgreSQL each of these is one
//! statement for the whole batch, because a round trip costs as much as the rows.
//!
//! Invariant: conversations are locked in the order of their ids, and the counter of the event log is locked last.

use std::collections::HashMap;

use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::store::conversations::conversation_kinds::History;
use crate::store::conversations::conversations;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;
use crate::store::events::events::{self, NewEvent};
use crate::store::messages::reactions::{self, Tally, write_tallies};
use crate::store::messages::receipts::{self, Kind, Watermarks};

/// The parts of a conversation that small changes need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The `seq` of the last message.
    pub last_seq: i64,
    /// When the last message was sent.
    pub last_sent_at: Timestamp,
    /// Which messages a new member sees.
    pub history: History,
    /// The number of members.
    pub member_count: i64,
}

columns! {
    Place {
        last_seq: "last_seq",
        last_sent_at: "last_sent_at",
        history: "history",
        member_count: "member_count",
    }
}

/// The parts of a membership that small changes need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The number of messages when the member joined.
    pub joined_seq: i64,
    /// Messages below this `seq` do not count as unread: those from before the member hid the conversation.
    pub hidden_below_seq: i64,
    /// The watermarks of the member.
    pub watermarks: Watermarks,
}

columns! {
    Member {
        joined_seq: "m.joined_seq",
        hidden_below_seq: "m.hidden_below_seq",
        watermarks: Watermarks::COLUMNS,
    }
}

/// Identifies one possible reaction: an emoji of one user under one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spot<'a> {
    /// The conversation.
    pub conversation: ConversationId,
    /// The `seq` of the message.
    pub seq: i64,
    /// The user.
    pub user: UserId,
    /// The emoji. A custom emoji has the form `custom:ID`.
    pub emoji: &'a str,
}

/// The state of the message and of the reaction that a [`Spot`] identifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whether the message is a tombstone.
    pub deleted: bool,
    /// The counts of all reactions to the message.
    pub tallies: Vec<Tally>,
    /// Whether this reaction exists.
    pub there: bool,
}

/// A step to insert: a move of a watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The conversation.
    pub conversation: ConversationId,
    /// The member.
    pub user: UserId,
    /// The watermark that moves.
    pub kind: Kind,
    /// The `seq` that it moves to.
    pub seq: i64,
    /// When it moves.
    pub at: Timestamp,
}

/// Locks conversations until the transaction ends, and returns those that exist. On SQLite no lock is needed, because there
/// is only one writer.
pub async fn lock(conn: &mut Conn, ids: &[i64]) -> Result<HashMap<ConversationId, Place>> {
    let sql = sql!(
        "SELECT id, ",
        Place::COLUMNS,
        " FROM messaging.conversations WHERE id = ANY($1) AND deleted_at IS NULL ORDER BY id FOR UPDATE"
    );
    Ok(conn.rows(sql, &[Value::I64s(ids)], read).await?.into_iter().collect())
}

/// The memberships for pairs of a conversation and a user. A pair without a membership is left out. The caller must hold
/// the locks of the conversations.
pub async fn members(
    conn: &mut Conn,
    pairs: &[(ConversationId, UserId)],
) -> Result<HashMap<(ConversationId, UserId), Member>> {
    if let Conn::Sqlite(_) = conn {
        let mut found = HashMap::with_capacity(pairs.len());
        for (conversation, user) in pairs {
            found.extend(
                conn.first(
                    sql!(
                        "SELECT m.conversation_id, m.user_id, ",
                        Member::COLUMNS,
                        " FROM messaging.members m WHERE m.conversation_id = $1 AND m.user_id = $2"
                    ),
                    &[Value::I64(conversation.0), Value::I64(user.0)],
                    read::<((ConversationId, UserId), Member)>,
                )
                .await?,
            );
        }
        return Ok(found);
    }
    let conversations: Vec<i64> = pairs.iter().map(|(conversation, _)| conversation.0).collect();
    let users: Vec<i64> = pairs.iter().map(|(_, user)| user.0).collect();
    let rows = conn
        .rows(
            sql!(
                "SELECT m.conversation_id, m.user_id, ",
                Member::COLUMNS,
                " FROM unnest($1::bigint[], $2::bigint[]) AS p (conversation_id, user_id)
                  JOIN messaging.members m ON m.conversation_id = p.conversation_id AND m.user_id = p.user_id"
            ),
            &[Value::I64s(&conversations), Value::I64s(&users)],
            read,
        )
        .await?;
    Ok(rows.into_iter().collect())
}

/// The state of each spot, in the order of `spots`. `None` when the message does not exist.
pub async fn spots(conn: &mut Conn, spots: &[Spot<'_>]) -> Result<Vec<Option<Found>>> {
    let found_of = |(deleted, tallies, there)| Found { deleted, tallies, there };
    if let Conn::Sqlite(_) = conn {
        let mut found = Vec::with_capacity(spots.len());
        for spot in spots {
            found.push(
                conn.first(
                    "SELECT m.deleted_at IS NOT NULL, m.reaction_counts,
                            EXISTS (SELECT 1 FROM messaging.reactions r
                                     WHERE r.conversation_id = $1 AND r.seq = $2 AND r.emoji = $3 AND r.user_id = $4)
                       FROM messaging.messages m WHERE m.conversation_id = $1 AND m.seq = $2",
                    &[
                        Value::I64(spot.conversation.0),
                        Value::I64(spot.seq),
                        Value::Text(spot.emoji),
                        Value::I64(spot.user.0),
                    ],
                    read,
                )
                .await?
                .map(found_of),
            );
        }
        return Ok(found);
    }
    let columns = Spots::new(spots.iter());
    let rows: Vec<(i64, _)> = conn
        .rows(
            // A LATERAL join, because for an EXISTS the planner could choose to read all reactions once for all spots.
            "SELECT p.place, m.deleted_at IS NOT NULL, m.reaction_counts, r.user_id IS NOT NULL
               FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[])
                    WITH ORDINALITY AS p (conversation_id, seq, emoji, user_id, place)
               JOIN messaging.messages m ON m.conversation_id = p.conversation_id AND m.seq = p.seq
               LEFT JOIN LATERAL (
                   SELECT r.user_id FROM messaging.reactions r
                    WHERE r.conversation_id = p.conversation_id AND r.seq = p.seq AND r.emoji = p.emoji
                      AND r.user_id = p.user_id LIMIT 1) r ON TRUE",
            &columns.values(),
            read,
        )
        .await?;
    let mut found = vec![None; spots.len()];
    for (place, there) in rows {
        if let Some(one) = usize::try_from(place - 1).ok().and_then(|index| found.get_mut(index)) {
            *one = Some(found_of(there));
        }
    }
    Ok(found)
}

/// Everything that a batch of small changes writes. No row is in a list twice.
#[derive(Clone, Debug, Default)]
pub struct Outcome<'a> {
    /// Reactions to add, and when they were added.
    pub added: Vec<(Spot<'a>, Timestamp)>,
    /// Reactions to remove.
    pub removed: Vec<Spot<'a>>,
    /// The new counts of reactions to messages.
    pub tallies: Vec<(ConversationId, i64, Vec<Tally>)>,
    /// The new watermarks of members.
    pub watermarks: Vec<(ConversationId, UserId, Watermarks)>,
    /// The steps to insert.
    pub steps: Vec<Step>,
    /// Conversations whose content version rises, because their messages show something else now.
    pub changed: Vec<ConversationId>,
    /// Events to log, in their order.
    pub events: Vec<NewEvent<'a>>,
}

impl Outcome<'_> {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        // Each other list is empty unless there are also watermarks or events.
        self.watermarks.is_empty() && self.events.is_empty()
    }
}

/// Writes the outcome of a batch. It must be the last call of its transaction, because on PostgreSQL the COMMIT is sent
/// with it.
pub async fn write(conn: &mut Conn, outcome: &Outcome<'_>) -> Result<()> {
    match conn {
        Conn::Sqlite(_) => write_each(conn, outcome).await,
        Conn::Postgres(_) => write_set(conn, outcome).await,
    }
}

async fn write_each(conn: &mut Conn, outcome: &Outcome<'_>) -> Result<()> {
    for (Spot { conversation, seq, user, emoji }, at) in &outcome.added {
        reactions::insert(conn, *conversation, *seq, emoji, *user, *at).await?;
    }
    for Spot { conversation, seq, user, emoji } in &outcome.removed {
        reactions::delete(conn, *conversation, *seq, emoji, *user).await?;
    }
    for (conversation, seq, tallies) in &outcome.tallies {
        reactions::set_tallies(conn, *conversation, *seq, tallies).await?;
    }
    for (conversation, user, watermarks) in &outcome.watermarks {
        receipts::set_watermarks(conn, *conversation, *user, *watermarks).await?;
    }
    for Step { conversation, user, kind, seq, at } in &outcome.steps {
        receipts::insert(conn, *conversation, *user, *kind, *seq, *at).await?;
    }
    for conversation in &outcome.changed {
        conversations::mark_changed(conn, *conversation).await?;
    }
    events::append(conn, &outcome.events).await
}

/// The statement of [`write_set`]. Each list of an [`Outcome`] is passed as arrays, one for each column.
const WRITE_SET: &str =
    "WITH added AS (
         INSERT INTO messaging.reactions (conversation_id, seq, emoji, user_id, at)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::timestamptz[]) RETURNING 1),
     removed AS (
         DELETE FROM messaging.reactions r
          USING unnest($6::bigint[], $7::bigint[], $8::text[], $9::bigint[]) AS d (conversation_id, seq, emoji, user_id)
          WHERE r.conversation_id = d.conversation_id AND r.seq = d.seq AND r.emoji = d.emoji
            AND r.user_id = d.user_id RETURNING 1),
     counted AS (
         UPDATE messaging.messages m SET reaction_counts = n.counts
           FROM unnest($10::bigint[], $11::bigint[], $12::text[]) AS n (conversation_id, seq, counts)
          WHERE m.conversation_id = n.conversation_id AND m.seq = n.seq RETURNING 1),
     moved AS (
         UPDATE messaging.members m
            SET delivered_seq = n.delivered_seq, read_seq = n.read_seq, unread_from = n.unread_from
           FROM unnest($13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[])
                AS n (conversation_id, user_id, delivered_seq, read_seq, unread_from)
          WHERE m.conversation_id = n.conversation_id AND m.user_id = n.user_id RETURNING 1),
     noted AS (
         INSERT INTO messaging.receipts (conversation_id, user_id, kind, seq, at)
         SELECT * FROM unnest($18::bigint[], $19::bigint[], $20::text[], $21::bigint[], $22::timestamptz[])
         RETURNING 1),
     changed AS (
         UPDATE messaging.conversations SET content_version = content_version + 1
          WHERE id = ANY($23) RETURNING 1),
     -- The counts make it wait for the others, as in store/batches/sends.rs.
     log AS (
         UPDATE messaging.event_log
            SET last_position = last_position + $24::bigint + 0 * ((SELECT count(*) FROM added) + (SELECT count(*) FROM removed)
                    + (SELECT count(*) FROM counted) + (SELECT count(*) FROM moved) + (SELECT count(*) FROM noted)
                    + (SELECT count(*) FROM changed))
          WHERE id = 1 AND $24::bigint > 0 RETURNING last_position),
     logged AS (
         INSERT INTO messaging.events (position, type, conversation_id, seq, actor_id, detail, at)
         SELECT log.last_position - $24 + e.place, e.type, e.conversation_id, e.seq, e.actor_id, e.detail, e.at
           FROM log, unnest($25::text[], $26::bigint[], $27::bigint[], $28::bigint[], $29::text[], $30::timestamptz[])
                WITH ORDINALITY AS e (type, conversation_id, seq, actor_id, detail, at, place))
     SELECT 1";

async fn write_set(conn: &mut Conn, outcome: &Outcome<'_>) -> Result<()> {
    let Outcome { added, removed, tallies, watermarks, steps, changed, events } = outcome;
    let [added_spots, removed_spots] = [Spots::new(added.iter().map(|(spot, _)| spot)), Spots::new(removed.iter())];
    let counts: Vec<Option<String>> = tallies.iter().map(|(.., tallies)| write_tallies(tallies)).collect();
    let [added_values, removed_values] = [added_spots.values(), removed_spots.values()];
    let [conversations, seqs, emoji, users] = added_values;
    let [removed_conversations, removed_seqs, removed_emoji, removed_users] = removed_values;
    conn.one_and_commit(
        WRITE_SET,
        &[
            conversations,
            seqs,
            emoji,
            users,
            Value::Times(&added.iter().map(|(_, at)| *at).collect::<Vec<_>>()),
            removed_conversations,
            removed_seqs,
            removed_emoji,
            removed_users,
            Value::I64s(&tallies.iter().map(|(conversation, ..)| conversation.0).collect::<Vec<_>>()),
            Value::I64s(&tallies.iter().map(|(_, seq, _)| *seq).collect::<Vec<_>>()),
            Value::OptionTexts(&counts.iter().map(Option::as_deref).collect::<Vec<_>>()),
            Value::I64s(&watermarks.iter().map(|(conversation, ..)| conversation.0).collect::<Vec<_>>()),
            Value::I64s(&watermarks.iter().map(|(_, user, _)| user.0).collect::<Vec<_>>()),
            Value::I64s(&watermarks.iter().map(|(.., marks)| marks.delivered_seq).collect::<Vec<_>>()),
            Value::I64s(&watermarks.iter().map(|(.., marks)| marks.read_seq).collect::<Vec<_>>()),
            Value::OptionI64s(&watermarks.iter().map(|(.., marks)| marks.unread_from).collect::<Vec<_>>()),
            Value::I64s(&steps.iter().map(|step| step.conversation.0).collect::<Vec<_>>()),
            Value::I64s(&steps.iter().map(|step| step.user.0).collect::<Vec<_>>()),
            Value::Texts(&steps.iter().map(|step| step.kind.as_str()).collect::<Vec<_>>()),
            Value::I64s(&steps.iter().map(|step| step.seq).collect::<Vec<_>>()),
            Value::Times(&steps.iter().map(|step| step.at).collect::<Vec<_>>()),
            Value::I64s(&changed.iter().map(|conversation| conversation.0).collect::<Vec<_>>()),
            Value::I64(events.len() as i64),
            Value::Texts(&events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>()),
            Value::OptionI64s(&events.iter().map(|event| event.conversation_id.map(|id| id.0)).collect::<Vec<_>>()),
            Value::OptionI64s(&events.iter().map(|event| event.seq).collect::<Vec<_>>()),
            Value::I64s(&events.iter().map(|event| event.actor_id.0).collect::<Vec<_>>()),
            Value::OptionTexts(&events.iter().map(|event| event.detail).collect::<Vec<_>>()),
            Value::Times(&events.iter().map(|event| event.at).collect::<Vec<_>>()),
        ],
        |_| Ok(()),
    )
    .await
}

/// The fields of spots as arrays, for `unnest`.
struct Spots<'a> {
    conversations: Vec<i64>,
    seqs: Vec<i64>,
    emoji: Vec<&'a str>,
    users: Vec<i64>,
}

impl<'a> Spots<'a> {
    fn new<'s>(spots: impl Iterator<Item = &'s Spot<'a>> + Clone) -> Self
    where
        'a: 's,
    {
        Self {
            conversations: spots.clone().map(|spot| spot.conversation.0).collect(),
            seqs: spots.clone().map(|spot| spot.seq).collect(),
            emoji: spots.clone().map(|spot| spot.emoji).collect(),
            users: spots.map(|spot| spot.user.0).collect(),
        }
    }

    fn values(&self) -> [Value<'_>; 4] {
        [Value::I64s(&self.conversations), Value::I64s(&self.seqs), Value::Texts(&self.emoji), Value::I64s(&self.users)]
    }
}
