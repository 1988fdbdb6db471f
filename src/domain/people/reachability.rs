//! Decides who may write to whom, and who may add whom to a group.
//!
//! Invariant: a block does not show. To a sender, a recipient who blocks them looks the same as a recipient who accepts
//! direct messages from friends only.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::base::error::{Error, Result};
use crate::base::ids::UserId;
use crate::store;
use crate::store::db::Conn;
use crate::store::identity::users::{DirectMessagesFrom, UserSummary};

/// Returns the pairs of a sender and a recipient in which the sender may not write to the recipient: the recipient
/// accepts direct messages from friends only and the sender is not a friend, or the recipient blocks the sender. The
/// database is queried only for recipients who restrict their messages or block somebody, and never for notes to
/// oneself. `default` applies to recipients who have not set `direct_messages_from`.
///
/// # Errors
/// Errors of the database.
pub async fn refused<'a>(
    conn: &mut Conn,
    pairs: impl Iterator<Item = (UserId, &'a UserSummary)>,
    default: DirectMessagesFrom,
) -> Result<BTreeSet<(UserId, UserId)>> {
    // A bot has no friends and reads nothing, so nobody may write to it.
    let friends_only = |person: &UserSummary| {
        person.is_bot || person.direct_messages_from.unwrap_or(default) == DirectMessagesFrom::Friends
    };
    let restricted: BTreeMap<(UserId, UserId), bool> = pairs
        .filter(|(sender, recipient)| *sender != recipient.id)
        .filter(|(_, recipient)| friends_only(recipient) || recipient.blocks_someone)
        .map(|(sender, recipient)| ((sender, recipient.id), friends_only(recipient)))
        .collect();
    if restricted.is_empty() {
        return Ok(BTreeSet::new());
    }
    let pairs: Vec<(UserId, UserId)> = restricted.keys().copied().collect();
    let between = store::people::friends::between(conn, &pairs).await?;
    let is_refused = |pair: &(UserId, UserId), friends_only: bool| {
        between.blocked.contains(pair) || (friends_only && !between.friends.contains(pair))
    };
    Ok(restricted.into_iter().filter(|(pair, only)| is_refused(pair, *only)).map(|(pair, _)| pair).collect())
}

/// Checks that the sender may write to all of `people` and may add them to groups.
///
/// # Errors
/// 403 `not_friends`.
pub async fn require(
    conn: &mut Conn,
    sender: &UserSummary,
    people: &[UserSummary],
    default: DirectMessagesFrom,
) -> Result<()> {
    let pairs = people.iter().map(|person| (sender.id, person));
    let refused = refused(conn, pairs, default).await?;
    match people.iter().find(|person| refused.contains(&(sender.id, person.id))) {
        None => Ok(()),
        Some(person) => {
            Err(not_friends(format!("Only friends may write to {} or add them to a group", person.user_name)))
        }
    }
}

/// The error for a recipient whom the sender may not write to.
pub fn not_friends(detail: impl Into<Cow<'static, str>>) -> Error {
    Error::Forbidden { code: "not_friends", detail: detail.into() }
}
