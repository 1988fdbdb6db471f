//! Rows of `messaging.messages`.
//!
//! Invariant: within one conversation `seq` has no gaps, and `(timestamp_sent, id)` rises with it. So a position in time is
//! found by binary search over `seq` with the primary key, and no index on the time is needed.

use super::digests::{Checked, Fields};
use super::link_previews::LinkPreview;
use super::reactions::Tally;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, MessageId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::columns::{Columns, columns, read, sql, word_column};
use crate::store::db::{Conn, Row, words};
use crate::store::driver::values::Value;
use crate::store::files::attachments::AttachmentList;
use crate::store::shared::idempotency::Digest;

/// A message as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Its number in the conversation: 1, 2, 3 …
    pub seq: i64,
    /// Unique in the whole database.
    pub id: MessageId,
    /// When it was added to the conversation.
    pub timestamp_sent: Timestamp,
    /// The kind of the message.
    pub kind: Kind,
    /// The sender.
    pub sender_id: UserId,
    /// The recipient, in a direct conversation.
    pub recipient_id: Option<UserId>,
    /// When the server accepted it.
    pub created_at: Timestamp,
    /// When it was delivered to the recipient, if the row contains this time. For most messages it is computed from the
    /// receipts instead (`domain::messages::watermarks`).
    pub timestamp_delivered: Option<Timestamp>,
    /// When the recipient read it. As for `timestamp_delivered`, only few rows contain it.
    pub timestamp_read: Option<Timestamp>,
    /// The `seq` of the message that it replies to.
    pub reply_to: Option<i64>,
    /// The text, byte for byte.
    pub body: String,
    /// When it was last edited.
    pub edited_at: Option<Timestamp>,
    /// When it was deleted. Its text is then empty.
    pub deleted_at: Option<Timestamp>,
    /// The action of a system message. Its body holds further details, such as a title.
    pub action: Option<Action>,
    /// The user who is affected by the action.
    pub subject_id: Option<UserId>,
    /// The mentioned users, in the order of the text. Filled in separately (`domain::messages::mentions`).
    pub mentions: Vec<UserId>,
    /// The files that were sent with it.
    pub attachments: AttachmentList,
    /// The preview of the first link in its text.
    pub link_preview: LinkPreview,
    /// The replies, reactions and pin that were added to it.
    pub decorations: Decorations,
}

impl Message {
    /// When the text was last written: by the last edit, or by the send. No later change has an earlier time, even when the
    /// clock was set back.
    pub fn last_changed_at(&self) -> Timestamp {
        self.edited_at.unwrap_or(self.timestamp_sent).max(self.timestamp_sent)
    }

    /// The digest of the fields that identify the message and of its content. It leaves out the fields that statements
    /// change without reading the message: the times of delivery and reading, the replies, reactions and pin, and the
    /// idempotency key of the send.
    pub(in crate::store) fn digest(&self) -> i64 {
        // Stored digests depend on the order and the width of the fields, so both must not change.
        let mut fields = Fields::<22>::default();
        fields.put(self.conversation_id.0);
        fields.put(self.seq);
        fields.put(self.id.0);
        fields.put(self.timestamp_sent.micros());
        fields.put_text(self.kind.as_str());
        fields.put(self.sender_id.0);
        fields.put_option(self.recipient_id.map(|id| id.0));
        fields.put(self.created_at.micros());
        fields.put_option(self.reply_to);
        fields.put_text(&self.body);
        fields.put_option(self.edited_at.map(|at| at.micros()));
        fields.put_option(self.deleted_at.map(|at| at.micros()));
        fields.put_text(self.action.map(|action| action.as_str()).unwrap_or_default());
        fields.put_option(self.subject_id.map(|id| id.0));
        // So that the digests of messages without attachments and previews are those of versions that did not know these.
        let mut digest = fields.digest();
        if let Some(attachments) = self.attachments.stored() {
            let mut fields = Fields::<3>::default();
            fields.put(digest);
            fields.put_text(attachments);
            digest = fields.digest();
        }
        if let Some(preview) = self.link_preview.stored() {
            // The longer list differs from that of a message with attachments.
            let mut fields = Fields::<4>::default();
            fields.put(digest);
            fields.put_text(preview);
            fields.put(0);
            digest = fields.digest();
        }
        digest
    }
}

/// The replies, reactions and pin of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decorations {
    /// The number of replies, without tombstones.
    pub reply_count: i64,
    /// When the last of these replies was sent.
    pub last_reply_at: Option<Timestamp>,
    /// When the message was pinned. `None` when it is not pinned.
    pub pinned_at: Option<Timestamp>,
    /// The reactions, in the order in which each emoji was first added.
    pub reactions: Vec<Tally>,
}

/// A message to append, with the other values of its row.
#[derive(Clone, Copy, Debug)]
pub struct NewRow<'a> {
    /// The message.
    pub message: &'a Message,
    /// The idempotency key under which the answer to its send is stored, if there is one.
    pub key: Option<(i64, &'a Digest)>,
    /// Whether the send moves the sender's watermarks to this message.
    pub follows: bool,
}

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Written by a user.
    Text,
    /// Written by the server about the conversation: a system message.
    System,
}

impl Kind {
    /// The word in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::System => "system",
        }
    }

    /// The kind with this word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`].
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("messages.kind", &[Self::Text, Self::System], Self::as_str, word)
    }
}

/// The action that a system message reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is its word")]
pub enum Action {
    GroupCreated,
    TitleChanged,
    AvatarChanged,
    HistoryChanged,
    MemberAdded,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    RoleChanged,
}

impl Action {
    const ALL: [Self; 9] = [
        Self::GroupCreated,
        Self::TitleChanged,
        Self::AvatarChanged,
        Self::HistoryChanged,
        Self::MemberAdded,
        Self::MemberJoined,
        Self::MemberLeft,
        Self::MemberRemoved,
        Self::RoleChanged,
    ];

    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GroupCreated => "group_created",
            Self::TitleChanged => "title_changed",
            Self::AvatarChanged => "avatar_changed",
            Self::HistoryChanged => "history_changed",
            Self::MemberAdded => "member_added",
            Self::MemberJoined => "member_joined",
            Self::MemberLeft => "member_left",
            Self::MemberRemoved => "member_removed",
            Self::RoleChanged => "role_changed",
        }
    }

    pub(in crate::store) fn parse(word: &str) -> Result<Self> {
        words::parse("messages.action", &Self::ALL, Self::as_str, word)
    }
}

/// A range of `seq` in one conversation. Both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The first `seq`.
    pub first_seq: i64,
    /// The last `seq`.
    pub last_seq: i64,
}

word_column!(Kind);
word_column!(Action);

/// A row of `messaging.messages` that has not been compared with its digest.
pub(in crate::store) struct StoredMessage {
    message: Message,
    digest: Option<i64>,
}

columns! {
    StoredMessage {
        conversation_id: "m.conversation_id",
        seq: "m.seq",
        id: "m.id",
        timestamp_sent: "m.timestamp_sent",
        kind: "m.kind",
        sender_id: "m.sender_id",
        recipient_id: "m.recipient_id",
        created_at: "m.created_at",
        timestamp_delivered: "m.timestamp_delivered",
        timestamp_read: "m.timestamp_read",
        reply_to: "m.reply_to",
        body: "m.body",
        edited_at: "m.edited_at",
        deleted_at: "m.deleted_at",
        action: "m.action",
        subject_id: "m.subject_id",
        attachments: "m.attachments",
        link_preview: "m.link_preview",
        reply_count: "m.reply_count",
        last_reply_at: "m.last_reply_at",
        pinned_at: "m.pinned_at",
        reactions: "m.reaction_counts",
        digest: "m.digest",
    } => StoredMessage {
        message: Message {
            conversation_id,
            seq,
            id,
            timestamp_sent,
            kind,
            sender_id,
            recipient_id,
            created_at,
            timestamp_delivered,
            timestamp_read,
            reply_to,
            body,
            edited_at,
            deleted_at,
            action,
            subject_id,
            mentions: Vec::new(),
            attachments,
            link_preview,
            decorations: Decorations { reply_count, last_reply_at, pinned_at, reactions },
        },
        digest,
    }
}

/// Reads a message from `StoredMessage::COLUMNS`, which begin at column `next`, and compares it with its digest. Only this
/// function turns a row into a [`Message`].
fn checked_message(row: &Row<'_>, next: &mut usize) -> Result<(Message, Checked)> {
    let place = *next;
    let damaged = |source| Error::Damaged {
        conversation_id: row.i64(place).unwrap_or_default(),
        seq: row.i64(place + 1).unwrap_or_default(),
        source,
    };
    match StoredMessage::read_from(row, next) {
        Ok(StoredMessage { message, digest: Some(digest) }) if digest != message.digest() => {
            Err(damaged("it does not match its digest".into()))
        }
        Ok(StoredMessage { message, digest: Some(_) }) => Ok((message, Checked::Matches)),
        Ok(StoredMessage { message, digest: None }) => Ok((message, Checked::NoDigest)),
        // A value of another type, or a text that is not UTF-8.
        Err(Error::Internal(source)) => Err(damaged(source)),
        Err(error @ Error::UnknownValue { .. }) => Err(damaged(error.to_string().into())),
        Err(error) => Err(error),
    }
}

/// A message, or an error that describes its damage. Its columns must be the last ones of the row.
impl Columns<'_> for Result<Message> {
    fn read_from(row: &Row<'_>, next: &mut usize) -> Result<Self> {
        Ok(checked_message(row, next).map(|(message, _)| message))
    }
}

/// All messages of all ranges, in no particular order.
///
/// # Errors
/// [`Error::Damaged`] when one of them is damaged; errors of the database.
pub async fn in_ranges(conn: &mut Conn, ranges: &[Range]) -> Result<Vec<Message>> {
    each_in_ranges(conn, ranges).await?.into_iter().collect()
}

/// All messages of all ranges, in no particular order. A damaged message is an error in the list.
async fn each_in_ranges(conn: &mut Conn, ranges: &[Range]) -> Result<Vec<Result<Message>>> {
    if let Conn::Sqlite(_) = conn {
        let mut messages =
            Vec::with_capacity(ranges.iter().map(|range| (range.last_seq - range.first_seq + 1) as usize).sum());
        for range in ranges {
            let found = conn
                .rows(
                    sql!(
                        "SELECT ",
                        StoredMessage::COLUMNS,
                        " FROM messaging.messages m WHERE m.conversation_id = $1 AND m.seq BETWEEN $2 AND $3"
                    ),
                    &[Value::I64(range.conversation_id.0), Value::I64(range.first_seq), Value::I64(range.last_seq)],
                    read::<Result<Message>>,
                )
                .await?;
            messages.extend(found);
        }
        return Ok(messages);
    }
    let conversations: Vec<i64> = ranges.iter().map(|range| range.conversation_id.0).collect();
    let first: Vec<i64> = ranges.iter().map(|range| range.first_seq).collect();
    let last: Vec<i64> = ranges.iter().map(|range| range.last_seq).collect();
    conn.rows(
        sql!(
            "SELECT ",
            StoredMessage::COLUMNS,
            " FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS r (conversation_id, first_seq, last_seq)
              JOIN messaging.messages m
                ON m.conversation_id = r.conversation_id AND m.seq BETWEEN r.first_seq AND r.last_seq"
        ),
        &[Value::I64s(&conversations), Value::I64s(&first), Value::I64s(&last)],
        read,
    )
    .await
}

/// One message. `None` when it does not exist.
pub async fn one(conn: &mut Conn, conversation: ConversationId, seq: i64) -> Result<Option<Message>> {
    let range = Range { conversation_id: conversation, first_seq: seq, last_seq: seq };
    Ok(in_ranges(conn, &[range]).await?.into_iter().next())
}

/// The conversation and `seq` of a message. `None` when it does not exist.
pub async fn place_of(conn: &mut Conn, id: MessageId) -> Result<Option<(ConversationId, i64)>> {
    conn.first("SELECT conversation_id, seq FROM messaging.messages WHERE id = $1", &[Value::I64(id.0)], read).await
}

/// Messages of a conversation with the given `seq`s, in the order of `seqs`.
pub async fn by_seqs(conn: &mut Conn, conversation: ConversationId, seqs: &[i64]) -> Result<Vec<Message>> {
    let places: Vec<(ConversationId, i64)> = seqs.iter().map(|seq| (conversation, *seq)).collect();
    let mut found = at(conn, &places).await?;
    found.sort_unstable_by_key(|message| seqs.iter().position(|seq| *seq == message.seq));
    Ok(found)
}

/// The messages at the given places, in no particular order, without duplicates.
///
/// # Errors
/// [`Error::Damaged`] when one of them is damaged; errors of the database.
pub async fn at(conn: &mut Conn, places: &[(ConversationId, i64)]) -> Result<Vec<Message>> {
    each_at(conn, places).await?.into_iter().collect()
}

/// As [`at`], for work that must continue when a message is damaged. A damaged message is an error in the list.
pub async fn each_at(conn: &mut Conn, places: &[(ConversationId, i64)]) -> Result<Vec<Result<Message>>> {
    let mut places = places.to_vec();
    places.sort_unstable();
    places.dedup();
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let range = |(conversation_id, seq): &(ConversationId, i64)| Range {
        conversation_id: *conversation_id,
        first_seq: *seq,
        last_seq: *seq,
    };
    each_in_ranges(conn, &places.iter().map(range).collect::<Vec<_>>()).await
}

/// The next messages of the whole database after a place, in the order of conversation and `seq`. Each comes with its place.
/// A damaged message is an error in the list.
pub async fn list_after(
    conn: &mut Conn,
    (conversation, seq): (ConversationId, i64),
    limit: i64,
) -> Result<Vec<((ConversationId, i64), Result<Checked>)>> {
    conn.rows(
        sql!(
            "SELECT ",
            StoredMessage::COLUMNS,
            " FROM messaging.messages m WHERE (m.conversation_id, m.seq) > ($1, $2)
               ORDER BY m.conversation_id, m.seq LIMIT $3"
        ),
        &[Value::I64(conversation.0), Value::I64(seq), Value::I64(limit)],
        |row| Ok((read(row)?, checked_message(row, &mut 0).map(|(_, checked)| checked))),
    )
    .await
}

/// The number of messages of each conversation before `(sent_at, id)`. It equals the `seq` of the last of them, which is
/// found by binary search.
pub async fn count_before(
    conn: &mut Conn,
    conversations: &[i64],
    sent_at: Timestamp,
    id: MessageId,
) -> Result<Vec<(ConversationId, i64)>> {
    conn.rows(
        "WITH RECURSIVE halving (conversation_id, before, behind) AS (
             SELECT c.id, CAST(0 AS BIGINT), c.last_seq + 1 FROM messaging.conversations c WHERE c.id = ANY($1)
             UNION ALL
             SELECT h.conversation_id,
                    CASE WHEN (m.timestamp_sent, m.id) < ($2, $3) THEN m.seq ELSE h.before END,
                    CASE WHEN (m.timestamp_sent, m.id) < ($2, $3) THEN h.behind ELSE m.seq END
               FROM halving h JOIN messaging.messages m
                 ON m.conversation_id = h.conversation_id AND m.seq = (h.before + h.behind) / 2
              WHERE h.behind - h.before > 1)
         SELECT conversation_id, before FROM halving WHERE behind - before <= 1",
        &[Value::I64s(conversations), Value::Time(sent_at), Value::I64(id.0)],
        |row| Ok((ConversationId(row.i64(0)?), row.i64(1)?)),
    )
    .await
}

/// Takes `count` ascending message ids. Only for SQLite. PostgreSQL has a sequence.
pub(in crate::store) async fn next_ids(conn: &mut Conn, count: usize) -> Result<Vec<i64>> {
    let count = count as i64;
    let last = conn
        .one(
            "UPDATE messaging.messaging_sequence SET last_value = last_value + $1 RETURNING last_value",
            &[Value::I64(count)],
            |row| row.i64(0),
        )
        .await?;
    Ok((last - count + 1..=last).collect())
}

/// Appends messages with one statement each. Only for SQLite.
pub(in crate::store) async fn append(conn: &mut Conn, rows: &[NewRow<'_>]) -> Result<()> {
    for NewRow { message, key, .. } in rows {
        conn.execute(
            "INSERT INTO messaging.messages (conversation_id, seq, id, timestamp_sent, kind, sender_id, recipient_id,
                                             created_at, reply_to, body, idempotency_day, idempotency_digest, digest,
                                             attachments, link_preview)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
            &[
                Value::I64(message.conversation_id.0),
                Value::I64(message.seq),
                Value::I64(message.id.0),
                Value::Time(message.timestamp_sent),
                Value::Text(message.kind.as_str()),
                Value::I64(message.sender_id.0),
                Value::OptionI64(message.recipient_id.map(|id| id.0)),
                Value::Time(message.created_at),
                Value::OptionI64(message.reply_to),
                Value::Text(&message.body),
                Value::OptionI64(key.map(|(day, _)| day)),
                Value::OptionBytes(key.map(|(_, digest)| digest.as_slice())),
                Value::I64(message.digest()),
                Value::OptionText(message.attachments.stored()),
                Value::OptionText(message.link_preview.stored()),
            ],
        )
        .await?;
    }
    Ok(())
}
