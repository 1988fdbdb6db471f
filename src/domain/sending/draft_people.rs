//! The people whom a draft names.

use super::drafts::{Draft, Recipient, Sender};
use crate::base::error::{Error, FieldError, Result};
use crate::store::identity::users::UserName;

/// The folded names in a draft: the sender's, and the recipient's if it names one.
pub fn keys(draft: &Draft) -> impl Iterator<Item = &str> {
    let recipient = match &draft.recipient {
        Recipient::Direct(key) => Some(key.as_str()),
        Recipient::Conversation(_) => None,
    };
    std::iter::once(draft.sender.key()).chain(recipient)
}

/// The sender of a draft, and the recipient if it names one. `find` looks a folded name up.
///
/// # Errors
/// 401 when the caller was erased or banned since they were let in; 422 on each name that is nobody's.
pub fn resolve(draft: &Draft, find: impl Fn(&str) -> Option<UserName>) -> Result<(UserName, Option<UserName>)> {
    // A banned person sends nothing, also when another caller acts for them. A bot sends by its own incoming webhook alone.
    let by_bot = matches!(draft.sender, Sender::Bot(_));
    let sender = find(draft.sender.key()).filter(|sender| !sender.is_banned && sender.is_bot == by_bot);
    if sender.is_none() && !matches!(draft.sender, Sender::Named(_)) {
        return Err(Error::Unauthenticated);
    }
    let mut unknown = Vec::new();
    if sender.is_none() {
        unknown.push(FieldError::new("sender_user_name", "user_not_found", "names no user"));
    }
    let recipient = match &draft.recipient {
        Recipient::Direct(key) => find(key),
        Recipient::Conversation(_) => None,
    };
    if recipient.is_none() && matches!(draft.recipient, Recipient::Direct(_)) {
        unknown.push(FieldError::new("recipient_user_name", "user_not_found", "names no user"));
    }
    match sender {
        Some(sender) if unknown.is_empty() => Ok((sender, recipient)),
        _ => Err(Error::Invalid(unknown)),
    }
}
