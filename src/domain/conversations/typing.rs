//! Who is writing something just now.
//!
//! Invariant: nothing of it is stored. It is told to the other members of a small conversation who are there to hear it, and
//! forgotten.

use crate::app::App;
use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;
use crate::domain::access::membership::{Kind, membership};
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::store;
use crate::store::db::Conn;

/// Members of a conversation up to whom it is told that one of them writes.
pub const MEMBER_LIMIT: i64 = 100;
/// How long it is taken to last.
const LASTS_MICROS: i64 = 5_000_000;
/// What is told.
#[derive(Clone, Debug)]
pub struct Typing {
    /// Where.
    pub conversation: ConversationId,
    /// Who writes.
    pub user_name: String,
    /// Since now.
    pub at: Timestamp,
    /// Until when, if nothing more is heard.
    pub until: Timestamp,
    /// To whom.
    pub to: Vec<i64>,
}

/// Somebody writes; what is to be told of it, if anything.
///
/// # Errors
/// 404 `conversation_not_found`.
pub async fn typing(app: &App, principal: &Principal, conversation: i64) -> Result<Option<Typing>> {
    let person = principal.require_person()?;
    let conversation = ConversationId(conversation);
    let to = app
        .db
        .read((person.id, conversation), |conn, (user, conversation)| Box::pin(listeners(conn, *user, *conversation)))
        .await?;
    let at = app.clock.now();
    if to.is_empty() || !app.typing.admit(person.id, conversation, at) {
        return Ok(None);
    }
    let until = at.plus_micros(LASTS_MICROS);
    Ok(Some(Typing { conversation, user_name: person.user_name.clone(), at, until, to }))
}

/// Who is told: the others. Where one of two blocks the other, nobody is: it would show who is there.
async fn listeners(conn: &mut Conn, user: UserId, conversation: ConversationId) -> Result<Vec<i64>> {
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
