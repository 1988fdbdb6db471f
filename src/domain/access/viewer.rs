//! With whose rights something is read.

use crate::base::ids::UserId;

/// The reader for whom something is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// A person, who sees what a member of a conversation sees.
    Person(UserId),
    /// A caller that acts for nobody, such as the operator's API key: it sees everything.
    Everything,
}

impl Viewer {
    /// The person, if it is one.
    pub const fn person(self) -> Option<UserId> {
        match self {
            Self::Person(id) => Some(id),
            Self::Everything => None,
        }
    }
}
