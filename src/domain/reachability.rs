//! Who may write to whom, and add whom to a group.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::ids::UserId;
use crate::store;
use crate::store::db::Conn;
use crate::store::users::{DirectMessagesFrom, UserName};

/// Those of some pairs of a sender and a recipient of whom the recipient does not hear: they take direct messages from friends
/// alone and are none, or block the sender. Both look the same. Nobody is asked about who takes them from everyone and
/// blocks no one, or about oneself.
///
/// # Errors
/// Of the database.
pub async fn refused<'a>(
    conn: &mut Conn,
    pairs: impl Iterator<Item = (UserId, &'a UserName)>,
    default: DirectMessagesFrom,
) -> Result<BTreeSet<(UserId, UserId)>> {
    // A bot has no friends, and reads nothing.
    let friends_only = |person: &UserName| {
        person.is_bot || person.direct_messages_from.unwrap_or(default) == DirectMessagesFrom::Friends
    };
    let guarded: BTreeMap<(UserId, UserId), bool> = pairs
        .filter(|(sender, recipient)| *sender != recipient.id)
        .filter(|(_, recipient)| friends_only(recipient) || recipient.blocks_someone)
        .map(|(sender, recipient)| ((sender, recipient.id), friends_only(recipient)))
        .collect();
    if guarded.is_empty() {
        return Ok(BTreeSet::new());
    }
    let pairs: Vec<(UserId, UserId)> = guarded.keys().copied().collect();
    let between = store::friends::between(conn, &pairs).await?;
    let is_refused = |pair: &(UserId, UserId), friends_only: bool| {
        between.blocked.contains(pair) || (friends_only && !between.friends.contains(pair))
    };
    Ok(guarded.into_iter().filter(|(pair, only)| is_refused(pair, *only)).map(|(pair, _)| pair).collect())
}

/// That people take direct messages from somebody: who does not is not added to groups by them either.
///
/// # Errors
/// 403 `not_friends`.
pub async fn assert_welcome(
    conn: &mut Conn,
    caller: &UserName,
    people: &[UserName],
    default: DirectMessagesFrom,
) -> Result<()> {
    let pairs = people.iter().map(|person| (caller.id, person));
    let refused = refused(conn, pairs, default).await?;
    match people.iter().find(|person| refused.contains(&(caller.id, person.id))) {
        None => Ok(()),
        Some(person) => {
            let detail = format!("{} is added to groups, and written to, by friends alone", person.user_name);
            Err(Error::Forbidden { code: "not_friends", detail: detail.into() })
        }
    }
}
