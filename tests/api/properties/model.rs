//! The rules of sending and listing, over a plain vector of messages.

use posthaste::base::time::Timestamp;
use serde_json::{Value, json};

use super::{List, Request, Send, Target, Window};
use crate::support::server::Answer;

/// The number of users of a case.
pub const PEOPLE: u8 = 4;
const KEPT_DAYS: i64 = 7;
/// An id that no conversation has.
const NO_ID: i64 = 9_000_000_000;

/// The number of bodies.
pub const TEXTS: u8 = BODIES.len() as u8;
const BODIES: &[&str] =
    &["", "hey", "é", "  spaces  ", "👩‍👩‍👧‍👦", "it's \"quoted\"", "line\nline", "$1 ?1", "%_\\", "0", "null"];

/// The body with this number. The first one is empty and not allowed.
pub fn text(number: u8) -> &'static str {
    BODIES[usize::from(number)]
}

pub struct Model {
    run: u32,
    conversations: Vec<Conversation>,
    messages: Vec<Message>,
    keys: Vec<Key>,
}

struct Conversation {
    id: i64,
    /// The smaller number first.
    pair: (u8, u8),
}

struct Message {
    conversation: usize,
    seq: i64,
    id: i64,
    sent_at: Timestamp,
    /// The message as in the answer of the server, with the times that it has by now.
    document: Value,
}

struct Key {
    send: Send,
    scope: Option<u8>,
    key: String,
    day: i64,
    body: String,
    answer: Answer,
}

/// The expected answer.
pub enum Expected {
    Refusal(u16, &'static str, Vec<&'static str>),
    Replay(Answer),
    /// A new message.
    Sent(New),
    Document(Value),
}

pub struct New {
    conversation_id: Option<i64>,
    after_id: i64,
    seq: i64,
    sent_at: Timestamp,
    sender: String,
    recipient: String,
    body: &'static str,
    reply_to: Option<u8>,
}

impl Expected {
    #[track_caller]
    pub fn assert_is(&self, answer: &Answer) {
        match self {
            Self::Refusal(status, code, fields) if *status == 422 && !fields.is_empty() => {
                assert_eq!(*code, "invalid_fields");
                answer.invalid(fields);
            }
            Self::Refusal(status, code, _) => drop(answer.problem(*status, code)),
            Self::Replay(first) => {
                assert_eq!(answer.header("idempotency-replayed"), Some("true"));
                assert_eq!((answer.status, &answer.bytes), (first.status, &first.bytes));
                assert_eq!(answer.header("location"), first.header("location"));
            }
            Self::Sent(new) => new.assert_is(answer),
            Self::Document(document) => {
                assert_eq!(answer.status, 200);
                assert_eq!(&answer.json(), document);
            }
        }
    }
}

impl New {
    #[track_caller]
    fn assert_is(&self, answer: &Answer) {
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
        assert_eq!(answer.header("idempotency-replayed"), None);
        let message = answer.json();
        let conversation = message["conversation_id"].as_i64().unwrap();
        assert!(self.conversation_id.is_none_or(|id| id == conversation), "{message}");
        assert!(message["id"].as_i64().unwrap() > self.after_id, "{message}");
        assert_eq!(message["seq"], self.seq);
        assert_eq!(message["timestamp_sent"], self.sent_at.to_string());
        assert_eq!(message["created_at"], self.sent_at.to_string());
        assert_eq!(message["sender_user_name"], self.sender);
        assert_eq!(message["recipient_user_name"], self.recipient);
        assert_eq!(message["body"], self.body);
        assert_eq!(message["reply_to"], serde_json::json!(self.reply_to));
        let location = format!("/api/conversations/{conversation}/messages/{}", self.seq);
        assert_eq!(answer.header("location"), Some(location.as_str()));
    }
}

fn invalid(fields: &[&'static str]) -> Expected {
    Expected::Refusal(422, "invalid_fields", fields.to_vec())
}

impl Model {
    pub fn new(run: u32) -> Self {
        Self { run, conversations: Vec::new(), messages: Vec::new(), keys: Vec::new() }
    }

    pub fn names(&self) -> Vec<String> {
        (0..PEOPLE).map(|person| self.name(person)).collect()
    }

    /// The user name that a call sends for this number.
    pub fn name(&self, number: u8) -> String {
        match number {
            PEOPLE => format!("nobody{}", self.run),
            number if number > PEOPLE => self.name(number - PEOPLE - 1).to_uppercase(),
            number => format!("person{}.{}", number, self.run),
        }
    }

    /// The existing user for whom this number stands, or `None` for the unknown user.
    fn person(number: u8) -> Option<u8> {
        match number {
            PEOPLE => None,
            number if number > PEOPLE => Some(number - PEOPLE - 1),
            number => Some(number),
        }
    }

    pub fn key(&self, number: u8) -> String {
        format!("key {number} of {}", self.run)
    }

    /// The id of a conversation of this case, or an unknown one.
    pub fn conversation_id(&self, number: u8) -> i64 {
        self.conversations.get(usize::from(number)).map_or(NO_ID, |conversation| conversation.id)
    }

    /// One of the accepted sends that had a key.
    pub fn send_with_key(&self, number: u8) -> Option<Send> {
        self.keys.get(usize::from(number) % self.keys.len().max(1)).map(|used| used.send.clone())
    }

    fn between(&self, one: u8, other: u8) -> Option<usize> {
        let pair = (one.min(other), one.max(other));
        self.conversations.iter().position(|conversation| conversation.pair == pair)
    }

    fn last(&self, conversation: usize) -> Option<&Message> {
        self.messages.iter().rfind(|message| message.conversation == conversation)
    }

    /// The expected answer to a send. `None` if the key was used for two messages and both answers are possible: the key was
    /// used again after it had expired, and then the clock was set back.
    pub fn expect_send(&self, send: &Send, request: &Request, now: Timestamp) -> Option<Expected> {
        let acting = match send.acting.map(Self::person) {
            Some(None) => return Some(invalid(&["X-Act-As"])),
            Some(Some(person)) => Some(person),
            None => None,
        };
        let sender = send.sender.map(Self::person);
        if let (Some(acting), Some(sender)) = (acting, sender)
            && Some(acting) != sender
        {
            return Some(Expected::Refusal(403, "not_the_sender", Vec::new()));
        }
        let mut wrong = Vec::new();
        if text(send.body).is_empty() {
            wrong.push("body");
        }
        if acting.is_none() && sender.is_none() {
            wrong.push("sender_user_name");
        }
        if !wrong.is_empty() {
            return Some(invalid(&wrong));
        }
        let uses: Vec<&Key> = self.uses_of(acting, request, now).collect();
        match uses[..] {
            [] => {}
            [used] if Some(&used.body) == request.body.as_ref() => return Some(Expected::Replay(used.answer.clone())),
            [_] => return Some(Expected::Refusal(422, "idempotency_key_reused", Vec::new())),
            _ => return None,
        }
        let sender = acting.or(sender.flatten());
        let recipient = match send.target {
            Target::Person(number) => Some(Self::person(number)),
            Target::Conversation(_) => None,
        };
        let unknown = [("sender_user_name", sender.is_none()), ("recipient_user_name", recipient == Some(None))];
        let unknown: Vec<_> =
            unknown.into_iter().filter(|(_, is_unknown)| *is_unknown).map(|(field, _)| field).collect();
        let Some(sender) = sender.filter(|_| unknown.is_empty()) else { return Some(invalid(&unknown)) };
        Some(self.expect_placed(send, sender, recipient.flatten(), now))
    }

    fn uses_of(&self, scope: Option<u8>, request: &Request, now: Timestamp) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |used| {
            used.scope == scope && Some(&used.key) == request.key.as_ref() && used.day >= now.day() - KEPT_DAYS
        })
    }

    fn expect_placed(&self, send: &Send, sender: u8, recipient: Option<u8>, now: Timestamp) -> Expected {
        let (conversation, recipient) = match (recipient, &send.target) {
            (Some(recipient), _) => (self.between(sender, recipient), recipient),
            (None, Target::Conversation(number)) => match self.conversations.get(usize::from(*number)) {
                Some(Conversation { pair, .. }) if pair.0 == sender || pair.1 == sender => {
                    let other = if pair.0 == sender { pair.1 } else { pair.0 };
                    (Some(usize::from(*number)), other)
                }
                _ => return Expected::Refusal(404, "conversation_not_found", Vec::new()),
            },
            (None, Target::Person(_)) => unreachable!("an unknown recipient was refused before"),
        };
        let last = conversation.and_then(|conversation| self.last(conversation));
        let last_seq = last.map_or(0, |last| last.seq);
        if send.reply_to.is_some_and(|seq| i64::from(seq) > last_seq) {
            return invalid(&["reply_to"]);
        }
        Expected::Sent(New {
            conversation_id: conversation.map(|conversation| self.conversations[conversation].id),
            after_id: self.messages.last().map_or(0, |message| message.id),
            seq: last_seq + 1,
            sent_at: last.map_or(now, |last| last.sent_at.max(now)),
            sender: self.name(sender),
            recipient: self.name(recipient),
            body: text(send.body),
            reply_to: send.reply_to,
        })
    }

    /// Adds a message that was sent.
    pub fn sent(&mut self, send: &Send, request: &Request, now: Timestamp, answer: &Answer) {
        let document = answer.json();
        let number = |field: &str| document[field].as_i64().unwrap();
        let acting = send.acting.and_then(Self::person);
        let known = self.conversations.iter().position(|conversation| conversation.id == number("conversation_id"));
        let conversation = known.unwrap_or_else(|| {
            let sender = acting.or(send.sender.and_then(Self::person)).unwrap();
            let Target::Person(recipient) = send.target else { unreachable!("only a name makes a conversation") };
            let recipient = Self::person(recipient).unwrap();
            let pair = (sender.min(recipient), sender.max(recipient));
            self.conversations.push(Conversation { id: number("conversation_id"), pair });
            self.conversations.len() - 1
        });
        let sent_at = Timestamp::parse(document["timestamp_sent"].as_str().unwrap()).unwrap();
        // A sender who answers has read the messages before the answer.
        for earlier in self.messages.iter_mut().filter(|one| one.conversation == conversation) {
            if earlier.document["recipient_id"] == document["sender_id"] && earlier.document["timestamp_read"].is_null()
            {
                for field in ["timestamp_delivered", "timestamp_read"] {
                    earlier.document[field] = document["timestamp_sent"].clone();
                }
            }
        }
        let parent = document["reply_to"].as_i64();
        let is_parent = |message: &&mut Message| message.conversation == conversation && Some(message.seq) == parent;
        for parent in self.messages.iter_mut().filter(is_parent) {
            let before = parent.document["thread"]["reply_count"].as_i64().unwrap_or(0);
            parent.document["thread"] = json!({"reply_count": before + 1, "last_reply_at": document["timestamp_sent"]});
        }
        self.messages.push(Message {
            conversation,
            seq: number("seq"),
            id: number("id"),
            sent_at,
            document: document.clone(),
        });
        if let (Some(key), Some(body)) = (&request.key, &request.body) {
            let (key, body) = (key.clone(), body.clone());
            self.keys.push(Key {
                send: send.clone(),
                scope: acting,
                key,
                day: now.day(),
                body,
                answer: answer.clone(),
            });
        }
    }

    pub fn expect_one(&self, acting: Option<u8>, conversation_id: i64, seq: i64) -> Expected {
        let reader = acting.map(Self::person);
        if reader == Some(None) {
            return invalid(&["X-Act-As"]);
        }
        let found = self.messages.iter().find(|message| {
            let conversation = &self.conversations[message.conversation];
            let pair = [conversation.pair.0, conversation.pair.1].map(Some);
            conversation.id == conversation_id
                && message.seq == seq
                && reader.is_none_or(|reader| pair.contains(&reader))
        });
        match found {
            Some(message) => Expected::Document(message.document.clone()),
            None => Expected::Refusal(404, "message_not_found", Vec::new()),
        }
    }

    /// The start (inclusive) and the end (exclusive) of the window.
    pub fn window(&self, window: &Window, now: Timestamp) -> (Timestamp, Option<Timestamp>) {
        let moment = |moment: &super::Moment| {
            let message = self.messages.get(usize::from(moment.message)).or(self.messages.last());
            let at = message.map_or(now, |message| message.sent_at);
            Timestamp::from_micros(at.micros() + moment.beside_micros)
        };
        match window {
            Window::Default => (now.days_before(30), None),
            Window::Days(days) => (now.days_before(*days), None),
            Window::Since(since) => (moment(since), None),
            Window::Until(until) => (moment(until).days_before(30), Some(moment(until))),
            Window::Between(since, until) => (moment(since), Some(moment(until))),
        }
    }

    /// Every message that the list must show, in order.
    pub fn expect_list(
        &self,
        list: &List,
        since: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<Vec<Value>, Box<Expected>> {
        let acting = list.acting.map(Self::person);
        if acting == Some(None) {
            return Err(invalid(&["X-Act-As"]).into());
        }
        let person = Self::person(list.person);
        let Some(owner) = person else { return Err(Expected::Refusal(404, "user_not_found", Vec::new()).into()) };
        if acting.is_some_and(|acting| acting != person) {
            return Err(Expected::Refusal(403, "not_your_messages", Vec::new()).into());
        }
        let with = list.with.map(Self::person);
        if with == Some(None) {
            return Err(invalid(&["with"]).into());
        }
        let only = with.flatten().map(|with| self.between(owner, with));
        let mut messages: Vec<&Message> = self
            .messages
            .iter()
            .filter(|message| {
                let pair = self.conversations[message.conversation].pair;
                (pair.0 == owner || pair.1 == owner)
                    && only.is_none_or(|only| only == Some(message.conversation))
                    && message.sent_at >= since
                    && until.is_none_or(|until| message.sent_at < until)
            })
            .collect();
        messages.sort_by_key(|message| (message.sent_at, message.id));
        if list.descending == Some(true) {
            messages.reverse();
        }
        Ok(messages.into_iter().map(|message| message.document.clone()).collect())
    }
}
