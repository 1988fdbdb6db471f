//! What the server says in a conversation.
//!
//! Invariant: names are written when a message is read, from who is there then: whoever was erased is nobody any more.

use crate::domain::identity::names::Names;
use crate::store::messages::messages::{Action, Message};

/// The text of a system message.
pub fn text(action: Action, message: &Message, names: &Names) -> String {
    let name = |id| names.get(&id).map_or("somebody", String::as_str);
    let actor = name(message.sender_id);
    let subject = message.subject_id.map_or("somebody", name);
    let detail = &message.body;
    match action {
        Action::GroupCreated => format!("{actor} created the group"),
        Action::TitleChanged => format!("{actor} changed the title to {detail}"),
        Action::AvatarChanged => format!("{actor} changed the picture"),
        Action::HistoryChanged if detail == "all" => format!("{actor} let everybody see what was said before"),
        Action::HistoryChanged => format!("{actor} hid what was said before from those who join"),
        Action::MemberAdded => format!("{actor} added {subject}"),
        Action::MemberJoined => format!("{subject} joined"),
        Action::MemberLeft => format!("{subject} left"),
        Action::MemberRemoved => format!("{actor} removed {subject}"),
        Action::RoleChanged => format!("{actor} made {subject} {detail}"),
    }
}
