//! Sending messages, and reading one.
//!
//! Invariants:
//! - A send is decided over a slice ([`send_all`]): what is expected to fail is sorted out first, one by one; what is left is
//!   written by one statement a table.
//! - Locks are taken in one order everywhere: pairs of new direct conversations (sorted), conversations (by id),
//!   idempotency keys (sorted), the event log's counter. So nothing deadlocks.
//! - `seq`, `id` and `timestamp_sent` are given under the conversation's lock and rise together.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::auth::Principal;
use super::idempotency::{self, KeyedRequest, Record, StoredAnswer, days_kept};
use super::users;
use crate::app::App;
use crate::error::{Error, FieldError, Result};
use crate::ids::{ConversationId, MAX_ID, MessageId, UserId};
use crate::store::conversations::{Head, Pair};
use crate::store::events::{Kind as EventKind, NewEvent};
pub use crate::store::messages::{Kind, Message};
use crate::store::users::UserName;
use crate::store::{self, Conn};
use crate::text::fold_ascii;
use crate::time::{Clock, Timestamp};

/// Characters of a body.
pub const MAX_BODY_CHARACTERS: usize = 8_000;

/// People's names by id. Nobody is in it who was erased.
pub type Names = HashMap<UserId, String>;

/// A message as the caller wrote it.
#[derive(Clone, Debug, Default)]
pub struct NewMessage {
    /// Whose message; may be left out by a person.
    pub sender_user_name: Option<String>,
    /// To whom, or `conversation_id`.
    pub recipient_user_name: Option<String>,
    /// Where, or `recipient_user_name`.
    pub conversation_id: Option<i64>,
    /// 1..[`MAX_BODY_CHARACTERS`] characters.
    pub body: String,
    /// The seq of the same conversation that it answers.
    pub reply_to: Option<i64>,
    /// Files uploaded before. None can be yet.
    pub attachment_ids: Vec<i64>,
    /// When to send it. Only now, for now.
    pub send_at: Option<String>,
}

/// What a send made.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The message.
    pub message: Message,
    /// Its sender's name.
    pub sender_user_name: String,
    /// Its recipient's name, in a direct conversation.
    pub recipient_user_name: Option<String>,
}

/// The answer to a send.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Sent now; the caller renders it.
    Sent(Box<Sent>),
    /// Rendered for an idempotency key: now, or when the key was used first.
    Stored {
        /// What to answer.
        answer: StoredAnswer,
        /// Whether it was given before.
        replayed: bool,
    },
}

/// A request with an idempotency key, and how its answer is rendered.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// The key and the request.
    pub request: KeyedRequest,
    /// Renders what is stored and answered.
    pub render: fn(&Sent) -> StoredAnswer,
}

/// Who sends: known already, or to be looked up by folded name.
#[derive(Clone, Debug)]
pub enum Sender {
    /// The caller.
    Known(UserName),
    /// A folded user name.
    Named(String),
}

/// Where to.
#[derive(Clone, Debug)]
pub enum Recipient {
    /// A folded user name.
    Direct(String),
    /// A conversation that the sender is in.
    Conversation(ConversationId),
}

/// A message whose form is right; whether it may be sent is for the database to say.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who.
    pub sender: Sender,
    /// Where to.
    pub recipient: Recipient,
    /// The text.
    pub body: String,
    /// The seq that it answers.
    pub reply_to: Option<i64>,
    /// Its idempotency key.
    pub keyed: Option<Keyed>,
}

impl Draft {
    /// Checks the form of a message, every field of it.
    ///
    /// # Errors
    /// 422 with every field that is wrong; 403 `not_the_sender`.
    pub fn new(principal: &Principal, new: NewMessage, keyed: Option<Keyed>) -> Result<Self> {
        let mut errors = check_form(&new);
        let sender = match (principal.person(), new.sender_user_name) {
            (None, None) => {
                errors.push(FieldError::new(
                    "sender_user_name",
                    "required",
                    "must say who sends, since the caller is no user",
                ));
                None
            }
            (Some(person), None) => Some(Sender::Known(person.clone())),
            (Some(person), Some(name)) if fold_ascii(&name) == person.user_name_key => {
                Some(Sender::Known(person.clone()))
            }
            (Some(_), Some(_)) => {
                return Err(Error::Forbidden {
                    code: "not_the_sender",
                    detail: "sender_user_name must be the caller's own name, or be left out".into(),
                });
            }
            (None, Some(name)) => Some(Sender::Named(fold_ascii(&name))),
        };
        let recipient = match (new.recipient_user_name, new.conversation_id) {
            (Some(name), None) => Some(Recipient::Direct(fold_ascii(&name))),
            (None, Some(id)) => Some(Recipient::Conversation(ConversationId(id))),
            _ => {
                errors.push(FieldError::new(
                    "recipient_user_name",
                    "required",
                    "name either recipient_user_name or conversation_id",
                ));
                None
            }
        };
        match (sender, recipient) {
            (Some(sender), Some(recipient)) if errors.is_empty() => Ok(Self {
                sender,
                recipient,
                body: new.body,
                reply_to: new.reply_to,
                keyed,
            }),
            _ => Err(Error::Invalid(errors)),
        }
    }
}

fn check_form(new: &NewMessage) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // Four bytes a character at most: most bodies need no counting.
    if new.body.is_empty() {
        errors.push(FieldError::new(
            "body",
            "required",
            "must have at least one character",
        ));
    } else if new.body.len() > MAX_BODY_CHARACTERS && new.body.chars().count() > MAX_BODY_CHARACTERS {
        errors.push(FieldError::new(
            "body",
            "too_long",
            format!("may have up to {MAX_BODY_CHARACTERS} characters"),
        ));
    }
    let texts = [
        ("body", Some(&new.body)),
        ("sender_user_name", new.sender_user_name.as_ref()),
        ("recipient_user_name", new.recipient_user_name.as_ref()),
    ];
    for (field, text) in texts {
        if text.is_some_and(|text| text.contains('\0')) {
            errors.push(FieldError::new(field, "nul_character", "must not hold U+0000"));
        }
    }
    for (field, number) in [
        ("conversation_id", new.conversation_id),
        ("reply_to", new.reply_to),
    ] {
        if number.is_some_and(|number| !(1..=MAX_ID).contains(&number)) {
            errors.push(FieldError::new(
                field,
                "out_of_range",
                "must be between 1 and 2^53 - 1",
            ));
        }
    }
    if !new.attachment_ids.is_empty() {
        errors.push(FieldError::new(
            "attachment_ids",
            "attachment_not_found",
            "names a file that does not exist",
        ));
    }
    if new.send_at.is_some() {
        errors.push(FieldError::new(
            "send_at",
            "not_supported",
            "this version sends at once: leave send_at out",
        ));
    }
    errors
}

/// Sends a message.
///
/// # Errors
/// 422 for wrong fields and unknown people, 403 `not_the_sender`, 404 `conversation_not_found`, 422
/// `idempotency_key_reused`.
pub async fn send(app: &App, principal: &Principal, new: NewMessage, keyed: Option<Keyed>) -> Result<Answer> {
    app.sends.send(Draft::new(principal, new, keyed)?).await
}

/// One message, for those who can see it.
///
/// # Errors
/// 404 `message_not_found`, also for those who may not see the conversation.
pub async fn get(app: &App, principal: &Principal, conversation: i64, seq: i64) -> Result<(Message, Names)> {
    let person = principal.person().map(|person| person.id);
    let found = app
        .db
        .read(
            (ConversationId(conversation), seq, person),
            |conn, (conversation, seq, person)| {
                Box::pin(async move {
                    if let Some(person) = person
                        && !store::conversations::is_member(conn, *conversation, *person).await?
                    {
                        return Ok(None);
                    }
                    let Some(message) = store::messages::one(conn, *conversation, *seq).await? else {
                        return Ok(None);
                    };
                    let names = names_of(conn, std::slice::from_ref(&message)).await?;
                    Ok(Some((message, names)))
                })
            },
        )
        .await?;
    found.ok_or(Error::NotFound {
        code: "message_not_found",
        detail: "there is no such message".into(),
    })
}

/// The names of everyone in some messages.
///
/// # Errors
/// Of the database.
pub async fn names_of(conn: &mut Conn, messages: &[Message]) -> Result<Names> {
    let mut ids: Vec<i64> = messages
        .iter()
        .flat_map(|message| [Some(message.sender_id), message.recipient_id])
        .flatten()
        .map(|id| id.0)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(Names::new());
    }
    Ok(store::users::names_by_ids(conn, &ids)
        .await?
        .into_iter()
        .collect())
}

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
        self.drafts.iter().map(|draft| Self {
            clock: self.clock.clone(),
            drafts: vec![draft.clone()],
        })
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
    let keyed = || {
        drafts
            .iter()
            .enumerate()
            .filter_map(|(index, draft)| Some((index, draft.keyed.as_ref()?)))
    };
    let digests: Vec<&[u8]> = keyed()
        .map(|(_, keyed)| keyed.request.digest.as_slice())
        .collect();
    if digests.is_empty() {
        return Ok(());
    }
    let records = store::idempotency::find(conn, &days_kept(now), &digests).await?;
    for (index, keyed) in keyed() {
        if let Some(record) = records
            .iter()
            .find(|record| record.digest == keyed.request.digest)
        {
            let replayed = keyed.request.replay(record);
            answers[index] = Some(replayed.map(|answer| Answer::Stored {
                answer,
                replayed: true,
            }));
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
    let open: Vec<(usize, &Draft)> = drafts
        .iter()
        .enumerate()
        .filter(|(index, _)| answers[*index].is_none())
        .collect();
    let people = people(conn, &open).await?;
    let members = direct_members(conn, &open).await?;
    let mut placed = Vec::with_capacity(open.len());
    for (index, draft) in open {
        let mut unknown = Vec::new();
        let sender = match &draft.sender {
            Sender::Known(person) => Some(person.clone()),
            Sender::Named(key) => people.get(key.as_str()).cloned(),
        };
        if sender.is_none() {
            unknown.push(FieldError::new(
                "sender_user_name",
                "user_not_found",
                "names no user",
            ));
        }
        let recipient = match &draft.recipient {
            Recipient::Direct(key) => {
                let person = people.get(key.as_str()).cloned();
                if person.is_none() {
                    unknown.push(FieldError::new(
                        "recipient_user_name",
                        "user_not_found",
                        "names no user",
                    ));
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
                Some(other) => (
                    Some(other)
                        .filter(|other| other.id != sender.id)
                        .or_else(|| Some(sender.clone())),
                    Target::Exists(*id),
                ),
                None => {
                    answers[index] = Some(Err(conversation_not_found()));
                    continue;
                }
            },
            (None, Recipient::Direct(_)) => continue,
        };
        placed.push(Placed {
            index,
            draft,
            sender,
            recipient,
            conversation,
        });
    }
    Ok(placed)
}

async fn people(conn: &mut Conn, drafts: &[(usize, &Draft)]) -> Result<HashMap<String, UserName>> {
    let mut keys = BTreeSet::new();
    for (_, draft) in drafts {
        if let Sender::Named(key) = &draft.sender {
            keys.insert(key.as_str());
        }
        if let Recipient::Direct(key) = &draft.recipient {
            keys.insert(key.as_str());
        }
    }
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let keys: Vec<&str> = keys.into_iter().collect();
    let found = store::users::names_by_keys(conn, &keys).await?;
    Ok(found
        .into_iter()
        .map(|user| (user.user_name_key.clone(), user))
        .collect())
}

type DirectMembers = HashMap<ConversationId, Vec<UserName>>;

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
    let names: Names = store::users::names_by_ids(conn, &people)
        .await?
        .into_iter()
        .collect();
    let mut members = DirectMembers::new();
    for (conversation, id) in rows {
        let user_name = names.get(&id).cloned().unwrap_or_default();
        members.entry(conversation).or_default().push(UserName {
            id,
            user_name_key: fold_ascii(&user_name),
            user_name,
        });
    }
    Ok(members)
}

/// The other one in a direct conversation, or oneself in notes to oneself; `None` for who is not in it.
fn other_member(members: &DirectMembers, conversation: ConversationId, sender: UserId) -> Option<UserName> {
    let members = members.get(&conversation)?;
    let own = members.iter().find(|member| member.id == sender)?;
    Some(
        members
            .iter()
            .find(|member| member.id != sender)
            .unwrap_or(own)
            .clone(),
    )
}

/// There is no such conversation for this sender.
pub fn conversation_not_found() -> Error {
    Error::NotFound {
        code: "conversation_not_found",
        detail: "there is no such conversation".into(),
    }
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
        store::conversations::direct(conn, &wanted)
            .await?
            .into_iter()
            .collect()
    };
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
    Error::invalid(
        "reply_to",
        "message_not_found",
        "is not the seq of a message of this conversation",
    )
}

/// Gives seqs, ids and times under the lock, and writes everything.
async fn write(
    conn: &mut Conn,
    now: Timestamp,
    placed: Vec<Placed<'_>>,
    answers: &mut [Option<Result<Answer>>],
) -> Result<()> {
    let ids: BTreeSet<i64> = placed
        .iter()
        .filter_map(Placed::conversation_id)
        .map(|id| id.0)
        .collect();
    let ids: Vec<i64> = ids.into_iter().collect();
    let mut heads: HashMap<ConversationId, Head> = store::conversations::lock(conn, &ids)
        .await?
        .into_iter()
        .map(|head| (head.id, head))
        .collect();
    let message_ids = store::messages::next_ids(conn, placed.len()).await?;
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
        sent.push((
            placed.index,
            placed.draft.keyed.as_ref(),
            placed.become_message(head),
        ));
    }
    if sent.is_empty() {
        return Ok(());
    }
    let mut heads: Vec<Head> = heads.into_values().filter(|head| head.last_seq > 0).collect();
    heads.sort_unstable_by_key(|head| head.id);
    store::conversations::advance(conn, &heads).await?;
    let messages: Vec<&Message> = sent.iter().map(|(_, _, sent)| &sent.message).collect();
    store::messages::append(conn, &messages).await?;
    let events: Vec<NewEvent> = messages.iter().map(|message| created(message)).collect();

    let mut records = Vec::new();
    for (index, keyed, sent) in sent {
        answers[index] = Some(Ok(match keyed {
            None => Answer::Sent(Box::new(sent)),
            Some(keyed) => {
                let answer = (keyed.render)(&sent);
                records.push(Record {
                    digest: keyed.request.digest,
                    request_hash: keyed.request.request_hash,
                    answer: answer.clone(),
                });
                Answer::Stored {
                    answer,
                    replayed: false,
                }
            }
        }));
    }
    store_records(conn, now, records).await?;
    store::events::append(conn, &events).await
}

async fn store_records(conn: &mut Conn, now: Timestamp, mut records: Vec<Record>) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    records.sort_unstable_by_key(|record| record.digest);
    match store::idempotency::insert(conn, now.day(), &records).await {
        // Another node had the same key in the same moment: run again, its answer is there to be found now.
        Err(Error::Duplicate { constraint }) => Err(Error::Rerun(constraint.into())),
        outcome => outcome,
    }
}

fn created(message: &Message) -> NewEvent {
    NewEvent {
        kind: EventKind::MessageCreated,
        conversation_id: message.conversation_id,
        seq: message.seq,
        actor_id: message.sender_id,
        at: message.timestamp_sent,
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
            },
            sender_user_name: self.sender.user_name,
            recipient_user_name: self.recipient.map(|recipient| recipient.user_name),
        }
    }
}

/// Forgets idempotency keys that are past their days, a bounded number at a time; how many.
///
/// # Errors
/// Of the database.
pub async fn forget_old_keys(app: &App) -> Result<u64> {
    let oldest_kept = app.clock.now().day() - idempotency::KEPT_DAYS;
    app.db
        .write(oldest_kept, |conn, day| {
            Box::pin(store::idempotency::delete_before(conn, *day, 1_000))
        })
        .await
}

/// Whose messages are asked for; 404 for nobody's, 403 for somebody else's.
///
/// # Errors
/// 404 `user_not_found`, 403 `not_your_messages`.
pub async fn owner(app: &App, principal: &Principal, user_name: &str) -> Result<users::User> {
    let user = users::get(app, principal, user_name).await?;
    if principal.may_read_for(user.id) {
        return Ok(user);
    }
    Err(Error::Forbidden {
        code: "not_your_messages",
        detail: "only this user may read their messages".into(),
    })
}
