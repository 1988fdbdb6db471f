//! Locking and writing for a batch of sends. On PostgreSQL each of these is one statement for the whole batch, because a
//! round trip costs as much as the rows.
//!
//! Invariants: conversations are locked in the order of their ids before message ids are taken, so that ids rise with `seq`.
//! The counter of the event log is locked last, so that positions become visible in their order.

use std::collections::HashMap;

use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, MessageId, UserId};
use crate::base::time::Timestamp;
use crate::store::conversations::conversations::{self, Head};
use crate::store::db::Conn;
use crate::store::db::columns::{read, sql};
use crate::store::driver::values::Value;
use crate::store::events::events::{self, Kind, NewEvent};
use crate::store::files::attachments::{self, AttachmentList, Held};
use crate::store::identity::revocations;
use crate::store::messages::link_previews::LinkPreview;
use crate::store::messages::mentions::{self, Mention};
use crate::store::messages::messages::{self, Action, Decorations, Message, NewRow};
use crate::store::messages::{receipts, search, unread};

/// Locks conversations until the transaction ends, and takes `count` ascending message ids.
pub async fn lock_and_number(conn: &mut Conn, conversations: &[i64], count: usize) -> Result<(Vec<Head>, Vec<i64>)> {
    if let Conn::Sqlite(_) = conn {
        let heads = conversations::lock(conn, conversations).await?;
        return Ok((heads, messages::next_ids(conn, count).await?));
    }
    let mut heads = Vec::with_capacity(conversations.len());
    // The branches of a UNION ALL run in their order, so ids are taken only after all conversations are locked.
    let ids = conn
        .rows(
            sql!(
                "WITH locked AS MATERIALIZED (SELECT ",
                Head::COLUMNS,
                " FROM messaging.conversations c WHERE c.id = ANY($1) AND c.deleted_at IS NULL ORDER BY c.id FOR UPDATE)
                 SELECT NULL::bigint, ",
                Head::COLUMNS,
                " FROM locked c
                 UNION ALL
                 SELECT nextval('messaging.messaging_sequence'), NULL, NULL, NULL, NULL, NULL
                   FROM generate_series(1, $2::bigint)"
            ),
            &[Value::I64s(conversations), Value::I64(count as i64)],
            |row| {
                let (id, head): (Option<i64>, Option<Head>) = read(row)?;
                heads.extend(head);
                Ok(id)
            },
        )
        .await?;
    Ok((heads, ids.into_iter().flatten().collect()))
}

/// Everything that a batch of sends writes.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// The new heads of the conversations.
    pub heads: &'a [Head],
    /// Events for conversations that the batch created. They are logged before the messages.
    pub made: &'a [NewEvent<'a>],
    /// The messages.
    pub rows: &'a [NewRow<'a>],
    /// The mentions in the messages.
    pub mentions: &'a [Mention],
    /// Which messages hold which attachments. The attachments must be locked.
    pub held: &'a [Held],
    /// The maximum number of members of a conversation whose messages show whether all members have read them. In such a
    /// conversation the content version rises when a send marks earlier messages as read.
    pub member_limit: i64,
}

/// Appends messages, updates the heads of their conversations and the watermarks of their senders, and logs the events:
/// first those of new conversations, then those of the messages. It must be the last call of its transaction, because on
/// PostgreSQL the COMMIT is sent with it.
///
/// # Errors
/// [`Error::Rerun`] when `unrevoked_since` is given and is not the position of the last revocation. The position is read
/// while the conversations are locked.
pub async fn append(conn: &mut Conn, append: Append<'_>, unrevoked_since: Option<i64>) -> Result<()> {
    let Append { heads, made, rows, mentions, held, member_limit } = append;
    attachments::hold(conn, held).await?;
    if let Conn::Sqlite(_) = conn {
        conversations::advance(conn, heads).await?;
        messages::append(conn, rows).await?;
        mentions::insert(conn, mentions).await?;
        for row in rows.iter().filter(|row| row.follows) {
            if receipts::follow_send(conn, row.message).await? {
                conversations::mark_changed_up_to(conn, row.message.conversation_id, member_limit).await?;
            }
        }
        search::append(conn, rows).await?;
        let events: Vec<NewEvent<'_>> =
            made.iter().copied().chain(rows.iter().map(|row| created(row.message))).collect();
        events::append(conn, &events).await?;
        let last = revocations::last_position(conn).await?;
        return match unrevoked_since {
            Some(position) if position != last => {
                Err(Error::Rerun("credentials were revoked during the transaction".into()))
            }
            _ => Ok(()),
        };
    }
    fn column<T>(rows: &[NewRow<'_>], read: impl Fn(&Message) -> T) -> Vec<T> {
        rows.iter().map(|row| read(row.message)).collect()
    }
    let bodies: Vec<&str> = rows.iter().map(|row| row.message.body.as_str()).collect();
    let days: Vec<Option<i64>> = rows.iter().map(|row| row.key.map(|(day, _)| day)).collect();
    let digests: Vec<Option<&[u8]>> = rows.iter().map(|row| row.key.map(|(_, digest)| digest.as_slice())).collect();
    let moves = WatermarkMoves::new(rows);
    let streams: Vec<Option<String>> = rows.iter().map(|row| search::postgres_stream(row.message)).collect();
    let streams: Vec<Option<&str>> = streams.iter().map(Option::as_deref).collect();
    let attachments: Vec<Option<&str>> = rows.iter().map(|row| row.message.attachments.stored()).collect();
    let previews: Vec<Option<&str>> = rows.iter().map(|row| row.message.link_preview.stored()).collect();
    conn.one_and_commit(
        // `passed` contains the steps of senders who had not read everything before their message. `before` is the `seq` of
        // the sender's previous message in the batch. If there is none, the sender's watermark in the database counts.
        "WITH passed AS (
             SELECT s.conversation_id, s.user_id, k.kind, s.seq, s.at
               FROM unnest($20::bigint[], $21::bigint[], $22::bigint[], $23::bigint[], $24::timestamptz[])
                    AS s (conversation_id, user_id, seq, before, at)
               JOIN messaging.members m ON m.conversation_id = s.conversation_id AND m.user_id = s.user_id
               CROSS JOIN LATERAL (VALUES ('delivered', m.delivered_seq), ('read', m.read_seq)) AS k (kind, seq)
              WHERE coalesce(s.before, k.seq) < s.seq - 1),
         received AS (
             INSERT INTO messaging.receipts (conversation_id, user_id, kind, seq, at) SELECT * FROM passed RETURNING 1),
         followed AS (
             UPDATE messaging.members m SET delivered_seq = n.seq, read_seq = n.seq, unread_from = NULL
               FROM (SELECT f.conversation_id, f.user_id, max(f.seq) AS seq
                       FROM unnest($20::bigint[], $21::bigint[], $22::bigint[]) AS f (conversation_id, user_id, seq)
                      GROUP BY f.conversation_id, f.user_id) AS n
              WHERE m.conversation_id = n.conversation_id AND m.user_id = n.user_id RETURNING 1),
         mentioned AS (
             INSERT INTO messaging.mentions (conversation_id, seq, user_id, place, own)
             SELECT n.conversation_id, n.seq, n.user_id, n.place, n.own <> 0
               FROM unnest($25::bigint[], $26::bigint[], $27::bigint[], $37::bigint[], $38::bigint[])
                    AS n (conversation_id, seq, user_id, place, own)
             RETURNING 1),
         heads AS (
             UPDATE messaging.conversations c
                SET last_seq = n.last_seq, last_sent_at = n.last_sent_at, last_message_id = n.last_message_id,
                    content_version = c.content_version + CASE WHEN c.member_count <= $28
                         AND EXISTS (SELECT FROM passed WHERE passed.conversation_id = c.id) THEN 1 ELSE 0 END
               FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::bigint[])
                    AS n (id, last_seq, last_sent_at, last_message_id)
              WHERE c.id = n.id RETURNING 1),
         stored AS (
             INSERT INTO messaging.messages (conversation_id, seq, id, timestamp_sent, kind, sender_id, recipient_id,
                                             created_at, reply_to, body, idempotency_day, idempotency_digest, digest,
                                             attachments, link_preview)
             SELECT * FROM unnest($5::bigint[], $6::bigint[], $7::bigint[], $8::timestamptz[], $9::text[],
                                  $10::bigint[], $11::bigint[], $12::timestamptz[], $13::bigint[], $14::text[],
                                  $17::bigint[], $18::bytea[], $34::bigint[], $35::text[], $36::text[])
             RETURNING 1),
         indexed AS (
             INSERT INTO messaging.search_entries (id, conversation_id, seq, timestamp_sent, terms)
             SELECT s.id, s.conversation_id, s.seq, s.timestamp_sent, s.terms::tsvector
               FROM unnest($7::bigint[], $5::bigint[], $6::bigint[], $8::timestamptz[], $29::text[])
                    AS s (id, conversation_id, seq, timestamp_sent, terms)
              WHERE s.terms IS NOT NULL
             RETURNING 1),
         -- The counts make it wait for the others, because its row is locked against everyone from here to the commit.
         log AS (
             UPDATE messaging.event_log
                SET last_position = last_position + $15 + 0 * ((SELECT count(*) FROM stored) + (SELECT count(*) FROM heads)
                        + (SELECT count(*) FROM received) + (SELECT count(*) FROM followed)
                        + (SELECT count(*) FROM mentioned) + (SELECT count(*) FROM indexed))
              WHERE id = 1 RETURNING last_position),
         logged AS (
             INSERT INTO messaging.events (position, type, conversation_id, seq, actor_id, at)
             SELECT log.last_position - $15 + e.place, $30, e.conversation_id, NULL, e.actor_id, e.at
               FROM log, unnest($31::bigint[], $32::bigint[], $33::timestamptz[])
                    WITH ORDINALITY AS e (conversation_id, actor_id, at, place)
             UNION ALL
             SELECT log.last_position - $15 + cardinality($31::bigint[]) + e.place, $16, e.conversation_id, e.seq,
                    e.actor_id, e.at
               FROM log, unnest($5::bigint[], $6::bigint[], $10::bigint[], $8::timestamptz[])
                    WITH ORDINALITY AS e (conversation_id, seq, actor_id, at, place))
         -- A statement can fail on purpose only with an error such as a division by zero. The driver runs the unit of work again.
         SELECT 1 / CASE WHEN $19::bigint IS NULL OR last_revocation = $19 THEN 1 ELSE 0 END
           FROM messaging.server_state WHERE id = 1",
        &[
            Value::I64s(&heads.iter().map(|head| head.id.0).collect::<Vec<_>>()),
            Value::I64s(&heads.iter().map(|head| head.last_seq).collect::<Vec<_>>()),
            Value::Times(&heads.iter().map(|head| head.last_sent_at).collect::<Vec<Timestamp>>()),
            Value::I64s(&heads.iter().map(|head| head.last_message_id.0).collect::<Vec<_>>()),
            Value::I64s(&column(rows, |message| message.conversation_id.0)),
            Value::I64s(&column(rows, |message| message.seq)),
            Value::I64s(&column(rows, |message| message.id.0)),
            Value::Times(&column(rows, |message| message.timestamp_sent)),
            Value::Texts(&column(rows, |message| message.kind.as_str())),
            Value::I64s(&column(rows, |message| message.sender_id.0)),
            Value::OptionI64s(&column(rows, |message| message.recipient_id.map(|id| id.0))),
            Value::Times(&column(rows, |message| message.created_at)),
            Value::OptionI64s(&column(rows, |message| message.reply_to)),
            Value::Texts(&bodies),
            Value::I64((made.len() + rows.len()) as i64),
            Value::Text(Kind::MessageCreated.as_str()),
            Value::OptionI64s(&days),
            Value::OptionByteSlices(&digests),
            Value::OptionI64(unrevoked_since),
            Value::I64s(&moves.conversations),
            Value::I64s(&moves.users),
            Value::I64s(&moves.seqs),
            Value::OptionI64s(&moves.before),
            Value::Times(&moves.times),
            Value::I64s(&mentions.iter().map(|mention| mention.conversation.0).collect::<Vec<_>>()),
            Value::I64s(&mentions.iter().map(|mention| mention.seq).collect::<Vec<_>>()),
            Value::I64s(&mentions.iter().map(|mention| mention.user.0).collect::<Vec<_>>()),
            Value::I64(member_limit),
            Value::OptionTexts(&streams),
            Value::Text(Kind::ConversationCreated.as_str()),
            Value::I64s(&made.iter().filter_map(|event| Some(event.conversation_id?.0)).collect::<Vec<_>>()),
            Value::I64s(&made.iter().map(|event| event.actor_id.0).collect::<Vec<_>>()),
            Value::Times(&made.iter().map(|event| event.at).collect::<Vec<_>>()),
            Value::I64s(&column(rows, Message::digest)),
            Value::OptionTexts(&attachments),
            Value::OptionTexts(&previews),
            Value::I64s(&mentions.iter().map(|mention| mention.place).collect::<Vec<_>>()),
            Value::I64s(&mentions.iter().map(|mention| i64::from(mention.own)).collect::<Vec<_>>()),
        ],
        |_| Ok(()),
    )
    .await
}

/// The messages that move the watermarks of their senders, as arrays for `unnest`.
#[derive(Default)]
struct WatermarkMoves {
    conversations: Vec<i64>,
    users: Vec<i64>,
    seqs: Vec<i64>,
    /// The `seq` of the sender's previous message in the same batch, if there is one. That message has moved the sender's
    /// watermark to itself.
    before: Vec<Option<i64>>,
    times: Vec<Timestamp>,
}

impl WatermarkMoves {
    fn new(rows: &[NewRow<'_>]) -> Self {
        let mut moves = Self::default();
        let mut last = HashMap::with_capacity(rows.len());
        for message in rows.iter().filter(|row| row.follows).map(|row| row.message) {
            moves.conversations.push(message.conversation_id.0);
            moves.users.push(message.sender_id.0);
            moves.seqs.push(message.seq);
            moves.before.push(last.insert((message.conversation_id, message.sender_id), message.seq));
            moves.times.push(message.timestamp_sent);
        }
        moves
    }
}

/// The content of a system message.
#[derive(Clone, Debug)]
pub struct Note<'a> {
    /// The action that it reports.
    pub action: Action,
    /// The user who performed the action.
    pub actor: UserId,
    /// The user who is affected by it.
    pub subject: Option<UserId>,
    /// Further details, such as a title or a role.
    pub detail: &'a str,
    /// When it happened.
    pub at: Timestamp,
}

/// Locks a conversation and appends a system message to it. Returns the event, which the caller must log. If the actor had
/// read everything before, the message counts as read by the actor too.
pub async fn note(conn: &mut Conn, conversation: ConversationId, note: &Note<'_>) -> Result<NewEvent<'static>> {
    let (heads, ids) = lock_and_number(conn, &[conversation.0], 1).await?;
    let (Some(head), Some(id)) = (heads.first(), ids.first()) else {
        return Err(Error::internal("the conversation of a system message does not exist"));
    };
    let head = Head {
        last_seq: head.last_seq + 1,
        last_sent_at: head.last_sent_at.max(note.at),
        last_message_id: MessageId(*id),
        ..*head
    };
    let message = Message {
        conversation_id: conversation,
        seq: head.last_seq,
        id: head.last_message_id,
        timestamp_sent: head.last_sent_at,
        kind: messages::Kind::System,
        sender_id: note.actor,
        recipient_id: None,
        created_at: head.last_sent_at,
        timestamp_delivered: None,
        timestamp_read: None,
        reply_to: None,
        body: note.detail.to_owned(),
        edited_at: None,
        deleted_at: None,
        action: Some(note.action),
        subject_id: note.subject,
        mentions: Vec::new(),
        attachments: AttachmentList::default(),
        link_preview: LinkPreview::default(),
        decorations: Decorations::default(),
    };
    conn.execute(
        "INSERT INTO messaging.messages (conversation_id, seq, id, timestamp_sent, kind, sender_id, created_at, body,
                                         action, subject_id, digest)
         VALUES ($1, $2, $3, $4, 'system', $5, $4, $6, $7, $8, $9)",
        &[
            Value::I64(conversation.0),
            Value::I64(head.last_seq),
            Value::I64(*id),
            Value::Time(head.last_sent_at),
            Value::I64(note.actor.0),
            Value::Text(note.detail),
            Value::Text(note.action.as_str()),
            Value::OptionI64(note.subject.map(|user| user.0)),
            Value::I64(message.digest()),
        ],
    )
    .await?;
    unread::leave_out(conn, conversation, head.last_seq).await?;
    conversations::advance(conn, &[head]).await?;
    conn.execute(
        "UPDATE messaging.members SET read_seq = $3, delivered_seq = $3
          WHERE conversation_id = $1 AND user_id = $2 AND read_seq + 1 = $3",
        &[Value::I64(conversation.0), Value::I64(note.actor.0), Value::I64(head.last_seq)],
    )
    .await?;
    let event = NewEvent::of_conversation(Kind::MessageCreated, conversation, note.actor, head.last_sent_at);
    Ok(event.message(head.last_seq))
}

fn created(message: &Message) -> NewEvent<'static> {
    NewEvent::of_conversation(Kind::MessageCreated, message.conversation_id, message.sender_id, message.timestamp_sent)
        .message(message.seq)
}
