//! Drafts: messages that are checked and wait to be written, and the answers to sends.
//!
//! Invariant: a [`Draft`] is a message whose fields are valid. `send_batch` decides whether it may be sent, in the
//! transaction that sends it.

use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::{ConversationId, MAX_ID};
use crate::base::request_id::RequestId;
use crate::base::text::{fold_ascii, is_blank};
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::shared::idempotency::{KeyedAnswer, Once};
use crate::store::identity::users::UserSummary;
use crate::store::messages::messages::Message;

/// Longest body, in characters.
pub const MAX_BODY_CHARACTERS: usize = 8_000;
/// Most attachments of a message.
pub const MAX_ATTACHMENTS: usize = 10;

/// A message as the caller wrote it. Not checked yet.
#[derive(Clone, Debug, Default)]
pub struct NewMessage {
    /// The name of the sender. A caller who is a user may leave it out.
    pub sender_user_name: Option<String>,
    /// The user name of the recipient. Give exactly one of this and `conversation_id`.
    pub recipient_user_name: Option<String>,
    /// The conversation. Give exactly one of this and `recipient_user_name`.
    pub conversation_id: Option<i64>,
    /// At most [`MAX_BODY_CHARACTERS`] characters; at least one visible one if there are no attachments.
    pub body: String,
    /// The `seq` of the message in the same conversation that this one replies to.
    pub reply_to: Option<i64>,
    /// At most [`MAX_ATTACHMENTS`] different attachments.
    pub attachment_ids: Vec<i64>,
    /// Whether the sender wants no preview of its link.
    pub link_preview_declined: bool,
}

/// A message that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The message.
    pub message: Message,
    /// The user name of its sender.
    pub sender_user_name: String,
    /// The user name of its recipient, in a direct conversation.
    pub recipient_user_name: Option<String>,
    /// The user names of those whom it mentions.
    pub mentioned_user_names: Vec<String>,
}

/// The answer to a send.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The message was sent now. The caller of the queue renders the answer.
    Sent(Box<Sent>),
    /// The message was sent now. Its answer was rendered and stored under the idempotency key.
    SentWithKey(KeyedAnswer, Box<Message>),
    /// The answer was stored under the idempotency key when the key was first used.
    KeyedAnswer(KeyedAnswer),
}

impl Answer {
    /// The answer to a message that was sent now. `keyed` is the stored answer if the send has an idempotency key.
    pub fn sent(sent: Sent, keyed: Option<KeyedAnswer>) -> Self {
        match keyed {
            Some(keyed) => Self::SentWithKey(keyed, Box::new(sent.message)),
            None => Self::Sent(Box::new(sent)),
        }
    }

    /// The message that was sent now.
    pub fn message(&self) -> Option<&Message> {
        match self {
            Self::Sent(sent) => Some(&sent.message),
            Self::SentWithKey(_, message) => Some(message),
            Self::KeyedAnswer(_) => None,
        }
    }
}

/// The sender of a draft.
#[derive(Clone, Debug)]
pub enum Sender {
    /// A user who was already looked up: the caller.
    Known(UserSummary),
    /// A folded user name that is still to be looked up.
    Named(String),
    /// The bot of an incoming webhook.
    Bot(UserSummary),
}

impl Sender {
    /// The folded user name.
    pub fn key(&self) -> &str {
        match self {
            Self::Known(person) | Self::Bot(person) => &person.user_name_key,
            Self::Named(key) => key,
        }
    }
}

/// The recipient of a draft.
#[derive(Clone, Debug)]
pub enum Recipient {
    /// A folded user name.
    Direct(String),
    /// A conversation by its id.
    Conversation(ConversationId),
}

/// A message whose fields are valid. The transaction that sends it decides whether it may be sent.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The sender.
    pub sender: Sender,
    /// The recipient.
    pub recipient: Recipient,
    /// The text.
    pub body: String,
    /// The `seq` of the message that it replies to.
    pub reply_to: Option<i64>,
    /// The attachments, each once.
    pub attachment_ids: Vec<i64>,
    /// Whether the sender wants no preview of its link.
    pub link_preview_declined: bool,
    /// Its idempotency key, and the function that renders its answer.
    pub once: Once<Sent>,
    /// When a scheduled message was accepted; `None` for a message that is sent now.
    pub accepted_at: Option<Timestamp>,
    /// The request that sends it.
    pub request_id: Option<RequestId>,
}

impl Draft {
    /// Validates every field of a message.
    ///
    /// # Errors
    /// 422 with every field that is wrong; 403 `not_the_sender`.
    pub fn new(principal: &Principal, new: NewMessage, once: Once<Sent>) -> Result<Self> {
        let mut errors = check_form(&new);
        let sender = match (principal.person(), new.sender_user_name) {
            (None, None) => {
                errors.push(FieldError::new(
                    "sender_user_name",
                    "required",
                    "required, because the caller is not a user",
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
                    detail: "Leave sender_user_name out or set it to your own user name".into(),
                });
            }
            (None, Some(name)) => Some(Sender::Named(fold_ascii(&name))),
        };
        let recipient = match (new.recipient_user_name, new.conversation_id) {
            (Some(name), None) => Some(Recipient::Direct(fold_ascii(&name))),
            (None, Some(id)) => Some(Recipient::Conversation(ConversationId(id))),
            (recipient, _) => {
                let code = if recipient.is_some() { "excluded" } else { "required" };
                let detail = "Give exactly one of recipient_user_name and conversation_id";
                errors.push(FieldError::new("recipient_user_name", code, detail));
                None
            }
        };
        match (sender, recipient) {
            (Some(sender), Some(recipient)) if errors.is_empty() => Ok(Self {
                sender,
                recipient,
                body: new.body,
                reply_to: new.reply_to,
                attachment_ids: new.attachment_ids,
                link_preview_declined: new.link_preview_declined,
                once,
                accepted_at: None,
                request_id: RequestId::current(),
            }),
            _ => Err(Error::Invalid(errors)),
        }
    }
}

fn check_form(new: &NewMessage) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // Every character has at least one byte. So the characters of a body need not be counted if its bytes are within
    // the limit.
    if new.attachment_ids.is_empty() && is_blank(&new.body) {
        errors.push(blank("body"));
    } else if new.body.len() > MAX_BODY_CHARACTERS && new.body.chars().count() > MAX_BODY_CHARACTERS {
        errors.push(FieldError::new("body", "too_long", format!("must have at most {MAX_BODY_CHARACTERS} characters")));
    }
    let texts = [
        ("body", Some(&new.body)),
        ("sender_user_name", new.sender_user_name.as_ref()),
        ("recipient_user_name", new.recipient_user_name.as_ref()),
    ];
    for (field, text) in texts {
        if text.is_some_and(|text| text.contains('\0')) {
            errors.push(FieldError::new(field, "nul_character", "must not contain U+0000"));
        }
    }
    for (field, number) in [("conversation_id", new.conversation_id), ("reply_to", new.reply_to)] {
        if number.is_some_and(|number| !(1..=MAX_ID).contains(&number)) {
            errors.push(FieldError::new(field, "out_of_range", "must be between 1 and 2^53 - 1"));
        }
    }
    errors.extend(check_attachment_ids(&new.attachment_ids));
    errors
}

fn check_attachment_ids(ids: &[i64]) -> Option<FieldError> {
    let error = |code, detail: String| Some(FieldError::new("attachment_ids", code, detail));
    if ids.len() > MAX_ATTACHMENTS {
        return error("too_many", format!("must have at most {MAX_ATTACHMENTS} entries"));
    }
    if ids.iter().any(|id| !(1..=MAX_ID).contains(id)) {
        return error("out_of_range", "must be between 1 and 2^53 - 1".into());
    }
    if ids.iter().enumerate().any(|(index, id)| ids[..index].contains(id)) {
        return error("duplicate", "must not contain an id more than once".into());
    }
    None
}

/// Checks that a text has 1 to `most` characters, one of them visible, and no U+0000.
///
/// # Errors
/// 422 for `field`.
pub fn check_text(field: &'static str, text: &str, most: usize) -> Result<()> {
    if is_blank(text) {
        return Err(Error::Invalid(vec![blank(field)]));
    }
    check_text_or_blank(field, text, most)
}

/// The error for a text that shows nothing.
pub fn blank(field: &'static str) -> FieldError {
    FieldError::new(field, "required", "must have at least one visible character; spaces alone are not enough")
}

/// Checks that a text has at most `most` characters and no U+0000.
///
/// # Errors
/// 422 for `field`.
pub fn check_text_or_blank(field: &'static str, text: &str, most: usize) -> Result<()> {
    if text.chars().count() > most {
        return Err(Error::invalid(field, "too_long", format!("must have at most {most} characters")));
    }
    if text.contains('\0') {
        return Err(Error::invalid(field, "nul_character", "must not contain U+0000"));
    }
    Ok(())
}
