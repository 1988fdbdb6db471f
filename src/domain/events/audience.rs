//! Who sees an event.
//!
//! Invariant: [`sees`] is the rule. `store::events::visible_between` states it once more in SQL, so that a reader who reads on
//! from a cursor reads no events of others from the database. `tests/api/events/visibility.rs` compares the two over generated logs,
//! on both databases.

use std::collections::{BTreeSet, HashMap};

use super::events::{Kind, Logged};
use crate::base::ids::UserId;

/// The members of a conversation, each with the seq behind which they see messages. Sorted by id.
#[derive(Debug, Default)]
pub struct Audience(Box<[(UserId, i64)]>);

impl Audience {
    /// In any order, each member once.
    pub fn new(mut members: Vec<(UserId, i64)>) -> Self {
        members.sort_unstable();
        Self(members.into())
    }

    /// How many members there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The seq behind which a person sees messages; `None` for who is no member.
    pub fn behind(&self, person: UserId) -> Option<i64> {
        let index = self.0.binary_search_by_key(&person, |(member, _)| *member).ok()?;
        Some(self.0[index].1)
    }
}

/// Whether a person sees an event, who sees the messages of its conversation behind the seq `behind`, or is no member of it.
/// `last_members` are those who were in the group until the event ended it.
pub fn sees(event: &Logged, person: UserId, behind: Option<i64>, last_members: &BTreeSet<UserId>) -> bool {
    if event.conversation_id.is_none() {
        return event.kind == Kind::UserUpdated || event.actor_id == person || event.subject_id == Some(person);
    }
    behind.is_some_and(|behind| event.seq.is_none_or(|seq| seq > behind))
        // Their own removal, and the end of a group that they were in until then.
        || (event.kind == Kind::MemberRemoved && event.subject_id == Some(person))
        || (event.kind == Kind::ConversationDeleted && last_members.contains(&person))
}

/// Calls `each` with the value of every online person who sees an event, once.
pub fn for_each_viewer<V>(
    event: &Logged,
    audience: &Audience,
    last_members: &BTreeSet<UserId>,
    online: &HashMap<UserId, V>,
    mut each: impl FnMut(&V),
) {
    let mut offer = |person: UserId, behind: Option<i64>| {
        if let Some(value) = online.get(&person)
            && sees(event, person, behind, last_members)
        {
            each(value);
        }
    };
    if event.conversation_id.is_none() && event.kind == Kind::UserUpdated {
        online.keys().for_each(|person| offer(*person, None));
        return;
    }
    // The smaller of the two is gone through: a group can have far more members than there are people online.
    if audience.len() <= online.len() {
        audience.0.iter().for_each(|(person, behind)| offer(*person, Some(*behind)));
    } else {
        for person in online.keys() {
            if let Some(behind) = audience.behind(*person) {
                offer(*person, Some(behind));
            }
        }
    }
    // Nobody else sees an event but the people who are named in it, and those who were members until it.
    let named = [Some(event.actor_id), event.subject_id].into_iter().flatten();
    let last = last_members.iter().copied().filter(|_| event.kind == Kind::ConversationDeleted);
    let others: BTreeSet<UserId> = named.chain(last).filter(|person| audience.behind(*person).is_none()).collect();
    others.into_iter().for_each(|person| offer(person, None));
}
