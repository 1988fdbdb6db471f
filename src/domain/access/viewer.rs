//! The viewer: the user with whose rights data is read, or a viewer who may read everything.

use crate::base::ids::UserId;

/// The user with whose rights data is read, or a viewer who may read everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// A user, who sees what a member of the conversation may see.
    Person(UserId),
    /// A caller that acts as no user, such as an API key of the operator. It sees everything.
    Everything,
}

impl Viewer {
    /// The user; `None` for a viewer who may read everything.
    pub const fn person(self) -> Option<UserId> {
        match self {
            Self::Person(id) => Some(id),
            Self::Everything => None,
        }
    }
}
