//! `/api/search`.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::lists::Page;
use crate::domain::search::{self, Found, Question};
use crate::http::answers::{list, to_json};
use crate::http::bodies_messages::{MessageBody, render};
use crate::http::extract::Query;
use crate::http::policy::Reader;
use crate::http::problem::Problem;
use crate::http::state::HttpState;

/// A message that was found.
#[derive(Serialize, ToSchema)]
pub struct SearchHit<'a> {
    #[schema(inline = false)]
    message: MessageBody<'a>,
    /// The part of its body around the first hit; `…` where it was cut.
    #[schema(example = "Hey, whats up?", max_length = 162)]
    snippet: &'a str,
    /// Where the hits are in the snippet: first character and the one behind the last, in Unicode code points.
    #[schema(value_type = Vec<Vec<u32>>, example = json!([[0, 3]]))]
    ranges: &'a [[usize; 2]],
}

/// Find messages by what is said in them.
#[utoipa::path(
    get,
    path = "/api/search/messages",
    tag = "messages",
    params(
        ("q" = String, Query, description = "Words, all of which must be there; `\"phrases\"`; `prefix*`. Case and accents make no difference.", example = "whats up", max_length = 500),
        ("from" = Option<String>, Query, description = "Only what this user wrote; `me` is the caller."),
        ("conversation_id" = Option<i64>, Query, description = "Only what was said there.", minimum = 1, maximum = 9_007_199_254_740_991_i64),
        ("before" = Option<String>, Query, description = "Only what was sent before: a date, whose first moment in UTC is meant, or an RFC 3339 time."),
        ("after" = Option<String>, Query, description = "Only what was sent then or later: likewise."),
        ("has" = Option<HasWord>, Query, description = "Only what has such a thing with it."),
        ("limit" = Option<u32>, Query, description = "Entries of the page; 50 when it is absent.", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "Where the page begins: taken from a Link header as it is."),
    ),
    responses(
        (status = 200, description = "What was found, newest first. `Link` names the next page while there is one.", body = Vec<SearchHit<'_>>, headers(
            ("Link" = Option<String>, description = "`</api/search/messages?…>; rel=\"next\"`"),
        )),
        (status = 404, description = "`conversation_not_found`: there is none with this `conversation_id` that the caller sees."),
    ),
)]
pub async fn search_messages(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    mut query: Query,
) -> Result<Response, Problem> {
    let texts = ["q", "from", "before", "after", "has"].map(|name| (name, query.peek(name)));
    let question = Question {
        q: query.text("q"),
        from: query.text("from"),
        conversation_id: query.number("conversation_id"),
        before: query.date("before"),
        after: query.date("after"),
        has: query.text("has"),
        limit: query.limit(),
        cursor: query.text("cursor"),
    };
    query.finish()?;
    let (limit, conversation) = (question.limit.get(), question.conversation_id);
    let Page { entries, next } = search::messages(&state.app, &principal, question, render).await?;
    let next = next.map(|cursor| {
        let mut parameters: Vec<(&str, String)> =
            texts.into_iter().filter_map(|(name, text)| Some((name, text?))).collect();
        parameters.extend(conversation.map(|id| ("conversation_id", id.to_string())));
        parameters.extend([("limit", limit.to_string()), ("cursor", cursor)]);
        parameters
    });
    Ok(list(join(&entries)?, uri.path(), next))
}

/// A JSON array of [`SearchHit`]s, whose messages are rendered already.
fn join(entries: &[Found]) -> Result<Vec<u8>, Problem> {
    let mut array = vec![b'['];
    for (index, found) in entries.iter().enumerate() {
        if index > 0 {
            array.push(b',');
        }
        array.extend_from_slice(b"{\"message\":");
        array.extend_from_slice(&found.message);
        array.extend_from_slice(b",\"snippet\":");
        array.extend(to_json(&found.snippet, found.snippet.len() + 2)?);
        array.extend_from_slice(b",\"ranges\":");
        array.extend(to_json(&found.ranges, 16)?);
        array.push(b'}');
    }
    array.push(b']');
    Ok(array)
}

/// What a message may have with it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HasWord {
    /// A file.
    Attachment,
    /// A link.
    Link,
}
