//! What was committed, and who is to be told of it.

use std::collections::HashMap;

use super::PEOPLE;
use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::domain::access::viewer::Viewer;
use crate::store;
use crate::store::conversations::members::{NewMember, Role};
use crate::store::db::Conn;
use crate::store::events::events::{Kind, NewEvent};

/// What a writer does.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Message(ConversationId),
    Conversation(ConversationId),
    Person(UserId),
    Add(ConversationId, UserId),
    Remove(ConversationId, UserId),
}

impl Change {
    pub fn event(self, at: Timestamp) -> NewEvent<'static> {
        let of = |kind, conversation| NewEvent::of_conversation(kind, conversation, PEOPLE[0], at);
        match self {
            Self::Message(conversation) => of(Kind::MessageUpdated, conversation).message(1),
            Self::Conversation(conversation) => of(Kind::ConversationUpdated, conversation),
            Self::Person(user) => NewEvent::between(Kind::UserUpdated, user, user, at),
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
            Self::Person(_) => None,
        }
    }
}

/// What was committed.
#[derive(Default)]
pub struct Model {
    /// The position before the first.
    pub base: i64,
    pub log: Vec<Change>,
    /// Behind which position somebody was in a conversation, and was not any more, in turn.
    pub turns: HashMap<(ConversationId, UserId), Vec<i64>>,
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
                self.turns.entry((conversation, user)).or_default().push(last);
            }
        }
    }

    pub fn is_member(&self, conversation: ConversationId, user: UserId, at: i64) -> bool {
        let turns = self.turns.get(&(conversation, user)).map_or(&[][..], Vec::as_slice);
        turns.iter().filter(|turn| **turn <= at).count() % 2 == 1
    }

    pub fn turns_between(&self, conversation: ConversationId, user: UserId, from: i64, to: i64) -> bool {
        let turns = self.turns.get(&(conversation, user)).map_or(&[][..], Vec::as_slice);
        turns.iter().any(|turn| (from + 1..=to).contains(turn))
    }

    /// Whether a reader must have been told of it by now.
    pub fn must_be_told(&self, reader: Viewer, position: i64) -> bool {
        let change = self.at(position);
        let (Viewer::Person(user), Some(conversation)) = (reader, change.conversation()) else { return true };
        let stays_as_it_is = !self.turns_between(conversation, user, position, self.last());
        let is_own_removal = matches!(change, Change::Remove(_, subject) if subject == user);
        // A removal takes everything before it away, an earlier one too.
        stays_as_it_is && (is_own_removal || self.is_member(conversation, user, position))
    }

    /// Whether a reader may be told of it now, for whom what they may see was asked when the log ended at `since`, or later.
    pub fn may_be_told(&self, reader: Viewer, position: i64, since: i64) -> bool {
        let change = self.at(position);
        let (Viewer::Person(user), Some(conversation)) = (reader, change.conversation()) else { return true };
        let since = position.max(since);
        matches!(change, Change::Remove(_, subject) if subject == user)
            || self.is_member(conversation, user, since)
            || self.turns_between(conversation, user, since, self.last())
    }
}
