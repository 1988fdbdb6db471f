//! Lists of conversations: those of a user, and all of them for a program of the operator.
//!
//! Invariant: only a caller who may read everything gets the list of all.

use super::conversations::{Showing, Shown};
use crate::app::App;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::ConversationId;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::shared::pagination::{Limit, Page, begin, decode_cursor};
use crate::store;
pub use crate::store::conversations::lists::Filter;

const LIST: &str = "conversations";
const LIST_OF_ALL: &str = "all_conversations";

/// Lists the conversations of a user, those with the latest messages first; for a caller who is not a user, all conversations by id.
///
/// # Errors
/// 422 if the cursor is invalid, or for a filter that needs a user.
pub async fn list(
    app: &App,
    principal: &Principal,
    filter: Filter,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<Page<Vec<Shown>>> {
    let Some(person) = principal.viewer().person() else {
        return list_all(app, principal, filter, limit, cursor).await;
    };
    let before = match cursor {
        Some(cursor) => {
            let [micros, id] = decode_cursor::<2>(LIST, cursor)?;
            (Timestamp::from_micros(micros), ConversationId(id))
        }
        None => (Timestamp::MAX, ConversationId(i64::MAX)),
    };
    let input = (Showing::new(app, principal), person, filter, before, limit);
    let shown = app
        .db
        .read(input, |conn, (showing, person, filter, before, limit)| {
            let limit = limit.to_read();
            Box::pin(async move {
                let found = if *filter == Filter::default() {
                    store::conversations::lists::latest_of(conn, *person, *before, limit).await?
                } else {
                    store::conversations::lists::latest_filtered(conn, *person, *filter, *before, limit).await?
                };
                showing.show(conn, found).await
            })
        })
        .await?;
    Ok(Page::new(LIST, shown, limit, |last| {
        let head = last.conversation.head;
        [head.last_sent_at.micros(), head.id.0]
    }))
}

async fn list_all(
    app: &App,
    principal: &Principal,
    filter: Filter,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<Page<Vec<Shown>>> {
    let of_user = [("unread", filter.unread.is_some()), ("archived", filter.archived.is_some())];
    let errors: Vec<FieldError> = of_user
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| FieldError::new(name, "excluded", "only for the list of a user; name the user with X-Act-As"))
        .collect();
    if !errors.is_empty() {
        return Err(Error::Invalid(errors));
    }
    let after = ConversationId(begin(LIST_OF_ALL, cursor, 0)?);
    let input = (Showing::new(app, principal), filter, after, limit);
    let shown = app.db.read(input, |conn, (showing, filter, after, limit)| {
        Box::pin(async move {
            let found = store::conversations::lists::all_after(conn, *after, *filter, limit.to_read()).await?;
            showing.show(conn, found).await
        })
    });
    Ok(Page::new(LIST_OF_ALL, shown.await?, limit, |last| [last.conversation.head.id.0]))
}
