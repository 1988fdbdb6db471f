//! The kinds of events, each defined once: its name in the code, its `type` in JSON, and its meaning.
//!
//! Invariant: events of a [`Kind`] are stored in the event log, events of an [`EphemeralKind`] are not. Webhooks are delivered from
//! the event log, so a webhook can ask for every [`Kind`] and for no [`EphemeralKind`]. `docs/api.md` lists all of them.

/// Defines an enum of kinds. The doc comment of a kind is also its sentence in `docs/api.md`; a test compares the two.
macro_rules! kinds {
    ($(#[$about:meta])* $name:ident { $(#[doc = $meaning:literal] $kind:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $(#[doc = $meaning] $kind,)+
        }

        impl $name {
            /// Every kind, in the order of the list.
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// The `type` of an event of this kind.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $word,)+
                }
            }

            /// What an event of this kind means, as a sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$kind => $meaning.trim_ascii(),)+
                }
            }
        }
    };
}

kinds! {
    /// The kind of an event in the log.
    Kind {
        /// A message was sent.
        MessageCreated = "message.created",
        /// A message was edited, pinned or unpinned, or got a preview of its link.
        MessageUpdated = "message.updated",
        /// A message was deleted.
        MessageDeleted = "message.deleted",
        /// A user asked another user to be a friend.
        FriendRequested = "friend.requested",
        /// Two users became friends.
        FriendAccepted = "friend.accepted",
        /// A friendship or a friend request ended.
        FriendRemoved = "friend.removed",
        /// A group or a direct conversation was created.
        ConversationCreated = "conversation.created",
        /// The title, the picture or a rule of a group changed.
        ConversationUpdated = "conversation.updated",
        /// A group was deleted.
        ConversationDeleted = "conversation.deleted",
        /// A user became a member of a group.
        MemberAdded = "member.added",
        /// The role of a member changed.
        MemberUpdated = "member.updated",
        /// A member left a group or was removed from it.
        MemberRemoved = "member.removed",
        /// A reaction was added to a message.
        ReactionAdded = "reaction.added",
        /// A reaction was removed from a message.
        ReactionRemoved = "reaction.removed",
        /// Messages were delivered to a member or read by them.
        ReceiptUpdated = "receipt.updated",
        /// The name or the picture of a user changed.
        UserUpdated = "user.updated",
    }
}

kinds! {
    /// The kind of an event that is delivered to online users and not logged.
    EphemeralKind {
        /// A member is writing a message.
        Typing = "typing",
        /// A user came online, is away or went offline.
        Presence = "presence",
    }
}

impl Kind {
    /// The kind whose `type` is `word`.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_kind() {
        let documentation = std::fs::read_to_string("docs/api.md").unwrap();
        let (_, table) =
            documentation.split_once("\n| type | logged | meaning | data |\n").expect("the table of events");
        let rows = table.lines().skip(1).map_while(|row| row.strip_prefix("| "));
        let documented: Vec<Vec<&str>> = rows.map(|row| row.split(" | ").take(3).collect()).collect();
        let row =
            |word: &str, logged: &str, meaning: &str| [format!("`{word}`"), logged.to_owned(), meaning.to_owned()];
        let logged = Kind::ALL.iter().map(|kind| row(kind.as_str(), "yes", kind.meaning()));
        let ephemeral = EphemeralKind::ALL.iter().map(|kind| row(kind.as_str(), "no", kind.meaning()));
        assert_eq!(documented, logged.chain(ephemeral).collect::<Vec<_>>());
    }
}
