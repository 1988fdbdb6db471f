//! A batch of sends, checked and written together.
//!
//! Invariants:
//! - Drafts that fail for expected reasons are answered first and left out. The other drafts are written together, with
//!   one statement for each table.
//! - Locks are always taken in this order: users who get a new direct conversation (by id), pairs of new direct
//!   conversations (sorted), conversations (by id), attachments (by id), idempotency keys (sorted), the counter of the
//!   event log. So there are no deadlocks.
//! - `seq`, `id` and `timestamp_sent` are assigned under the lock of the conversation and rise together.
//! - Cached users and conversations are used only if nothing was revoked since they were read. This is checked under
//!   the locks of the conversations, so an erasure either finds the message or prevents it from being sent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::directory::DirectoryEntries;
use super::draft_attachments;
use super::draft_people;
use super::drafts::{Answer, Draft, Recipient, Sent};
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, MessageId, UserId};
use crate::base::time::{Clock, Timestamp};
use crate::domain::access::membership::{RECEIPTS_MEMBER_LIMIT, conversation_not_found};
use crate::domain::messages::mentions;
use crate::domain::people::reachability;
use crate::domain::shared::idempotency::{Once, Prepared, keep, stored_answers};
use crate::store;
use crate::store::batches::sends::Append;
use crate::store::conversations::conversations::{Head, Pair};
use crate::store::db::Conn;
use crate::store::events::events::{self, NewEvent};
use crate::store::files::attachments::{AttachmentList, Held};
use crate::store::identity::users::{DirectMessagesFrom, UserSummary};
use crate::store::messages::link_previews::LinkPreview;
use crate::store::messages::mentions::Mention;
use crate::store::messages::messages::{Decorations, Kind, Message, NewRow};
use crate::store::messages::threads::Reply;

/// Drafts that are sent in one transaction.
#[derive(Clone, Debug)]
pub struct Batch {
    clock: Clock,
    drafts: Vec<Draft>,
    known: Arc<DirectoryEntries>,
    /// The default for users who have not set `direct_messages_from`.
    direct_messages_from: DirectMessagesFrom,
    /// Whether sending a message marks the earlier messages of the conversation as read by its sender.
    follows: bool,
}

impl Batch {
    /// Creates a batch. `drafts` must contain at least one draft, and no idempotency key twice.
    pub fn new(
        clock: Clock,
        drafts: Vec<Draft>,
        known: DirectoryEntries,
        direct_messages_from: DirectMessagesFrom,
    ) -> Self {
        Self { clock, drafts, known: Arc::new(known), direct_messages_from, follows: true }
    }

    /// Changes the batch so that sending its messages marks no earlier messages as read.
    #[must_use]
    pub fn leaving_unread(self) -> Self {
        Self { follows: false, ..self }
    }

    /// Splits the batch into batches of one draft each.
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

    /// Number of drafts.
    pub fn len(&self) -> usize {
        self.drafts.len()
    }

    /// Whether the batch has no drafts.
    pub fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }
}

/// A draft whose sender, recipient and conversation have been looked up.
struct ResolvedDraft<'a> {
    index: usize,
    draft: &'a Draft,
    sender: UserSummary,
    recipient: Option<UserSummary>,
    conversation: Target,
}

enum Target {
    Exists(ConversationId),
    Group(ConversationId),
    New(Pair),
}

/// Sends every draft that may be sent. Returns one answer for each draft, in their order.
///
/// # Errors
/// Only errors that affect the whole batch. Then nothing was written.
pub async fn send_all(conn: &mut Conn, batch: &Batch) -> Result<Vec<Result<Answer>>> {
    let now = batch.clock.now();
    let mut answers: Vec<Option<Result<Answer>>> = Vec::new();
    answers.resize_with(batch.drafts.len(), || None);
    replay(conn, now, &batch.drafts, &mut answers).await?;
    let resolved = resolve(conn, batch, &mut answers).await?;
    let resolved = drop_unreachable(conn, batch, resolved, &mut answers).await?;
    let mut created = Vec::new();
    let resolved = create_conversations(conn, now, resolved, &batch.known, &mut created, &mut answers).await?;
    let appended = !resolved.is_empty() && write(conn, now, resolved, batch, &created, &mut answers).await?;
    if !appended {
        // No draft is left, but new conversations may have been created, and their events must be logged.
        events::append(conn, &created).await?;
    }
    Ok(answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(|| Err(Error::internal("a draft has no answer after its batch"))))
        .collect())
}

async fn replay(
    conn: &mut Conn,
    now: Timestamp,
    drafts: &[Draft],
    answers: &mut [Option<Result<Answer>>],
) -> Result<()> {
    let requests: Vec<&Once<Sent>> = drafts.iter().map(|draft| &draft.once).collect();
    for (answer, given) in answers.iter_mut().zip(stored_answers(conn, now, &requests).await?) {
        *answer = given.map(|given| given.map(Answer::KeyedAnswer));
    }
    Ok(())
}

/// Looks up the users and conversations of the drafts, and answers the drafts that cannot be sent.
async fn resolve<'a>(
    conn: &mut Conn,
    batch: &'a Batch,
    answers: &mut [Option<Result<Answer>>],
) -> Result<Vec<ResolvedDraft<'a>>> {
    let open: Vec<(usize, &Draft)> =
        batch.drafts.iter().enumerate().filter(|(index, _)| answers[*index].is_none()).collect();
    let people = people(conn, &open, &batch.known).await?;
    let members = direct_members(conn, &open).await?;
    let groups = groups(conn, &open, &members).await?;
    let mut resolved = Vec::with_capacity(open.len());
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
            // The membership of the sender is checked later, under the lock of the conversation.
            (None, Recipient::Conversation(id)) if groups.contains(id) => (None, Target::Group(*id)),
            (None, Recipient::Conversation(id)) => match other_member(&members, *id, sender.id) {
                Some(Some(other)) => (Some(other), Target::Exists(*id)),
                Some(None) => {
                    let gone = "the other user of this conversation was erased";
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
        resolved.push(ResolvedDraft { index, draft, sender, recipient, conversation });
    }
    Ok(resolved)
}

/// The users that are not cached, by folded name.
async fn people(
    conn: &mut Conn,
    open: &[(usize, &Draft)],
    known: &DirectoryEntries,
) -> Result<HashMap<String, UserSummary>> {
    let keys: BTreeSet<&str> = open.iter().flat_map(|(_, draft)| draft_people::keys(draft)).collect();
    let keys: Vec<&str> = keys.into_iter().filter(|key| !known.people.contains_key(*key)).collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let found = store::identity::users::summaries_by_keys(conn, &keys).await?;
    Ok(found.into_iter().map(|user| (user.user_name_key.clone(), user)).collect())
}

fn person(found: &HashMap<String, UserSummary>, known: &DirectoryEntries, key: &str) -> Option<UserSummary> {
    known.people.get(key).or_else(|| found.get(key)).cloned()
}

/// The members of direct conversations. An erased member has no name.
type DirectMembers = HashMap<ConversationId, Vec<(UserId, Option<UserSummary>)>>;

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
    let existing = existing_users(conn, rows.iter().map(|(_, user)| *user)).await?;
    let mut members = DirectMembers::new();
    for (conversation, id) in rows {
        members.entry(conversation).or_default().push((id, existing.get(&id).cloned()));
    }
    Ok(members)
}

async fn existing_users(conn: &mut Conn, ids: impl Iterator<Item = UserId>) -> Result<HashMap<UserId, UserSummary>> {
    let ids: BTreeSet<i64> = ids.map(|id| id.0).collect();
    let ids: Vec<i64> = ids.into_iter().collect();
    let found = store::identity::users::summaries_by_ids(conn, &ids).await?;
    Ok(found.into_iter().map(|person| (person.id, person)).collect())
}

/// The groups among the conversations that drafts name.
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

/// The `seq` of the first message that each sender may see in the group that they write to. A sender who is missing
/// from the result is neither a member nor the bot of an incoming webhook of the group. The groups must be locked.
async fn sending_members(
    conn: &mut Conn,
    resolved: &[ResolvedDraft<'_>],
) -> Result<HashMap<(ConversationId, UserId), i64>> {
    let pairs: BTreeSet<(ConversationId, UserId)> = resolved
        .iter()
        .filter_map(|resolved| match resolved.conversation {
            Target::Group(id) => Some((id, resolved.sender.id)),
            Target::Exists(_) | Target::New(_) => None,
        })
        .collect();
    if pairs.is_empty() {
        return Ok(HashMap::new());
    }
    let (bots, pairs): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(_, sender)| {
        resolved.iter().any(|resolved| resolved.sender.is_bot && resolved.sender.id == *sender)
    });
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

/// The other member of a direct conversation, or the sender in notes to oneself. `None` if the sender is not a member,
/// and `Some(None)` if the other member was erased.
fn other_member(members: &DirectMembers, conversation: ConversationId, sender: UserId) -> Option<Option<UserSummary>> {
    let members = members.get(&conversation)?;
    let own = members.iter().find(|(id, _)| *id == sender)?;
    Some(members.iter().find(|(id, _)| *id != sender).unwrap_or(own).1.clone())
}

/// Finds or creates the conversation of each pair. The events of new conversations are added to `created`.
async fn create_conversations<'a>(
    conn: &mut Conn,
    now: Timestamp,
    resolved: Vec<ResolvedDraft<'a>>,
    cached: &DirectoryEntries,
    created: &mut Vec<NewEvent<'static>>,
    answers: &mut [Option<Result<Answer>>],
) -> Result<Vec<ResolvedDraft<'a>>> {
    let wanted: BTreeSet<Pair> = resolved
        .iter()
        .filter_map(|resolved| match resolved.conversation {
            Target::New(pair) => Some(pair),
            Target::Exists(_) | Target::Group(_) => None,
        })
        .collect();
    let mut known: BTreeMap<Pair, ConversationId> =
        wanted.iter().filter_map(|pair| Some((*pair, *cached.pairs.get(pair)?))).collect();
    let wanted: Vec<Pair> = wanted.into_iter().filter(|pair| !known.contains_key(pair)).collect();
    if !wanted.is_empty() {
        known.extend(store::conversations::conversations::direct(conn, &wanted).await?);
    }
    // The first message of a conversation cannot be a reply, so a reply does not create a conversation.
    let openers: Vec<(Pair, UserId)> = wanted
        .iter()
        .filter(|pair| !known.contains_key(pair))
        .filter_map(|pair| {
            let opener = resolved.iter().find(|resolved| {
                matches!(resolved.conversation, Target::New(its) if its == *pair) && resolved.draft.reply_to.is_none()
            });
            Some((*pair, opener?.sender.id))
        })
        .collect();
    let existing = lock_people(conn, &openers).await?;
    for (pair, opener) in openers {
        if existing.contains(&pair.lower.0) && existing.contains(&pair.higher.0) {
            let (id, new) = store::conversations::conversations::create_direct(conn, pair, opener, now).await?;
            if new {
                created.push(NewEvent::of_conversation(events::Kind::ConversationCreated, id, opener, now));
            }
            known.insert(pair, id);
        }
    }
    let mut kept = Vec::with_capacity(resolved.len());
    for mut resolved in resolved {
        if let Target::New(pair) = resolved.conversation {
            let Some(id) = known.get(&pair) else {
                let answer =
                    if resolved.draft.reply_to.is_some() { reply_to_not_found() } else { recipient_not_found() };
                answers[resolved.index] = Some(Err(answer));
                continue;
            };
            resolved.conversation = Target::Exists(*id);
        }
        kept.push(resolved);
    }
    Ok(kept)
}

/// Locks users, so that they are not erased while a conversation is created for them. Returns those who exist. An
/// erasure looks for conversations after it has removed its user. So it either finds the new conversation or prevents
/// its creation.
async fn lock_people(conn: &mut Conn, openers: &[(Pair, UserId)]) -> Result<BTreeSet<i64>> {
    let ids: BTreeSet<i64> = openers.iter().flat_map(|(pair, _)| [pair.lower.0, pair.higher.0]).collect();
    if ids.is_empty() {
        return Ok(ids);
    }
    let ids: Vec<i64> = ids.into_iter().collect();
    store::identity::users::lock_shared(conn, &ids).await
}

fn recipient_not_found() -> Error {
    Error::invalid("recipient_user_name", "user_not_found", "no user has this name")
}

/// The error for a reply to a message that does not exist or that the sender may not see.
pub fn reply_to_not_found() -> Error {
    Error::invalid("reply_to", "message_not_found", "must be the seq of a message of this conversation")
}

/// Locks the conversations, numbers the messages and writes everything. Returns whether there was anything to write.
async fn write(
    conn: &mut Conn,
    now: Timestamp,
    resolved: Vec<ResolvedDraft<'_>>,
    batch: &Batch,
    created: &[NewEvent<'static>],
    answers: &mut [Option<Result<Answer>>],
) -> Result<bool> {
    let ids: BTreeSet<i64> = resolved.iter().filter_map(ResolvedDraft::conversation_id).map(|id| id.0).collect();
    let ids: Vec<i64> = ids.into_iter().collect();
    let (heads, message_ids) = store::batches::sends::lock_and_number(conn, &ids, resolved.len()).await?;
    let mut heads: HashMap<ConversationId, Head> = heads.into_iter().map(|head| (head.id, head)).collect();
    // Checked while the locks are held. So an erasure that is not visible yet finds the messages that this batch
    // writes.
    let recheck_users = batch.known.recheck_users.load(Ordering::Relaxed);
    let resolved = if recheck_users { drop_erased(conn, batch, resolved, answers).await? } else { resolved };
    let members = sending_members(conn, &resolved).await?;
    let mut attachments = draft_attachments::lists(conn, resolved.iter().map(ResolvedDraft::attachments)).await?;
    let mut sent = assign_numbers(now, resolved, message_ids, &mut heads, &members, &mut attachments, answers)?;
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
    let replies: Vec<Reply> = sent.iter().filter_map(|(.., sent)| Reply::of(&sent.message)).collect();
    store::messages::threads::raise(conn, &replies).await?;
    let unrevoked_since = (!recheck_users).then(|| batch.known.mark.position());
    let mentions: Vec<Mention> = sent.iter().flat_map(|(_, _, sent)| mentions::rows(&sent.message)).collect();
    let held: Vec<Held> = sent.iter().flat_map(|(_, _, sent)| draft_attachments::rows(&sent.message)).collect();
    let append = Append {
        heads: &heads,
        made: created,
        rows: &rows,
        mentions: &mentions,
        held: &held,
        member_limit: RECEIPTS_MEMBER_LIMIT,
    };
    let appended = store::batches::sends::append(conn, append, unrevoked_since).await;
    if let Err(Error::Rerun(_)) = appended {
        // A user may have been erased or banned, so the next run must look up the users again.
        batch.known.recheck_users.store(true, Ordering::Relaxed);
    }
    appended?;
    for ((index, _, sent), prepared) in sent.into_iter().zip(prepared) {
        answers[index] = Some(Ok(Answer::sent(sent, prepared.map(Prepared::give))));
    }
    Ok(true)
}

/// Assigns seqs, ids and times to the drafts that may be sent, and advances the heads of their conversations.
fn assign_numbers<'a>(
    now: Timestamp,
    resolved: Vec<ResolvedDraft<'a>>,
    message_ids: Vec<i64>,
    heads: &mut HashMap<ConversationId, Head>,
    members: &HashMap<(ConversationId, UserId), i64>,
    attachments: &mut HashMap<usize, Result<AttachmentList>>,
    answers: &mut [Option<Result<Answer>>],
) -> Result<Vec<(usize, &'a Once<Sent>, Sent)>> {
    // Nobody can see the messages of this batch yet, so no draft of the batch can be a reply to one of them.
    let visible: HashMap<ConversationId, i64> = heads.values().map(|head| (head.id, head.last_seq)).collect();
    let mut sent = Vec::with_capacity(resolved.len());
    for (resolved, id) in resolved.into_iter().zip(message_ids) {
        let first_seq = match resolved.conversation {
            Target::Group(group) => members.get(&(group, resolved.sender.id)).copied(),
            Target::Exists(_) | Target::New(_) => Some(1),
        };
        let Some(first_seq) = first_seq else {
            answers[resolved.index] = Some(Err(conversation_not_found()));
            continue;
        };
        let Some(head) = resolved.conversation_id().and_then(|id| heads.get_mut(&id)) else {
            if matches!(resolved.draft.recipient, Recipient::Direct(_)) {
                // The conversation comes from the cache, and the database has been replaced since it was cached.
                return Err(Error::unavailable("a conversation known to this server is missing in the database"));
            }
            answers[resolved.index] = Some(Err(conversation_not_found()));
            continue;
        };
        let last_seq = visible.get(&head.id).copied().unwrap_or_default();
        if resolved.draft.reply_to.is_some_and(|seq| !(first_seq..=last_seq).contains(&seq)) {
            answers[resolved.index] = Some(Err(reply_to_not_found()));
            continue;
        }
        let attachments = attachments.remove(&resolved.index).transpose();
        let Ok(attachments) = attachments.map_err(|error| answers[resolved.index] = Some(Err(error))) else {
            continue;
        };
        head.last_seq += 1;
        // The times of messages never decrease, even if the clock was set back. No message is sent before it was accepted.
        head.last_sent_at = head.last_sent_at.max(now).max(resolved.draft.accepted_at.unwrap_or(now));
        head.last_message_id = MessageId(id);
        sent.push((
            resolved.index,
            &resolved.draft.once,
            resolved.become_message(head, attachments.unwrap_or_default()),
        ));
    }
    Ok(sent)
}

/// Looks up the users again, and answers drafts whose sender or recipient was erased since the first look-up.
async fn drop_erased<'a>(
    conn: &mut Conn,
    batch: &Batch,
    resolved: Vec<ResolvedDraft<'a>>,
    answers: &mut [Option<Result<Answer>>],
) -> Result<Vec<ResolvedDraft<'a>>> {
    let existing = existing_users(conn, resolved.iter().flat_map(ResolvedDraft::people)).await?;
    let mut kept = Vec::with_capacity(resolved.len());
    for mut resolved in resolved {
        let recipient = resolved.recipient.as_ref().map(|recipient| recipient.id);
        if existing.get(&resolved.sender.id).is_none_or(|sender| sender.is_banned) {
            answers[resolved.index] = Some(Err(Error::Unauthenticated));
        } else if let Some(present) = recipient.and_then(|id| existing.get(&id)) {
            resolved.recipient = Some(present.clone());
            kept.push(resolved);
        } else if recipient.is_none() || matches!(resolved.draft.recipient, Recipient::Conversation(_)) {
            kept.push(resolved);
        } else {
            answers[resolved.index] = Some(Err(recipient_not_found()));
        }
    }
    drop_unreachable(conn, batch, kept, answers).await
}

/// Answers drafts whose sender may not write to their recipient.
async fn drop_unreachable<'a>(
    conn: &mut Conn,
    batch: &Batch,
    resolved: Vec<ResolvedDraft<'a>>,
    answers: &mut [Option<Result<Answer>>],
) -> Result<Vec<ResolvedDraft<'a>>> {
    let of = |resolved: &ResolvedDraft<'a>| Some((resolved.sender.id, resolved.recipient.clone()?));
    let pairs: Vec<(UserId, UserSummary)> = resolved.iter().filter_map(of).collect();
    let pairs = pairs.iter().map(|(sender, recipient)| (*sender, recipient));
    let refused = reachability::refused(conn, pairs, batch.direct_messages_from).await?;
    if refused.is_empty() {
        return Ok(resolved);
    }
    let mut kept = Vec::with_capacity(resolved.len());
    for resolved in resolved {
        let recipient = resolved.recipient.as_ref().map(|recipient| recipient.id);
        if recipient.is_some_and(|recipient| refused.contains(&(resolved.sender.id, recipient))) {
            answers[resolved.index] =
                Some(Err(reachability::not_friends("This user accepts direct messages only from friends")));
        } else {
            kept.push(resolved);
        }
    }
    Ok(kept)
}

impl ResolvedDraft<'_> {
    fn conversation_id(&self) -> Option<ConversationId> {
        match self.conversation {
            Target::Exists(id) | Target::Group(id) => Some(id),
            Target::New(_) => None,
        }
    }

    /// The index of the draft, its sender and its attachments.
    fn attachments(&self) -> (usize, UserId, &[i64]) {
        (self.index, self.sender.id, &self.draft.attachment_ids)
    }

    fn people(&self) -> impl Iterator<Item = UserId> {
        [Some(self.sender.id), self.recipient.as_ref().map(|recipient| recipient.id)].into_iter().flatten()
    }

    fn become_message(self, head: &Head, attachments: AttachmentList) -> Sent {
        // A note to oneself is delivered and read when it is sent.
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
                attachments,
                link_preview: LinkPreview::of_new(self.draft.link_preview_declined),
                decorations: Decorations::default(),
            },
            sender_user_name: self.sender.user_name,
            recipient_user_name: self.recipient.map(|recipient| recipient.user_name),
            mentioned_user_names: Vec::new(),
        }
    }
}
