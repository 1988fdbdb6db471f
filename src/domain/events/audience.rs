//! The audience of an event.
//!
//! Invariant: [`sees`] is the rule. `store::events::events::visible_between` repeats it in SQL, so that a reader who
//! continues from a cursor does not load events of other users. `tests/api/events/visibility.rs` compares the two on
//! generated event logs, on both databases.

use std::collections::{BTreeSet, HashMap};

use super::events::{Kind, LoggedEvent};
use crate::base::ids::UserId;

/// The members of a conversation, each with the `seq` after which they see messages. Sorted by user id.
#[derive(Debug, Default)]
pub struct Audience(Box<[(UserId, i64)]>);

impl Audience {
    /// Creates an audience. `members` may be in any order, and must contain each member once.
    pub fn new(mut members: Vec<(UserId, i64)>) -> Self {
        members.sort_unstable();
        Self(members.into())
    }

    /// The number of members.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no members.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The `seq` after which a user sees messages; `None` if the user is not a member.
    pub fn behind(&self, user: UserId) -> Option<i64> {
        let index = self.0.binary_search_by_key(&user, |(member, _)| *member).ok()?;
        Some(self.0[index].1)
    }
}

/// Whether a user sees an event. `visible_after` is the `seq` after which the user sees messages of the conversation; `None` if the
/// user is not a member. `last_members` are the users who were members of the group when the event deleted it.
pub fn sees(event: &LoggedEvent, user: UserId, visible_after: Option<i64>, last_members: &BTreeSet<UserId>) -> bool {
    if event.conversation_id.is_none() {
        return event.kind == Kind::UserUpdated || event.actor_id == user || event.subject_id == Some(user);
    }
    visible_after.is_some_and(|visible_after| event.seq.is_none_or(|seq| seq > visible_after))
        // A former member sees their own removal, and the deletion of a group that they were in until then.
        || (event.kind == Kind::MemberRemoved && event.subject_id == Some(user))
        || (event.kind == Kind::ConversationDeleted && last_members.contains(&user))
}

/// Calls `each` once for every online user who sees an event, with the value of the user in `online`.
pub fn for_each_viewer<V>(
    event: &LoggedEvent,
    audience: &Audience,
    last_members: &BTreeSet<UserId>,
    online: &HashMap<UserId, V>,
    mut each: impl FnMut(&V),
) {
    let mut call_if_visible = |user: UserId, visible_after: Option<i64>| {
        if let Some(value) = online.get(&user)
            && sees(event, user, visible_after, last_members)
        {
            each(value);
        }
    };
    if event.conversation_id.is_none() && event.kind == Kind::UserUpdated {
        online.keys().for_each(|user| call_if_visible(*user, None));
        return;
    }
    // Iterates over the smaller set, because a group can have far more members than there are online users.
    if audience.len() <= online.len() {
        audience.0.iter().for_each(|(user, visible_after)| call_if_visible(*user, Some(*visible_after)));
    } else {
        for user in online.keys() {
            if let Some(visible_after) = audience.behind(*user) {
                call_if_visible(*user, Some(visible_after));
            }
        }
    }
    // Apart from members, only the actor, the subject, and the last members of a deleted group can see an event.
    let named = [Some(event.actor_id), event.subject_id].into_iter().flatten();
    let last = last_members.iter().copied().filter(|_| event.kind == Kind::ConversationDeleted);
    let others: BTreeSet<UserId> = named.chain(last).filter(|user| audience.behind(*user).is_none()).collect();
    others.into_iter().for_each(|user| call_if_visible(user, None));
}
