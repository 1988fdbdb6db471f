//! The model: the committed changes, and which readers must or may get their events.

use std::collections::HashMap;

use super::USERS;
use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::domain::access::viewer::Viewer;
use crate::store;
use crate::store::conversations::members::{NewMember, Role};
use crate::store::db::Conn;
use crate::store::events::events::{Kind, NewEvent};

/// A change that a writer makes, with one event.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Message(ConversationId),
    Conversation(ConversationId),
    User(UserId),
    Add(ConversationId, UserId),
    Remove(ConversationId, UserId),
}

impl Change {
    pub fn event(self, at: Timestamp) -> NewEvent<'static> {
        let of = |kind, conversation| NewEvent::of_conversation(kind, conversation, USERS[0], at);
        match self {
            Self::Message(conversation) => of(Kind::MessageUpdated, conversation).message(1),
            Self::Conversation(conversation) => of(Kind::ConversationUpdated, conversation),
            Self::User(user) => NewEvent::between(Kind::UserUpdated, user, user, at),
            Self::Add(conversation, user) => of(Kind::MemberAdded, conversation).about(user),
            Self::Remove(conversation, user) => of(Kind::MemberRemoved, conversation).about(user),
        }
    }

    pub async fn apply(self, conn: &mut Conn, at: Timestamp) -> Result<()> {
        match self {
            Self::Add(conversation, user) => {
                let new = [NewMember { user, role: Role::Member }];
                store::conversations::members::insert(conn, conversation, &new, 0, at).await?;
            }
            Self::Remove(conversation, user) => {
                store::conversations::members::delete(conn, conversation, user, at).await?
            }
            _ => {}
        }
        Ok(())
    }

    pub const fn conversation(self) -> Option<ConversationId> {
        match self {
            Self::Message(id) | Self::Conversation(id) | Self::Add(id, _) | Self::Remove(id, _) => Some(id),
            Self::User(_) => None,
        }
    }
}

/// The committed changes.
#[derive(Default)]
pub struct Model {
    /// The position before the first change.
    pub base: i64,
    /// One change for each position after `base`.
    pub log: Vec<Change>,
    /// For each user and conversation, the positions at which the user joined and left, in turn.
    pub membership_changes: HashMap<(ConversationId, UserId), Vec<i64>>,
    /// The position up to which events were deleted from the log.
    pub trimmed: i64,
}

impl Model {
    pub fn last(&self) -> i64 {
        self.base + self.log.len() as i64
    }

    pub fn at(&self, position: i64) -> Change {
        self.log[(position - self.base - 1) as usize]
    }

    pub fn commit(&mut self, changes: &[Change]) {
        for change in changes {
            self.log.push(*change);
            if let Change::Add(conversation, user) | Change::Remove(conversation, user) = *change {
                let last = self.last();
                self.membership_changes.entry((conversation, user)).or_default().push(last);
            }
        }
    }

    pub fn is_member(&self, conversation: ConversationId, user: UserId, at: i64) -> bool {
        self.changes_of(conversation, user).iter().filter(|change| **change <= at).count() % 2 == 1
    }

    /// Whether the membership changes after `from` and up to `to`.
    pub fn membership_changes_between(&self, conversation: ConversationId, user: UserId, from: i64, to: i64) -> bool {
        self.changes_of(conversation, user).iter().any(|change| (from + 1..=to).contains(change))
    }

    fn changes_of(&self, conversation: ConversationId, user: UserId) -> &[i64] {
        self.membership_changes.get(&(conversation, user)).map_or(&[][..], Vec::as_slice)
    }

    /// Whether a reader must have got the event at `position` by now.
    pub fn must_be_delivered(&self, reader: Viewer, position: i64) -> bool {
        let change = self.at(position);
        let (Viewer::Person(user), Some(conversation)) = (reader, change.conversation()) else { return true };
        let membership_is_unchanged = !self.membership_changes_between(conversation, user, position, self.last());
        let is_own_removal = matches!(change, Change::Remove(_, subject) if subject == user);
        // A removal also removes all earlier events of the conversation from the queue, including an earlier removal.
        membership_is_unchanged && (is_own_removal || self.is_member(conversation, user, position))
    }

    /// Whether a reader may get the event at `position` now. The audience of the event was determined when the log ended at `since`
    /// or later.
    pub fn may_be_delivered(&self, reader: Viewer, position: i64, since: i64) -> bool {
        let change = self.at(position);
        let (Viewer::Person(user), Some(conversation)) = (reader, change.conversation()) else { return true };
        let since = position.max(since);
        matches!(change, Change::Remove(_, subject) if subject == user)
            || self.is_member(conversation, user, since)
            || self.membership_changes_between(conversation, user, since, self.last())
    }
}
