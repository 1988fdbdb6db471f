//! The kinds of conversations, and which history new members see. Both are stored as words in `messaging.conversations`.

use crate::base::error::Result;
use crate::store::db::words;

/// The kind of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A conversation of two users, or of one user alone (notes to oneself).
    Direct,
    /// A conversation with a title, which users join and leave.
    Group,
}

impl Kind {
    /// The word in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Group => "group",
        }
    }

    /// The kind with this word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`](crate::base::error::Error::UnknownValue).
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("conversations.kind", &[Self::Direct, Self::Group], Self::as_str, word)
    }
}

/// Which messages of a group a new member sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// All messages.
    All,
    /// Only messages that were sent after the member joined.
    SinceJoined,
}

impl History {
    /// The word in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::SinceJoined => "since_joined",
        }
    }

    /// The setting with this word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`](crate::base::error::Error::UnknownValue).
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("conversations.history", &[Self::All, Self::SinceJoined], Self::as_str, word)
    }

    /// The first `seq` that a member sees. `joined_seq` is the number of messages when the member joined.
    pub const fn first_seq(self, joined_seq: i64) -> i64 {
        match self {
            Self::All => 1,
            Self::SinceJoined => joined_seq + 1,
        }
    }
}
