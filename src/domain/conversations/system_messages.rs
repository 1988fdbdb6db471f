//! The texts of system messages.
//!
//! Invariant: user names are filled in when the message is read. An erased user appears as "somebody".

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
        Action::HistoryChanged if detail == "all" => {
            format!("{actor} made earlier messages visible to members who joined later")
        }
        Action::HistoryChanged => format!("{actor} hid earlier messages from members who joined later"),
        Action::MemberAdded => format!("{actor} added {subject}"),
        Action::MemberJoined => format!("{subject} joined"),
        Action::MemberLeft => format!("{subject} left"),
        Action::MemberRemoved => format!("{actor} removed {subject}"),
        Action::RoleChanged => format!("{actor} made {subject} {detail}"),
    }
}
