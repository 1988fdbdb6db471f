//! Watermarks: up to where each member of a conversation has received and read messages. The number of unread messages,
//! and the times when a message was delivered and read, are computed from them.
//!
//! Invariant: watermarks never go back, and a message that is read is also delivered.

use std::collections::BTreeMap;

use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::domain::access::membership::RECEIPTS_MEMBER_LIMIT;
use crate::store;
use crate::store::db::Conn;
use crate::store::messages::messages::{Message, Range};
use crate::store::messages::receipts::Progress;
pub use crate::store::messages::receipts::{Kind, Watermarks};
use crate::store::messages::unread::Span;

/// A receipt as a member sends it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// The last `seq` that was delivered.
    pub delivered_seq: Option<i64>,
    /// The last `seq` that was read.
    pub read_seq: Option<i64>,
    /// The first message that counts as unread, even if it was read; `Some(None)` removes this marker.
    pub unread_from: Option<Option<i64>>,
}

/// The watermarks of a member, and the number of unread messages and mentions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The watermarks.
    pub watermarks: Watermarks,
    /// Number of unread messages.
    pub unread_count: i64,
    /// How many of the messages that the member has not read mention the member.
    pub mention_count: i64,
}

/// The state of a member from which follows which messages are unread.
#[derive(Clone, Copy, Debug)]
pub struct ReadState {
    /// The watermark of read messages.
    pub read_seq: i64,
    /// The first message that the member has marked as unread.
    pub unread_from: Option<i64>,
    /// Messages below this `seq` were dismissed when the member hid the conversation. The other members do not see this.
    pub hidden_below_seq: i64,
    /// The first message that the member sees.
    pub first_seq: i64,
}

impl ReadState {
    /// The messages that count as unread, up to `last_seq`. Messages that the member does not see are never counted.
    pub fn span(&self, conversation: ConversationId, user: UserId, last_seq: i64) -> Span {
        let seen = self.read_seq.max(self.hidden_below_seq - 1);
        let unread_after = self.unread_from.map_or(seen, |seq| seen.min(seq - 1));
        let [unread_after, mentions_after] = [unread_after, seen].map(|seq| seq.max(self.first_seq - 1));
        Span { conversation, user, unread_after, mentions_after, last_seq }
    }
}

/// Checks that `delivered_seq` and `read_seq` are in `first..=last`, and `unread_from` in `first_seen..=last`.
///
/// # Errors
/// 422 for each field that is out of range.
pub fn assert_within(report: &Report, first: i64, last: i64, first_seen: i64) -> Result<()> {
    let seqs = [
        ("delivered_seq", report.delivered_seq, first),
        ("read_seq", report.read_seq, first),
        ("unread_from", report.unread_from.flatten(), first_seen),
    ];
    let wrong = seqs.into_iter().filter(|(_, seq, first)| seq.is_some_and(|seq| !(*first..=last).contains(&seq)));
    let errors: Vec<FieldError> = wrong
        .map(|(field, ..)| FieldError::new(field, "out_of_range", "must be the seq of a message of this conversation"))
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(Error::Invalid(errors)) }
}

/// The watermarks after a report. Also returns each watermark that rises, with its new `seq`.
pub fn step(before: Watermarks, report: &Report, last_seq: i64) -> (Watermarks, Vec<(Kind, i64)>) {
    let read_seq = before.read_seq.max(report.read_seq.unwrap_or(0));
    let delivered_seq = before.delivered_seq.max(report.delivered_seq.unwrap_or(0)).max(read_seq);
    // The marker is removed if the member reads further messages, or reports the last message as read.
    let removes_marker = read_seq > before.read_seq || report.read_seq == Some(last_seq);
    let kept = before.unread_from.filter(|_| !removes_marker);
    let after = Watermarks { delivered_seq, read_seq, unread_from: report.unread_from.unwrap_or(kept) };
    let steps = [(Kind::Delivered, before.delivered_seq, delivered_seq), (Kind::Read, before.read_seq, read_seq)];
    (after, steps.into_iter().filter(|(_, from, to)| from < to).map(|(kind, _, to)| (kind, to)).collect())
}

/// Sets the times when messages were delivered and read, except times that are stored with the message.
///
/// # Errors
/// Errors of the database.
pub async fn set_times(conn: &mut Conn, messages: &mut [Message]) -> Result<()> {
    let mut ranges: BTreeMap<ConversationId, Range> = BTreeMap::new();
    for message in messages.iter_mut() {
        if message.recipient_id == Some(message.sender_id) {
            // A note to oneself is delivered and read when it is sent.
            message.timestamp_delivered = message.timestamp_delivered.or(Some(message.timestamp_sent));
            message.timestamp_read = message.timestamp_read.or(Some(message.timestamp_sent));
        }
        if message.timestamp_delivered.is_none() || message.timestamp_read.is_none() {
            let (conversation_id, seq) = (message.conversation_id, message.seq);
            let alone = Range { conversation_id, first_seq: seq, last_seq: seq };
            let range = ranges.entry(conversation_id).or_insert(alone);
            range.first_seq = range.first_seq.min(seq);
            range.last_seq = range.last_seq.max(seq);
        }
    }
    if ranges.is_empty() {
        return Ok(());
    }
    let ranges: Vec<Range> = ranges.into_values().collect();
    let progress = store::messages::receipts::progress(conn, &ranges, RECEIPTS_MEMBER_LIMIT).await?;
    for message in messages {
        let Some(members) = progress.get(&message.conversation_id) else { continue };
        let delivered = reached(message, members, Kind::Delivered);
        let read = reached(message, members, Kind::Read);
        message.timestamp_delivered = message.timestamp_delivered.or(delivered);
        message.timestamp_read = message.timestamp_read.or(read);
    }
    Ok(())
}

/// When a message was delivered or read: by its recipient, or in a group by all present members who had joined before
/// it. `None` if one of these users has not received or read it, or if there is no such user.
fn reached(message: &Message, members: &[Progress], kind: Kind) -> Option<Timestamp> {
    let must_reach = |member: &&Progress| match message.recipient_id {
        Some(recipient) => member.user == recipient,
        None => member.user != message.sender_id && member.joined_seq < message.seq,
    };
    let mut latest = None;
    for member in members.iter().filter(must_reach) {
        latest = latest.max(Some(member.reached(kind, message.seq)?));
    }
    latest
}
