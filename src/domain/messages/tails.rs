//! The newest messages of conversations, rendered once and kept in memory.
//!
//! Invariants:
//! - A tail is used only if the conversation's row was read in the same request and has the same `content_version`. So
//!   tails are correct even if several nodes or other programs write to the database, and no messages are needed to
//!   invalidate them.
//! - A tail is the same for all readers. [`Tails::mark_own`] marks the reactions of one reader in a copy. A rename of a custom
//!   emoji does not change the `content_version`, so the same function sets the present names.
//! - The memory of all tails is limited by `CAPACITY_BYTES`.

use std::collections::HashMap;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::message_reads::complete;
use super::tallies;
use crate::base::error::Result;
use crate::base::ids::{ConversationId, MessageId};
use crate::base::time::Timestamp;
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::names::Names;
use crate::domain::shared::rendering::RenderMessage;
use crate::store;
use crate::store::conversations::conversations::Head;
use crate::store::db::Conn;
use crate::store::messages::messages::{Message, Range};

/// Maximum memory for all tails together, in bytes.
const CAPACITY_BYTES: u64 = 48 << 20;
/// Maximum number of messages in a tail.
const TAIL_LIMIT: usize = 64;
/// Memory of a message besides its text, and of a tail besides its messages, in bytes.
const OVERHEAD_BYTES: usize = 64;

/// A rendered message.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// When the message was sent.
    pub sent_at: Timestamp,
    /// The id of the message.
    pub id: MessageId,
    /// Its `seq` in its conversation.
    pub seq: i64,
    /// The JSON text.
    pub text: Arc<[u8]>,
    /// The message itself, to render it again with a reader's own reactions marked; `None` if the message has no
    /// reactions.
    reacted: Option<Arc<Reacted>>,
}

/// A message with reactions, and the user names in it.
#[derive(Debug)]
struct Reacted {
    message: Message,
    names: Names,
}

/// The last messages of a conversation, without gaps, oldest first.
struct Tail {
    content_version: i64,
    messages: Vec<Rendered>,
}

impl Tail {
    fn range(&self) -> Option<(i64, i64)> {
        Some((self.messages.first()?.seq, self.messages.last()?.seq))
    }
}

/// The cache of all tails. Cheap to clone.
#[derive(Clone)]
pub struct Tails {
    cache: Arc<Cache<ConversationId, Arc<Tail>, TailWeight>>,
    render: RenderMessage,
}

#[derive(Clone)]
struct TailWeight;

impl Weighter<ConversationId, Arc<Tail>> for TailWeight {
    fn weight(&self, _: &ConversationId, tail: &Arc<Tail>) -> u64 {
        let bytes: usize = tail.messages.iter().map(Rendered::bytes).sum();
        (bytes + OVERHEAD_BYTES) as u64
    }
}

impl Tails {
    /// Creates an empty cache of messages that `render` renders.
    pub fn new(render: RenderMessage) -> Self {
        let expected = (CAPACITY_BYTES / 4_096) as usize;
        Self { cache: Arc::new(Cache::with_weighter(expected, CAPACITY_BYTES, TailWeight)), render }
    }

    /// The messages of each range, oldest first. The heads must have been read in the same request.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn load(&self, conn: &mut Conn, wanted: &[(Head, Range)]) -> Result<Vec<Vec<Rendered>>> {
        let known: Vec<Option<Arc<Tail>>> = wanted.iter().map(|(head, _)| self.valid(head)).collect();
        let missing: Vec<Range> =
            wanted.iter().zip(&known).flat_map(|((_, range), tail)| uncovered(range, tail.as_deref())).collect();
        let mut loaded = if missing.is_empty() { HashMap::new() } else { self.read(conn, &missing).await? };
        let mut pages = Vec::with_capacity(wanted.len());
        for ((head, range), tail) in wanted.iter().zip(known) {
            let Some(mut fresh) = loaded.remove(&head.id) else {
                pages.push(tail.map(|tail| within(&tail.messages, range).to_vec()).unwrap_or_default());
                continue;
            };
            fresh.extend(tail.iter().flat_map(|tail| tail.messages.iter().cloned()));
            fresh.sort_unstable_by_key(|message| message.seq);
            pages.push(within(&fresh, range).to_vec());
            self.keep(head, fresh);
        }
        Ok(pages)
    }

    /// Renders again the messages whose cached text is not right for the reader: a cached message does not mark which reactions
    /// are the reader's own, and it may have an earlier name of a custom emoji. Makes no query if the messages have no reactions.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn mark_own(&self, conn: &mut Conn, viewer: Viewer, entries: &mut [Rendered]) -> Result<()> {
        let is_person = viewer != Viewer::Everything;
        let reacted: Vec<(usize, Arc<Reacted>)> = entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| Some((index, Arc::clone(entry.reacted.as_ref()?))))
            .filter(|(_, reacted)| is_person || tallies::has_custom(&reacted.message))
            .collect();
        if reacted.is_empty() {
            return Ok(());
        }
        let mut messages: Vec<Message> = reacted.iter().map(|(_, reacted)| reacted.message.clone()).collect();
        tallies::mark_own(conn, viewer, &mut messages).await?;
        tallies::set_names(conn, &mut messages).await?;
        for ((index, reacted), message) in reacted.iter().zip(&messages) {
            if message.decorations.reactions != reacted.message.decorations.reactions {
                entries[*index].text = (self.render)(message, &reacted.names)?.into();
            }
        }
        Ok(())
    }

    async fn read(&self, conn: &mut Conn, ranges: &[Range]) -> Result<HashMap<ConversationId, Vec<Rendered>>> {
        let mut messages = store::messages::messages::in_ranges(conn, ranges).await?;
        let names = complete(conn, &mut messages).await?;
        let mut loaded: HashMap<ConversationId, Vec<Rendered>> = HashMap::with_capacity(ranges.len());
        for message in messages {
            loaded.entry(message.conversation_id).or_default().push(Rendered::new(message, &names, self.render)?);
        }
        Ok(loaded)
    }

    fn valid(&self, head: &Head) -> Option<Arc<Tail>> {
        self.cache.get(&head.id).filter(|tail| tail.content_version == head.content_version)
    }

    /// Keeps messages as the new tail, if they include the newest message of the conversation.
    fn keep(&self, head: &Head, mut messages: Vec<Rendered>) {
        if messages.last().is_some_and(|last| last.seq == head.last_seq) {
            // The old tail may end before the first message that was read now. Then the new tail begins after the gap.
            let gap = messages.windows(2).rposition(|pair| pair[0].seq + 1 != pair[1].seq).map_or(0, |index| index + 1);
            let surplus = messages.len().saturating_sub(TAIL_LIMIT);
            messages.drain(..gap.max(surplus));
            messages.shrink_to_fit();
            self.cache.insert(head.id, Arc::new(Tail { content_version: head.content_version, messages }));
        }
    }
}

/// The part of `messages` that lies in the range. `messages` are ordered by seq.
fn within<'a>(messages: &'a [Rendered], range: &Range) -> &'a [Rendered] {
    let from = messages.partition_point(|message| message.seq < range.first_seq);
    let to = messages.partition_point(|message| message.seq <= range.last_seq);
    &messages[from..to]
}

/// The parts of a range that the tail does not hold: one below it and one above it.
fn uncovered(range: &Range, tail: Option<&Tail>) -> impl Iterator<Item = Range> + use<> {
    let below = |last_seq: i64| Range { last_seq: range.last_seq.min(last_seq), ..*range };
    let above = |first_seq: i64| Range { first_seq: range.first_seq.max(first_seq), ..*range };
    let parts = match tail.and_then(Tail::range) {
        None => [Some(*range), None],
        Some((first_seq, last_seq)) => [Some(below(first_seq - 1)), Some(above(last_seq + 1))],
    };
    parts.into_iter().flatten().filter(|part| part.first_seq <= part.last_seq)
}

impl Rendered {
    fn new(message: Message, names: &Names, render: RenderMessage) -> Result<Self> {
        let text = render(&message, names)?.into();
        let (sent_at, id, seq) = (message.timestamp_sent, message.id, message.seq);
        let reacted = (!message.decorations.reactions.is_empty()).then(|| {
            let people = [Some(message.sender_id), message.recipient_id, message.subject_id];
            let people = people.into_iter().flatten().chain(message.mentions.iter().copied());
            let names = people.filter_map(|id| Some((id, names.get(&id)?.clone()))).collect();
            Arc::new(Reacted { message, names })
        });
        Ok(Self { sent_at, id, seq, text, reacted })
    }

    /// The approximate memory of the message in bytes.
    fn bytes(&self) -> usize {
        let text = self.text.len() + OVERHEAD_BYTES;
        if self.reacted.is_some() { 2 * text } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(seqs: std::ops::RangeInclusive<i64>) -> Vec<Rendered> {
        let text: Arc<[u8]> = b"{}".as_slice().into();
        let rendered =
            |seq| Rendered { sent_at: Timestamp::MIN, id: MessageId(seq), seq, text: Arc::clone(&text), reacted: None };
        seqs.map(rendered).collect()
    }

    fn head(last_seq: i64, content_version: i64) -> Head {
        let (id, last_message_id) = (ConversationId(1), MessageId(last_seq));
        Head { id, last_seq, last_sent_at: Timestamp::MIN, last_message_id, content_version }
    }

    #[test]
    fn a_gap_ends_the_tail_and_does_not_keep_it_from_being_renewed() {
        let tails = Tails::new(|_, _| Ok(Vec::new()));
        let range = || tails.valid(&head(9, 0)).and_then(|tail| tail.range());
        tails.keep(&head(3, 0), messages(1..=3));
        assert_eq!(range(), Some((1, 3)));
        let mut with_gap = messages(1..=3);
        with_gap.extend(messages(8..=9));
        tails.keep(&head(9, 0), with_gap);
        assert_eq!(range(), Some((8, 9)));
        // Messages that do not include the newest one are not kept. A tail of another version is not used. The length
        // of a tail is limited.
        tails.keep(&head(12, 0), messages(1..=11));
        assert_eq!(range(), Some((8, 9)));
        assert!(tails.valid(&head(9, 1)).is_none());
        tails.keep(&head(200, 0), messages(1..=200));
        assert_eq!(range(), Some((137, 200)));
    }

    #[test]
    fn a_range_is_covered_from_the_tail_and_from_both_its_sides() {
        let tail = Tail { content_version: 0, messages: messages(5..=8) };
        let range = |first_seq, last_seq| Range { conversation_id: ConversationId(1), first_seq, last_seq };
        let parts = |first, last| {
            uncovered(&range(first, last), Some(&tail)).map(|part| (part.first_seq, part.last_seq)).collect::<Vec<_>>()
        };
        assert_eq!(parts(1, 10), [(1, 4), (9, 10)]);
        assert_eq!(parts(5, 8), []);
        assert_eq!(parts(1, 3), [(1, 3)]);
        assert_eq!(parts(9, 9), [(9, 9)]);
        assert_eq!(parts(6, 12), [(9, 12)]);
    }
}
