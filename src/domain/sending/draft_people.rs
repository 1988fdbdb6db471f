//! Finds the users whom a draft names: its sender and its recipient.

use super::drafts::{Draft, Recipient, Sender};
use crate::base::error::{Error, FieldError, Result};
use crate::store::identity::users::UserSummary;

/// The folded user names in a draft: that of the sender, and that of the recipient if the draft names one.
pub fn keys(draft: &Draft) -> impl Iterator<Item = &str> {
    let recipient = match &draft.recipient {
        Recipient::Direct(key) => Some(key.as_str()),
        Recipient::Conversation(_) => None,
    };
    std::iter::once(draft.sender.key()).chain(recipient)
}

/// The sender of a draft, and the recipient if the draft names one. `find` looks up a folded user name.
///
/// # Errors
/// 401 if the caller was erased or banned after they were authenticated; 422 for each name that no user has.
pub fn resolve(
    draft: &Draft,
    find: impl Fn(&str) -> Option<UserSummary>,
) -> Result<(UserSummary, Option<UserSummary>)> {
    // A banned user cannot send, even if another caller acts as them. A bot can send only through its own incoming
    // webhook.
    let by_bot = matches!(draft.sender, Sender::Bot(_));
    let sender = find(draft.sender.key()).filter(|sender| !sender.is_banned && sender.is_bot == by_bot);
    if sender.is_none() && !matches!(draft.sender, Sender::Named(_)) {
        return Err(Error::Unauthenticated);
    }
    let mut unknown = Vec::new();
    if sender.is_none() {
        unknown.push(FieldError::new("sender_user_name", "user_not_found", "no user has this name"));
    }
    let recipient = match &draft.recipient {
        Recipient::Direct(key) => find(key),
        Recipient::Conversation(_) => None,
    };
    if recipient.is_none() && matches!(draft.recipient, Recipient::Direct(_)) {
        unknown.push(FieldError::new("recipient_user_name", "user_not_found", "no user has this name"));
    }
    match sender {
        Some(sender) if unknown.is_empty() => Ok((sender, recipient)),
        _ => Err(Error::Invalid(unknown)),
    }
}
