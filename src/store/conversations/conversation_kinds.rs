//! The kinds of conversations, and which history their members see: words in `messaging.conversations`.

use crate::base::error::Result;
use crate::store::db::words;

/// What sort of conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of two people, or one's notes to oneself.
    Direct,
    /// Of any number.
    Group,
}

impl Kind {
    /// As it stands in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Group => "group",
        }
    }

    /// The sort of a word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`](crate::base::error::Error::UnknownValue).
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("conversations.kind", &[Self::Direct, Self::Group], Self::as_str, word)
    }
}

/// What those see of a group who joined later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// Everything.
    All,
    /// What came after them.
    SinceJoined,
}

impl History {
    /// As it stands in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::SinceJoined => "since_joined",
        }
    }

    /// The history of a word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`](crate::base::error::Error::UnknownValue).
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("conversations.history", &[Self::All, Self::SinceJoined], Self::as_str, word)
    }

    /// The first seq that a member sees who joined when the conversation had `joined_seq` messages.
    pub const fn first_seq(self, joined_seq: i64) -> i64 {
        match self {
            Self::All => 1,
            Self::SinceJoined => joined_seq + 1,
        }
    }
}
