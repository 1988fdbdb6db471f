//! Typing notices: a user is writing a message.
//!
//! Invariant: nothing is stored. A notice is published to the other members of a small conversation who are connected.

use crate::app::App;
use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::domain::access::membership::{Kind, membership};
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::store;
use crate::store::db::Conn;

/// The maximum number of members of a conversation in which typing is published.
pub const MEMBER_LIMIT: i64 = 100;
/// How long a notice is valid.
const VALID_MICROS: i64 = 5_000_000;

/// A typing notice.
#[derive(Clone, Debug)]
pub struct Typing {
    /// The conversation.
    pub conversation: ConversationId,
    /// The user who is typing.
    pub user_name: String,
    /// When the user was typing.
    pub at: Timestamp,
    /// When the notice stops being valid, unless a newer one arrives.
    pub until: Timestamp,
    /// The ids of the users who receive it.
    pub to: Vec<i64>,
}

/// Reports that the caller is typing. Returns the notice to publish. Returns `None` if there is nobody to receive it,
/// or if one was published less than a second ago.
///
/// # Errors
/// 403 `act_as_required`; 404 `conversation_not_found`.
pub async fn typing(app: &App, principal: &Principal, conversation: i64) -> Result<Option<Typing>> {
    let person = principal.require_person()?;
    let conversation = ConversationId(conversation);
    let to = app
        .db
        .read((person.id, conversation), |conn, (user, conversation)| Box::pin(recipients(conn, *user, *conversation)))
        .await?;
    let at = app.clock.now();
    if to.is_empty() || !app.typing.admit(person.id, conversation, at) {
        return Ok(None);
    }
    let until = at.plus_micros(VALID_MICROS);
    Ok(Some(Typing { conversation, user_name: person.user_name.clone(), at, until, to }))
}

/// The users who receive the notice: the other members. There are none in a conversation of more than [`MEMBER_LIMIT`]
/// members. There are also none in a direct conversation in which one user blocks the other, because the notice would
/// show that the user is online.
async fn recipients(conn: &mut Conn, user: UserId, conversation: ConversationId) -> Result<Vec<i64>> {
    let own = membership(conn, Viewer::Person(user), conversation).await?;
    if own.member_count > MEMBER_LIMIT {
        return Ok(Vec::new());
    }
    let members = store::conversations::members::list(conn, conversation, UserId(0), MEMBER_LIMIT).await?;
    let others: Vec<UserId> = members.into_iter().map(|member| member.user).filter(|other| *other != user).collect();
    if own.kind == Kind::Direct {
        let both_ways: Vec<(UserId, UserId)> =
            others.iter().flat_map(|other| [(user, *other), (*other, user)]).collect();
        if !store::people::friends::between(conn, &both_ways).await?.blocked.is_empty() {
            return Ok(Vec::new());
        }
    }
    Ok(others.into_iter().map(|other| other.0).collect())
}
