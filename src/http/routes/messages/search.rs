//! `/api/search`: searching messages.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::identity::names::Names;
use crate::domain::messages::search::{self, Found, SearchRequest};
use crate::domain::shared::pagination::Page;
use crate::http::access::policy::Reader;
use crate::http::bodies::answers::{list, to_json};
use crate::http::bodies::extract::Query;
use crate::http::bodies::messages::MessageBody;
use crate::http::bodies::parameters::{Date, IdSchema, PageQuery};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// The usual size of a hit in JSON, in bytes.
const SEARCH_HIT_BYTES: usize = 1_024;

/// A message that matches the search.
#[derive(Serialize, ToSchema)]
pub struct SearchHit<'a> {
    #[schema(inline = false)]
    message: MessageBody<'a>,
    /// The part of the text around the first match. `…` marks where the text was cut.
    #[schema(example = "Hey, whats up?", max_length = 162)]
    snippet: &'a str,
    /// The matches in the snippet: the position of the first character and the position after the last one, counted in Unicode
    /// code points.
    #[schema(value_type = Vec<Vec<u32>>, example = json!([[0, 3]]))]
    ranges: &'a [[usize; 2]],
}

impl<'a> SearchHit<'a> {
    fn new(found: &'a Found, names: &'a Names) -> Self {
        let message = MessageBody::named(&found.message, names);
        Self { message, snippet: &found.snippet, ranges: &found.ranges }
    }
}

/// The conditions of a search.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SearchFilter {
    /// The search terms: words, `"phrases"` and `prefix*`. A message must match all of them. Case and accents are ignored.
    #[param(value_type = String, example = "whats up", max_length = 500)]
    q: Option<String>,
    /// Only messages of this user, or of the caller with `me`.
    from: Option<String>,
    /// Only messages of this conversation.
    #[param(value_type = Option<IdSchema>, inline)]
    conversation_id: Option<i64>,
    /// Only messages sent before this date (its beginning in UTC) or this RFC 3339 time.
    #[param(value_type = Option<String>)]
    before: Option<Date>,
    /// Only messages sent at or after this date (its beginning in UTC) or this RFC 3339 time.
    #[param(value_type = Option<String>)]
    after: Option<Date>,
    /// Only messages with an attachment or with a link.
    #[param(value_type = Option<HasWord>)]
    has: Option<String>,
}

/// Search messages
///
/// Searches the messages that the caller can see. All words must occur in a message, in any order; case and accents do
/// not matter.
#[utoipa::path(
    get,
    path = "/api/search/messages",
    tag = "messages",
    params(SearchFilter, PageQuery),
    responses(
        (status = 200, description = "The matching messages, newest first. `Link` has the path of the next page, if there is one.", body = Vec<SearchHit<'_>>, headers(
            ("Link" = Option<String>, description = "`</api/search/messages?…>; rel=\"next\"`"),
        )),
        (status = 404, description = "`conversation_not_found`: the caller can see no conversation with this `conversation_id`."),
    ),
)]
pub async fn search_messages(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    Query((filter, page)): Query<(SearchFilter, PageQuery)>,
) -> Result<Response, Problem> {
    let texts = [
        ("q", filter.q.clone()),
        ("from", filter.from.clone()),
        ("before", filter.before.as_ref().map(|date| date.text.clone())),
        ("after", filter.after.as_ref().map(|date| date.text.clone())),
        ("has", filter.has.clone()),
    ];
    let question = SearchRequest {
        q: filter.q,
        from: filter.from,
        conversation_id: filter.conversation_id,
        before: filter.before.map(|date| date.begins_at),
        after: filter.after.map(|date| date.begins_at),
        has: filter.has,
        limit: page.limit,
        cursor: page.cursor,
    };
    let (limit, conversation) = (question.limit.get(), question.conversation_id);
    let (Page { entries, next }, names) = search::messages(&state.app, &principal, question).await?;
    let next = next.map(|cursor| {
        let mut parameters: Vec<(&str, String)> =
            texts.into_iter().filter_map(|(name, text)| Some((name, text?))).collect();
        parameters.extend(conversation.map(|id| ("conversation_id", id.to_string())));
        parameters.extend([("limit", limit.to_string()), ("cursor", cursor)]);
        parameters
    });
    let hits: Vec<SearchHit<'_>> = entries.iter().map(|found| SearchHit::new(found, &names)).collect();
    Ok(list(to_json(&hits, SEARCH_HIT_BYTES * hits.len())?, uri.path(), next))
}

/// Content that a search can require in a message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SearchedContent)]
pub enum HasWord {
    /// An attached file.
    Attachment,
    /// An http or https link.
    Link,
}
