//! The kinds of conversations, and which history their members see: words in `messaging.conversations`.

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
    pub fn parse(word: &str) -> Self {
        if word == "group" { Self::Group } else { Self::Direct }
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
    pub fn parse(word: &str) -> Self {
        if word == "since_joined" { Self::SinceJoined } else { Self::All }
    }
}
