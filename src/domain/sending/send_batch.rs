//! A batch of sends, decided and written together.
//!
//! Invariants:
//! - What is expected to fail is sorted out first, draft by draft; what is left is written by one statement a table.
//! - Locks are taken in one order everywhere: people who are to have a new direct conversation (by id), pairs of new
//!   direct conversations (sorted), conversations (by id), idempotency keys (sorted), the event log's counter. So nothing
//!   deadlocks.
//! - `seq`, `id` and `timestamp_sent` are given under the conversation's lock and rise together.
//! - People and conversations known from before are taken at their word only while nothing was revoked since. That is looked at
//!   under the conversations' locks, so an erasure either finds the message or keeps it from being sent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::directory::Known;
use super::draft_people;
use super::drafts::{Answer, Draft, Recipient, Sent};
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, MessageId, UserId};
use crate::base::time::{Clock, Timestamp};
use crate::domain::access::membership::{RECEIPTS_MEMBER_LIMIT, conversation_not_found};
use crate::domain::messages::mentions;
use crate::domain::people::reachability;
use crate::domain::shared::idempotency::{Once, Prepared, given_before, keep};
use crate::store;
use crate::store::batches::sends::Append;
use crate::store::conversations::conversations::{Head, Pair};
use crate::store::db::Conn;
use crate::store::events::events::{self, NewEvent};
use crate::store::identity::users::{DirectMessagesFrom, UserName};
use crate::store::messages::mentions::Mention;
use crate::store::messages::messages::{Decorations, Kind, Message, NewRow};
use crate::store::messages::threads::Reply;

/// Drafts that are sent in one transaction.
#[derive(Clone, Debug)]
pub struct Batch {
    clock: Clock,
    drafts: Vec<Draft>,
    known: Arc<Known>,
    /// From whom direct messages are taken by who has not chosen.
    direct_messages_from: DirectMessagesFrom,
    /// Whether who sends has read what came before.
    follows: bool,
}

impl Batch {
    /// At least one draft; no idempotency key twice.
    pub fn new(clock: Clock, drafts: Vec<Draft>, known: Known, direct_messages_from: DirectMessagesFrom) -> Self {
        Self { clock, drafts, known: Arc::new(known), direct_messages_from, follows: true }
    }

    /// The same, but nobody is taken to have read anything by sending.
    #[must_use]
    pub fn leaving_unread(self) -> Self {
        Self { follows: false, ..self }
    }

    /// The drafts, each a batch of its own.
    pub fn one_by_one(&self) -> impl Iterator<Item = Self> + '_ {
        self.drafts.iter().map(|draft| Self {
            clock: self.clock.clone(),
            drafts: vec![draft.clone()],
            known: Arc::clone(&self.known),
            direct_messages_from: self.direct_messages_from,
            follows: self.follows,
        })
    }

    /// The drafts.
    pub fn drafts(&self) -> &[Draft] {
        &self.drafts
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
    Group(ConversationId),
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
    let placed = place(conn, batch, &mut answers).await?;
    let placed = drop_refused(conn, batch, placed, &mut answers).await?;
    let mut made = Vec::new();
    let placed = make_conversations(conn, now, placed, &batch.known, &mut made, &mut answers).await?;
    let appended = !placed.is_empty() && write(conn, now, placed, batch, &made, &mut answers).await?;
    if !appended {
        // Nobody is left to say something in them, but they are there.
        events::append(conn, &made).await?;
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
    let requests: Vec<&Once<Sent>> = drafts.iter().map(|draft| &draft.once).collect();
    for (answer, given) in answers.iter_mut().zip(given_before(conn, now, &requests).await?) {
        *answer = given.map(|given| given.map(Answer::Given));
    }
    Ok(())
}

/// Looks everyone up, and sorts out what cannot be sent.
async fn place<'a>(
    conn: &mut Conn,
    batch: &'a Batch,
    answers: &mut [Option<Result<Answer>>],
) -> Result<Vec<Placed<'a>>> {
    let open: Vec<(usize, &Draft)> =
        batch.drafts.iter().enumerate().filter(|(index, _)| answers[*index].is_none()).collect();
    let people = people(conn, &open, &batch.known).await?;
    let members = direct_members(conn, &open).await?;
    let groups = groups(conn, &open, &members).await?;
    let mut placed = Vec::with_capacity(open.len());
    for (index, draft) in open {
        let (sender, recipient) = match draft_people::resolve(draft, |key| person(&people, &batch.known, key)) {
            Ok(found) => found,
            Err(error) => {
                answers[index] = Some(Err(error));
                continue;
            }
        };
        let (recipient, conversation) = match (recipient, &draft.recipient) {
            (Some(recipient), _) => {
                let pair = Pair::new(sender.id, recipient.id);
                (Some(recipient), Target::New(pair))
            }
            // Whether the sender is in it is asked under its lock.
            (None, Recipient::Conversation(id)) if groups.contains(id) => (None, Target::Group(*id)),
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

/// Those whom nobody remembers, by folded name.
async fn people(conn: &mut Conn, open: &[(usize, &Draft)], known: &Known) -> Result<HashMap<String, UserName>> {
    let keys: BTreeSet<&str> = open.iter().flat_map(|(_, draft)| draft_people::keys(draft)).collect();
    let keys: Vec<&str> = keys.into_iter().filter(|key| !known.people.contains_key(*key)).collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let found = store::identity::users::names_by_keys(conn, &keys).await?;
    Ok(found.into_iter().map(|user| (user.user_name_key.clone(), user)).collect())
}

fn person(found: &HashMap<String, UserName>, known: &Known, key: &str) -> Option<UserName> {
    known.people.get(key).or_else(|| found.get(key)).cloned()
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
    let rows = store::conversations::conversations::direct_members(conn, &ids).await?;
    let people: BTreeSet<i64> = rows.iter().map(|(_, user)| user.0).collect();
    let people: Vec<i64> = people.into_iter().collect();
    let there: HashMap<UserId, UserName> = store::identity::users::people_by_ids(conn, &people)
        .await?
        .into_iter()
        .map(|person| (person.id, person))
        .collect();
    let mut members = DirectMembers::new();
    for (conversation, id) in rows {
        members.entry(conversation).or_default().push((id, there.get(&id).cloned()));
    }
    Ok(members)
}

/// Those of the conversations that drafts name which are groups.
async fn groups(
    conn: &mut Conn,
    drafts: &[(usize, &Draft)],
    direct: &DirectMembers,
) -> Result<BTreeSet<ConversationId>> {
    let ids: BTreeSet<i64> = drafts
        .iter()
        .filter_map(|(_, draft)| match draft.recipient {
            Recipient::Conversation(id) if !direct.contains_key(&id) => Some(id.0),
            Recipient::Conversation(_) | Recipient::Direct(_) => None,
        })
        .collect();
    if ids.is_empty() {
        return Ok(BTreeSet::new());
    }
    let ids: Vec<i64> = ids.into_iter().collect();
    Ok(store::conversations::conversations::groups_among(conn, &ids).await?.into_iter().collect())
}

/// From which message on the senders of drafts into groups see them; who is not there is no member, nor a bot with a way in.
/// The groups are locked.
async fn sending_members(conn: &mut Conn, placed: &[Placed<'_>]) -> Result<HashMap<(ConversationId, UserId), i64>> {
    let pairs: BTreeSet<(ConversationId, UserId)> = placed
        .iter()
        .filter_map(|placed| match placed.conversation {
            Target::Group(id) => Some((id, placed.sender.id)),
            Target::Exists(_) | Target::New(_) => None,
        })
        .collect();
    if pairs.is_empty() {
        return Ok(HashMap::new());
    }
    let (bots, pairs): (Vec<_>, Vec<_>) = pairs
        .into_iter()
        .partition(|(_, sender)| placed.iter().any(|placed| placed.sender.is_bot && placed.sender.id == *sender));
    let mut senders = HashMap::with_capacity(pairs.len() + bots.len());
    if !pairs.is_empty() {
        let found = store::conversations::members::sending(conn, &pairs).await?;
        senders.extend(found.into_iter().map(|member| ((member.conversation, member.user), member.first_seq)));
    }
    for (conversation, bot) in bots {
        if store::conversations::incoming_webhooks::may_post(conn, conversation, bot).await? {
            senders.insert((conversation, bot), 1);
        }
    }
    Ok(senders)
}

/// The other one in a direct conversation, or oneself in notes to oneself; `None` for who is not in it, and `Some(None)`
/// where the other one was erased.
fn other_member(members: &DirectMembers, conversation: ConversationId, sender: UserId) -> Option<Option<UserName>> {
    let members = members.get(&conversation)?;
    let own = members.iter().find(|(id, _)| *id == sender)?;
    Some(members.iter().find(|(id, _)| *id != sender).unwrap_or(own).1.clone())
}

/// Turns pairs into conversations: those that exist, and the ones made now, of which it is to be logged.
async fn make_conversations<'a>(
    conn: &mut Conn,
    now: Timestamp,
    placed: Vec<Placed<'a>>,
    remembered: &Known,
    made: &mut Vec<NewEvent<'static>>,
    answers: &mut [Option<Result<Answer>>],
) -> Result<Vec<Placed<'a>>> {
    let wanted: BTreeSet<Pair> = placed
        .iter()
        .filter_map(|placed| match placed.conversation {
            Target::New(pair) => Some(pair),
            Target::Exists(_) | Target::Group(_) => None,
        })
        .collect();
    let mut known: BTreeMap<Pair, ConversationId> =
        wanted.iter().filter_map(|pair| Some((*pair, *remembered.pairs.get(pair)?))).collect();
    let wanted: Vec<Pair> = wanted.into_iter().filter(|pair| !known.contains_key(pair)).collect();
    if !wanted.is_empty() {
        known.extend(store::conversations::conversations::direct(conn, &wanted).await?);
    }
    // The first message of a conversation has nothing to answer: it must not make one by failing.
    let openers: Vec<(Pair, UserId)> = wanted
        .iter()
        .filter(|pair| !known.contains_key(pair))
        .filter_map(|pair| {
            let opener = placed.iter().find(|placed| {
                matches!(placed.conversation, Target::New(its) if its == *pair) && placed.draft.reply_to.is_none()
            });
            Some((*pair, opener?.sender.id))
        })
        .collect();
    let there = lock_people(conn, &openers).await?;
    for (pair, opener) in openers {
        if there.contains(&pair.lower.0) && there.contains(&pair.higher.0) {
            let (id, new) = store::conversations::conversations::create_direct(conn, pair, opener, now).await?;
            if new {
                made.push(NewEvent::of_conversation(events::Kind::ConversationCreated, id, opener, now));
            }
            known.insert(pair, id);
        }
    }
    let mut kept = Vec::with_capacity(placed.len());
    for mut placed in placed {
        if let Target::New(pair) = placed.conversation {
            let Some(id) = known.get(&pair) else {
                let answer = if placed.draft.reply_to.is_some() { reply_to_not_found() } else { recipient_gone() };
                answers[placed.index] = Some(Err(answer));
                continue;
            };
            placed.conversation = Target::Exists(*id);
        }
        kept.push(placed);
    }
    Ok(kept)
}

/// Keeps people from being erased while a conversation is made for them; who is there. An erasure looks for conversations
/// after it removed its person, so it either finds this one or keeps it from being made.
async fn lock_people(conn: &mut Conn, openers: &[(Pair, UserId)]) -> Result<BTreeSet<i64>> {
    let ids: BTreeSet<i64> = openers.iter().flat_map(|(pair, _)| [pair.lower.0, pair.higher.0]).collect();
    if ids.is_empty() {
        return Ok(ids);
    }
    let ids: Vec<i64> = ids.into_iter().collect();
    store::identity::users::lock_shared(conn, &ids).await
}

fn recipient_gone() -> Error {
    Error::invalid("recipient_user_name", "user_not_found", "names no user")
}

/// There is nothing that could be answered.
pub fn reply_to_not_found() -> Error {
    Error::invalid("reply_to", "message_not_found", "is not the seq of a message of this conversation")
}

/// Locks the conversations, numbers the messages and writes everything; whether there was anything to write.
async fn write(
    conn: &mut Conn,
    now: Timestamp,
    placed: Vec<Placed<'_>>,
    batch: &Batch,
    made: &[NewEvent<'static>],
    answers: &mut [Option<Result<Answer>>],
) -> Result<bool> {
    let ids: BTreeSet<i64> = placed.iter().filter_map(Placed::conversation_id).map(|id| id.0).collect();
    let ids: Vec<i64> = ids.into_iter().collect();
    let (heads, message_ids) = store::batches::sends::lock_and_number(conn, &ids, placed.len()).await?;
    let mut heads: HashMap<ConversationId, Head> = heads.into_iter().map(|head| (head.id, head)).collect();
    // Asked once the locks are held, so that an erasure which is not seen here finds what is written here.
    let doubted = batch.known.doubted.load(Ordering::Relaxed);
    let placed = if doubted { still_there(conn, batch, placed, answers).await? } else { placed };
    let members = sending_members(conn, &placed).await?;
    let mut sent = number(now, placed, message_ids, &mut heads, &members, answers)?;
    if sent.is_empty() {
        return Ok(false);
    }
    let mut heads: Vec<Head> = heads.into_values().filter(|head| head.last_seq > 0).collect();
    heads.sort_unstable_by_key(|head| head.id);
    mentions::find(conn, sent.iter_mut().map(|(_, _, sent)| sent)).await?;
    let prepared: Vec<Option<Prepared<'_>>> =
        sent.iter().map(|(_, once, sent)| once.prepare(sent, None)).collect::<Result<_>>()?;
    let day = keep(conn, now, &prepared.iter().flatten().collect::<Vec<_>>()).await?;
    let rows: Vec<NewRow<'_>> = sent
        .iter()
        .zip(&prepared)
        .map(|((.., sent), prepared)| NewRow {
            message: &sent.message,
            key: prepared.as_ref().map(|prepared| (day, prepared.digest())),
            follows: batch.follows,
        })
        .collect();
    let replies: Vec<Reply> = sent
        .iter()
        .filter_map(|(.., Sent { message, .. })| {
            let (conversation, sent_at) = (message.conversation_id, message.timestamp_sent);
            Some(Reply { conversation, parent: message.reply_to?, sent_at })
        })
        .collect();
    store::messages::threads::raise(conn, &replies).await?;
    let unrevoked_since = (!doubted).then(|| batch.known.mark.position());
    let mentions: Vec<Mention> = sent.iter().flat_map(|(_, _, sent)| mentions::rows(&sent.message)).collect();
    let append = Append { heads: &heads, made, rows: &rows, mentions: &mentions, member_limit: RECEIPTS_MEMBER_LIMIT };
    let appended = store::batches::sends::append(conn, append, unrevoked_since).await;
    if let Err(Error::Rerun(_)) = appended {
        // Somebody may have been logged out, or erased: who is still there is to be asked.
        batch.known.doubted.store(true, Ordering::Relaxed);
    }
    appended?;
    for ((index, _, sent), prepared) in sent.into_iter().zip(prepared) {
        answers[index] = Some(Ok(prepared.map_or_else(|| Answer::Sent(Box::new(sent)), |it| Answer::Given(it.give()))));
    }
    Ok(true)
}

/// Gives seqs, ids and times to the drafts that may be sent, and moves the heads of their conversations.
fn number<'a>(
    now: Timestamp,
    placed: Vec<Placed<'a>>,
    message_ids: Vec<i64>,
    heads: &mut HashMap<ConversationId, Head>,
    members: &HashMap<(ConversationId, UserId), i64>,
    answers: &mut [Option<Result<Answer>>],
) -> Result<Vec<(usize, &'a Once<Sent>, Sent)>> {
    // A message of this batch is not visible to anybody yet: nothing can answer it.
    let visible: HashMap<ConversationId, i64> = heads.values().map(|head| (head.id, head.last_seq)).collect();
    let mut sent = Vec::with_capacity(placed.len());
    for (placed, id) in placed.into_iter().zip(message_ids) {
        let first_seq = match placed.conversation {
            Target::Group(group) => members.get(&(group, placed.sender.id)).copied(),
            Target::Exists(_) | Target::New(_) => Some(1),
        };
        let Some(first_seq) = first_seq else {
            answers[placed.index] = Some(Err(conversation_not_found()));
            continue;
        };
        let Some(head) = placed.conversation_id().and_then(|id| heads.get_mut(&id)) else {
            if matches!(placed.draft.recipient, Recipient::Direct(_)) {
                // Remembered from a database that was replaced since.
                return Err(Error::unavailable("a conversation that was there is not there any more"));
            }
            answers[placed.index] = Some(Err(conversation_not_found()));
            continue;
        };
        let last_seq = visible.get(&head.id).copied().unwrap_or_default();
        if placed.draft.reply_to.is_some_and(|seq| !(first_seq..=last_seq).contains(&seq)) {
            answers[placed.index] = Some(Err(reply_to_not_found()));
            continue;
        }
        head.last_seq += 1;
        // A clock that was set back must not turn the order around.
        head.last_sent_at = head.last_sent_at.max(now);
        head.last_message_id = MessageId(id);
        sent.push((placed.index, &placed.draft.once, placed.become_message(head)));
    }
    Ok(sent)
}

/// Sorts out whose sender or recipient was erased since they were looked up.
async fn still_there<'a>(
    conn: &mut Conn,
    batch: &Batch,
    placed: Vec<Placed<'a>>,
    answers: &mut [Option<Result<Answer>>],
) -> Result<Vec<Placed<'a>>> {
    let ids: BTreeSet<i64> = placed.iter().flat_map(Placed::people).map(|id| id.0).collect();
    let ids: Vec<i64> = ids.into_iter().collect();
    let there: HashMap<UserId, UserName> = store::identity::users::people_by_ids(conn, &ids)
        .await?
        .into_iter()
        .map(|person| (person.id, person))
        .collect();
    let mut kept = Vec::with_capacity(placed.len());
    for mut placed in placed {
        let recipient = placed.recipient.as_ref().map(|recipient| recipient.id);
        if there.get(&placed.sender.id).is_none_or(|sender| sender.is_banned) {
            answers[placed.index] = Some(Err(Error::Unauthenticated));
        } else if let Some(present) = recipient.and_then(|id| there.get(&id)) {
            placed.recipient = Some(present.clone());
            kept.push(placed);
        } else if recipient.is_none() || matches!(placed.draft.recipient, Recipient::Conversation(_)) {
            kept.push(placed);
        } else {
            answers[placed.index] = Some(Err(recipient_gone()));
        }
    }
    drop_refused(conn, batch, kept, answers).await
}

/// Sorts out drafts whose recipient may not be written to by their sender.
async fn drop_refused<'a>(
    conn: &mut Conn,
    batch: &Batch,
    placed: Vec<Placed<'a>>,
    answers: &mut [Option<Result<Answer>>],
) -> Result<Vec<Placed<'a>>> {
    let of = |placed: &Placed<'a>| Some((placed.sender.id, placed.recipient.clone()?));
    let pairs: Vec<(UserId, UserName)> = placed.iter().filter_map(of).collect();
    let pairs = pairs.iter().map(|(sender, recipient)| (*sender, recipient));
    let refused = reachability::refused(conn, pairs, batch.direct_messages_from).await?;
    if refused.is_empty() {
        return Ok(placed);
    }
    let mut kept = Vec::with_capacity(placed.len());
    for placed in placed {
        let recipient = placed.recipient.as_ref().map(|recipient| recipient.id);
        if recipient.is_some_and(|recipient| refused.contains(&(placed.sender.id, recipient))) {
            answers[placed.index] =
                Some(Err(reachability::not_friends("this user takes direct messages from friends alone")));
        } else {
            kept.push(placed);
        }
    }
    Ok(kept)
}

impl Placed<'_> {
    fn conversation_id(&self) -> Option<ConversationId> {
        match self.conversation {
            Target::Exists(id) | Target::Group(id) => Some(id),
            Target::New(_) => None,
        }
    }

    fn people(&self) -> impl Iterator<Item = UserId> {
        [Some(self.sender.id), self.recipient.as_ref().map(|recipient| recipient.id)].into_iter().flatten()
    }

    fn become_message(self, head: &Head) -> Sent {
        // A note to oneself has reached its reader.
        let to_oneself = self.recipient.as_ref().is_some_and(|recipient| recipient.id == self.sender.id);
        let reached_at = to_oneself.then_some(head.last_sent_at);
        Sent {
            message: Message {
                conversation_id: head.id,
                seq: head.last_seq,
                id: head.last_message_id,
                timestamp_sent: head.last_sent_at,
                kind: Kind::Text,
                sender_id: self.sender.id,
                recipient_id: self.recipient.as_ref().map(|recipient| recipient.id),
                created_at: self.draft.accepted_at.unwrap_or(head.last_sent_at),
                timestamp_delivered: reached_at,
                timestamp_read: reached_at,
                reply_to: self.draft.reply_to,
                body: self.draft.body.clone(),
                edited_at: None,
                deleted_at: None,
                action: None,
                subject_id: None,
                mentions: Vec::new(),
                decorations: Decorations::default(),
            },
            sender_user_name: self.sender.user_name,
            recipient_user_name: self.recipient.map(|recipient| recipient.user_name),
            mentioned_user_names: Vec::new(),
        }
    }
}
