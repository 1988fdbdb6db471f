//! A batch of sends, decided and written together.
//!
//! Invariants:
//! - What is expected to fail is sorted out first, draft by draft; what is left is written by one statement a table.
//! - Locks are taken in one order everywhere: people who are to have a new direct conversation (by id), pairs of new direct conversations (sorted), conversations (by id),
//!   idempotency keys (sorted), the event log's counter. So nothing deadlocks.
//! - `seq`, `id` and `timestamp_sent` are given under the conversation's lock and rise together.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::idempotency::{KeyedRequest, Record, days_kept, neighbouring_days};
use super::messages::{Answer, Draft, Keyed, Kind, Message, Names, Recipient, Sender, Sent};
use crate::error::{Error, FieldError, Result};
use crate::ids::{ConversationId, MessageId, UserId};
use crate::store::conversations::{Head, Pair};
use crate::store::messages::NewRow;
use crate::store::users::UserName;
use crate::store::{self, Conn};
use crate::text::fold_ascii;
use crate::time::{Clock, Timestamp};

/// Drafts that are sent in one transaction.
#[derive(Clone, Debug)]
pub struct Batch {
    clock: Clock,
    drafts: Vec<Draft>,
}

impl Batch {
    /// At least one draft; no idempotency key twice.
    pub fn new(clock: Clock, drafts: Vec<Draft>) -> Self {
        Self { clock, drafts }
    }

    /// The drafts, each a batch of its own.
    pub fn one_by_one(&self) -> impl Iterator<Item = Self> + '_ {
        self.drafts.iter().map(|draft| Self { clock: self.clock.clone(), drafts: vec![draft.clone()] })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.drafts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }
}

/// A draft on its way: who, where, and what it becomes.
struct Placed<'a> {
    index: usize,
    draft: &'a Draft,
    sender: UserName,
    recipient: Option<UserName>,
    conversation: Target,
}

enum Target {
    Exists(ConversationId),
    New(Pair),
}

/// Sends every draft that may be sent; one answer a draft, in their order.
///
/// # Errors
/// Only what fails all of them; then nothing was written.
pub async fn send_all(conn: &mut Conn, batch: &Batch) -> Result<Vec<Result<Answer>>> {
    let now = batch.clock.now();
    let mut answers: Vec<Option<Result<Answer>>> = Vec::new();
    answers.resize_with(batch.drafts.len(), || None);
    replay(conn, now, &batch.drafts, &mut answers).await?;
    let placed = place(conn, &batch.drafts, &mut answers).await?;
    let placed = make_conversations(conn, now, placed, &mut answers).await?;
    if !placed.is_empty() {
        write(conn, now, placed, &mut answers).await?;
    }
    Ok(answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(|| Err(Error::internal("a draft got no answer"))))
        .collect())
}

async fn replay(
    conn: &mut Conn,
    now: Timestamp,
    drafts: &[Draft],
    answers: &mut [Option<Result<Answer>>],
) -> Result<()> {
    let keyed = || drafts.iter().enumerate().filter_map(|(index, draft)| Some((index, draft.keyed.as_ref()?)));
    let digests: Vec<&[u8]> = keyed().map(|(_, keyed)| keyed.request.digest.as_slice()).collect();
    if digests.is_empty() {
        return Ok(());
    }
    let records = store::idempotency::find(conn, &days_kept(now), &digests).await?;
    for (index, keyed) in keyed() {
        if let Some(record) = records.iter().find(|record| record.digest == keyed.request.digest) {
            let replayed = keyed.request.replay(record);
            answers[index] = Some(replayed.map(|answer| Answer::Stored { answer, replayed: true }));
        }
    }
    Ok(())
}

/// Looks everyone up, and sorts out what cannot be sent.
async fn place<'a>(
    conn: &mut Conn,
    drafts: &'a [Draft],
    answers: &mut [Option<Result<Answer>>],
) -> Result<Vec<Placed<'a>>> {
    let open: Vec<(usize, &Draft)> = drafts.iter().enumerate().filter(|(index, _)| answers[*index].is_none()).collect();
    let people = people(conn, &open).await?;
    let members = direct_members(conn, &open).await?;
    let mut placed = Vec::with_capacity(open.len());
    for (index, draft) in open {
        let mut unknown = Vec::new();
        let sender = match &draft.sender {
            Sender::Known(person) => people.get(&person.user_name_key).filter(|found| found.id == person.id).cloned(),
            Sender::Named(key) => people.get(key.as_str()).cloned(),
        };
        if let (None, Sender::Known(_)) = (&sender, &draft.sender) {
            // Erased since they were let in.
            answers[index] = Some(Err(Error::Unauthenticated));
            continue;
        }
        if sender.is_none() {
            unknown.push(FieldError::new("sender_user_name", "user_not_found", "names no user"));
        }
        let recipient = match &draft.recipient {
            Recipient::Direct(key) => {
                let person = people.get(key.as_str()).cloned();
                if person.is_none() {
                    unknown.push(FieldError::new("recipient_user_name", "user_not_found", "names no user"));
                }
                person
            }
            Recipient::Conversation(_) => None,
        };
        let (Some(sender), true) = (sender, unknown.is_empty()) else {
            answers[index] = Some(Err(Error::Invalid(unknown)));
            continue;
        };
        let (recipient, conversation) = match (recipient, &draft.recipient) {
            (Some(recipient), _) => {
                let pair = Pair::new(sender.id, recipient.id);
                (Some(recipient), Target::New(pair))
            }
            (None, Recipient::Conversation(id)) => match other_member(&members, *id, sender.id) {
                Some(Some(other)) => (Some(other), Target::Exists(*id)),
                Some(None) => {
                    let gone = "has nobody left to write to: the other one was erased";
                    answers[index] = Some(Err(Error::invalid("conversation_id", "user_not_found", gone)));
                    continue;
                }
                None => {
                    answers[index] = Some(Err(conversation_not_found()));
                    continue;
                }
            },
            (None, Recipient::Direct(_)) => continue,
        };
        placed.push(Placed { index, draft, sender, recipient, conversation });
    }
    Ok(placed)
}

async fn people(conn: &mut Conn, drafts: &[(usize, &Draft)]) -> Result<HashMap<String, UserName>> {
    let mut keys = BTreeSet::new();
    for (_, draft) in drafts {
        // Who is known was so when they were let in: they may have been erased since.
        keys.insert(match &draft.sender {
            Sender::Named(key) => key.as_str(),
            Sender::Known(person) => &person.user_name_key,
        });
        if let Recipient::Direct(key) = &draft.recipient {
            keys.insert(key.as_str());
        }
    }
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let keys: Vec<&str> = keys.into_iter().collect();
    let found = store::users::names_by_keys(conn, &keys).await?;
    Ok(found.into_iter().map(|user| (user.user_name_key.clone(), user)).collect())
}

/// The members of direct conversations, without a name where they were erased.
type DirectMembers = HashMap<ConversationId, Vec<(UserId, Option<UserName>)>>;

async fn direct_members(conn: &mut Conn, drafts: &[(usize, &Draft)]) -> Result<DirectMembers> {
    let ids: BTreeSet<i64> = drafts
        .iter()
        .filter_map(|(_, draft)| match draft.recipient {
            Recipient::Conversation(id) => Some(id.0),
            Recipient::Direct(_) => None,
        })
        .collect();
    if ids.is_empty() {
        return Ok(DirectMembers::new());
    }
    let ids: Vec<i64> = ids.into_iter().collect();
    let rows = store::conversations::direct_members(conn, &ids).await?;
    let people: BTreeSet<i64> = rows.iter().map(|(_, user)| user.0).collect();
    let people: Vec<i64> = people.into_iter().collect();
    let names: Names = store::users::names_by_ids(conn, &people).await?.into_iter().collect();
    let mut members = DirectMembers::new();
    for (conversation, id) in rows {
        let name = names.get(&id).map(|name| UserName { id, user_name_key: fold_ascii(name), user_name: name.clone() });
        members.entry(conversation).or_default().push((id, name));
    }
    Ok(members)
}

/// The other one in a direct conversation, or oneself in notes to oneself; `None` for who is not in it, and `Some(None)`
/// where the other one was erased.
fn other_member(members: &DirectMembers, conversation: ConversationId, sender: UserId) -> Option<Option<UserName>> {
    let members = members.get(&conversation)?;
    let own = members.iter().find(|(id, _)| *id == sender)?;
    Some(members.iter().find(|(id, _)| *id != sender).unwrap_or(own).1.clone())
}

/// There is no such conversation for this sender.
pub fn conversation_not_found() -> Error {
    Error::NotFound { code: "conversation_not_found", detail: "there is no such conversation".into() }
}

/// Turns pairs into conversations: those that exist, and the ones made now.
async fn make_conversations<'a>(
    conn: &mut Conn,
    now: Timestamp,
    placed: Vec<Placed<'a>>,
    answers: &mut [Option<Result<Answer>>],
) -> Result<Vec<Placed<'a>>> {
    let wanted: BTreeSet<Pair> = placed
        .iter()
        .filter_map(|placed| match placed.conversation {
            Target::New(pair) => Some(pair),
            Target::Exists(_) => None,
        })
        .collect();
    let wanted: Vec<Pair> = wanted.into_iter().collect();
    let mut known: BTreeMap<Pair, ConversationId> = if wanted.is_empty() {
        BTreeMap::new()
    } else {
        store::conversations::direct(conn, &wanted).await?.into_iter().collect()
    };
    let new: BTreeSet<i64> =
        wanted.iter().filter(|pair| !known.contains_key(pair)).flat_map(|pair| [pair.lower.0, pair.higher.0]).collect();
    if !new.is_empty() {
        // An erasure looks for the conversations of its person: it must not miss one that is about to be there.
        let new: Vec<i64> = new.into_iter().collect();
        if !store::users::hold(conn, &new).await? {
            return Err(store::sends::somebody_went());
        }
    }
    for pair in &wanted {
        // The first message of a conversation has nothing to answer: it must not make one by failing.
        let opener = placed.iter().find(|placed| {
            matches!(placed.conversation, Target::New(its) if its == *pair) && placed.draft.reply_to.is_none()
        });
        if let (false, Some(opener)) = (known.contains_key(pair), opener) {
            let (id, _) = store::conversations::create_direct(conn, *pair, opener.sender.id, now).await?;
            known.insert(*pair, id);
        }
    }
    let mut kept = Vec::with_capacity(placed.len());
    for mut placed in placed {
        if let Target::New(pair) = placed.conversation {
            let Some(id) = known.get(&pair) else {
                answers[placed.index] = Some(Err(reply_to_not_found()));
                continue;
            };
            placed.conversation = Target::Exists(*id);
        }
        kept.push(placed);
    }
    Ok(kept)
}

fn reply_to_not_found() -> Error {
    Error::invalid("reply_to", "message_not_found", "is not the seq of a message of this conversation")
}

/// Gives seqs, ids and times under the lock, and writes everything.
async fn write(
    conn: &mut Conn,
    now: Timestamp,
    placed: Vec<Placed<'_>>,
    answers: &mut [Option<Result<Answer>>],
) -> Result<()> {
    let ids: BTreeSet<i64> = placed.iter().filter_map(Placed::conversation_id).map(|id| id.0).collect();
    let ids: Vec<i64> = ids.into_iter().collect();
    let (heads, message_ids) = store::sends::lock_and_number(conn, &ids, placed.len()).await?;
    let mut heads: HashMap<ConversationId, Head> = heads.into_iter().map(|head| (head.id, head)).collect();
    let mut sent = Vec::with_capacity(placed.len());
    for (placed, id) in placed.into_iter().zip(message_ids) {
        let head = placed.conversation_id().and_then(|id| heads.get_mut(&id));
        let Some(head) = head else {
            answers[placed.index] = Some(Err(conversation_not_found()));
            continue;
        };
        if placed.draft.reply_to.is_some_and(|seq| seq > head.last_seq) {
            answers[placed.index] = Some(Err(reply_to_not_found()));
            continue;
        }
        head.last_seq += 1;
        // A clock that was set back must not turn the order around.
        head.last_sent_at = head.last_sent_at.max(now);
        head.last_message_id = MessageId(id);
        sent.push((placed.index, placed.draft.keyed.as_ref(), placed.become_message(head)));
    }
    if sent.is_empty() {
        return Ok(());
    }
    let mut heads: Vec<Head> = heads.into_values().filter(|head| head.last_seq > 0).collect();
    heads.sort_unstable_by_key(|head| head.id);
    let records: Vec<Record> =
        sent.iter().filter_map(|(_, keyed, sent)| keyed.map(|keyed| record(keyed, sent))).collect();
    store_records(conn, now, &records).await?;
    let rows: Vec<NewRow<'_>> = sent
        .iter()
        .map(|(_, keyed, sent)| NewRow {
            message: &sent.message,
            key: keyed.map(|keyed| (now.day(), &keyed.request.digest)),
        })
        .collect();
    store::sends::append(conn, &heads, &rows).await?;
    let mut records = records.into_iter();
    for (index, keyed, sent) in sent {
        answers[index] = Some(Ok(match keyed.and_then(|_| records.next()) {
            None => Answer::Sent(Box::new(sent)),
            Some(record) => Answer::Stored { answer: record.answer, replayed: false },
        }));
    }
    Ok(())
}

fn record(keyed: &Keyed, sent: &Sent) -> Record {
    let KeyedRequest { digest, request_hash, .. } = keyed.request;
    Record { digest, request_hash, answer: (keyed.render)(sent), subject_id: None }
}

async fn store_records(conn: &mut Conn, now: Timestamp, records: &[Record]) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let mut records: Vec<&Record> = records.iter().collect();
    records.sort_unstable_by_key(|record| record.digest);
    // Two nodes on either side of midnight do not meet at the key's row, but at the lock of the conversation: what the one
    // has committed, the other sees from here on.
    let days = neighbouring_days(now);
    if !days.is_empty() {
        let digests: Vec<&[u8]> = records.iter().map(|record| record.digest.as_slice()).collect();
        if !store::idempotency::find(conn, &days, &digests).await?.is_empty() {
            return Err(Error::Rerun("another node had a key of the batch, on another day".into()));
        }
    }
    match store::idempotency::insert(conn, now.day(), &records).await {
        // Another node had the same key in the same moment: run again, its answer is there to be found now.
        Err(Error::Duplicate { constraint }) => Err(Error::Rerun(constraint.into())),
        outcome => outcome,
    }
}

impl Placed<'_> {
    fn conversation_id(&self) -> Option<ConversationId> {
        match self.conversation {
            Target::Exists(id) => Some(id),
            Target::New(_) => None,
        }
    }

    fn become_message(self, head: &Head) -> Sent {
        Sent {
            message: Message {
                conversation_id: head.id,
                seq: head.last_seq,
                id: head.last_message_id,
                timestamp_sent: head.last_sent_at,
                kind: Kind::Text,
                sender_id: self.sender.id,
                recipient_id: self.recipient.as_ref().map(|recipient| recipient.id),
                created_at: head.last_sent_at,
                timestamp_delivered: None,
                timestamp_read: None,
                reply_to: self.draft.reply_to,
                body: self.draft.body.clone(),
                deleted_at: None,
            },
            sender_user_name: self.sender.user_name,
            recipient_user_name: self.recipient.map(|recipient| recipient.user_name),
        }
    }
}
