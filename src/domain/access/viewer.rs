//! The viewer: with whose rights something is read.

use crate::base::ids::UserId;

/// With whose rights something is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// A user, who sees what a member of the conversation may see.
    Person(UserId),
    /// A caller that acts as no user, such as an API key of the operator. It sees everything.
    Everything,
}

impl Viewer {
    /// The user; `None` for a viewer of everything.
    pub const fn person(self) -> Option<UserId> {
        match self {
            Self::Person(id) => Some(id),
            Self::Everything => None,
        }
    }
}
