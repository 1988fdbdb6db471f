//! `/api/messages`.

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::time::Timestamp;
use crate::domain::messages::messages;
use crate::domain::messages::timeline::{self, Listing};
use crate::domain::sending::drafts::NewMessage;
use crate::domain::sending::scheduled;
use crate::domain::shared::idempotency::Once;
use crate::http::access::policy::{Reader, Writer};
use crate::http::bodies::answers::{given, list, time_field};
use crate::http::bodies::extract::{JsonBody, Path, Query, idempotency_key};
use crate::http::bodies::messages::{MessageBody, join, render_sent};
use crate::http::bodies::parameters::{IdempotencyKeyHeader, PageQuery, optional_time};
use crate::http::bodies::problem::Problem;
use crate::http::bodies::scheduled::{ScheduledBody, render_accepted};
use crate::http::state::HttpState;

/// A message to be sent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"sender_user_name": "rdibari", "recipient_user_name": "bugs", "body": "hey"}))]
pub struct SendMessage {
    /// Who sends. May be left out when the caller is a user, and must be the caller's own name then.
    #[schema(min_length = 1, max_length = 32)]
    sender_user_name: Option<String>,
    /// To whom; or `conversation_id`.
    #[schema(min_length = 1, max_length = 32)]
    recipient_user_name: Option<String>,
    /// Where; or `recipient_user_name`.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    conversation_id: Option<i64>,
    /// 1 to 8,000 characters, kept byte for byte. U+0000 is refused.
    #[schema(min_length = 1, max_length = 8000, pattern = r"^[^\u0000]*$")]
    body: String,
    /// The seq of a message of the same conversation.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    reply_to: Option<i64>,
    /// Files uploaded before; none can be yet.
    #[schema(max_items = 0)]
    attachment_ids: Option<Vec<i64>>,
    /// When to send it, within a year: it is accepted with 202 then, and can be seen and taken back under `/api/scheduled`.
    #[schema(value_type = Option<String>, format = DateTime)]
    send_at: Option<String>,
}

/// Sends a message: it is on disk when the answer comes.
#[utoipa::path(
    post,
    path = "/api/messages",
    tag = "messages",
    params(IdempotencyKeyHeader),
    request_body = SendMessage,
    responses(
        (status = 201, description = "Sent.", body = MessageBody<'_>, headers(
            ("Location" = String, description = "Where the message is: `/api/conversations/{id}/messages/{seq}`."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` on the answer to a repeat."),
        )),
        (status = 202, description = "Accepted for later: the message has `send_at`.", body = ScheduledBody<'_>, headers(
            ("Location" = String, description = "Where it waits: `/api/scheduled/{id}`."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` on the answer to a repeat."),
        )),
        (status = 409, description = "`too_many_scheduled`."),
    ),
)]
pub async fn send_message(
    State(state): State<HttpState>,
    Writer(principal): Writer,
    uri: Uri,
    headers: HeaderMap,
    body: JsonBody<SendMessage>,
) -> Result<Response, Problem> {
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), &body.bytes)?;
    let new = NewMessage {
        sender_user_name: body.value.sender_user_name,
        recipient_user_name: body.value.recipient_user_name,
        conversation_id: body.value.conversation_id,
        body: body.value.body,
        reply_to: body.value.reply_to,
        attachment_ids: body.value.attachment_ids.unwrap_or_default(),
    };
    if let Some(text) = &body.value.send_at {
        let send_at = time_field("send_at", text)?;
        let once = Once { request, render: render_accepted, sealed: false };
        return Ok(given(scheduled::schedule(&state.app, &principal, new, send_at, once).await?));
    }
    let once = Once { request, render: render_sent, sealed: false };
    Ok(given(messages::send(&state.app, &principal, new, once).await?))
}

/// Whose timeline to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct TimelinePath {
    /// Whose messages; `me` is the caller.
    #[param(example = "rdibari")]
    user_name: String,
}

/// Which messages of a timeline to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TimelineFilter {
    /// The last so many days; 30 when no window is named. Not beside `since` or `until`.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 3650)]
    days: Option<i64>,
    /// Sent then or later.
    #[serde(default, deserialize_with = "optional_time")]
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Sent before.
    #[serde(default, deserialize_with = "optional_time")]
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// `asc`, oldest first, when it is absent.
    #[serde(default)]
    order: Order,
    /// Only the direct conversation with this user.
    with: Option<String>,
}

/// Every message of every conversation that the user is in.
#[utoipa::path(
    get,
    path = "/api/messages/{user_name}",
    tag = "messages",
    params(TimelinePath, TimelineFilter, PageQuery),
    responses((status = 200, description = "The messages, by `timestamp_sent` and `id`. `Link` names the next page while there is one, with the window as it was resolved for the first.", body = Vec<MessageBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/messages/…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_messages(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    Path(path): Path<TimelinePath>,
    Query((filter, page)): Query<(TimelineFilter, PageQuery)>,
) -> Result<Response, Problem> {
    let listing = Listing {
        days: filter.days,
        since: filter.since,
        until: filter.until,
        descending: filter.order == Order::Desc,
        with: filter.with,
        limit: page.limit,
        cursor: page.cursor,
    };
    let (limit, until, with) = (listing.limit.get(), listing.until, listing.with.clone());
    let order = if listing.descending { "desc" } else { "asc" };
    let found = timeline::list(&state.app, &principal, &path.user_name, listing).await?;
    let body = join(&found.page.entries);
    let next = found.page.next.map(|cursor| {
        let mut parameters = vec![
            ("order", order.to_owned()),
            ("limit", limit.to_string()),
            ("since", found.since.to_string()),
            ("cursor", cursor),
        ];
        parameters.extend(until.map(|until| ("until", until.to_string())));
        parameters.extend(with.map(|with| ("with", with)));
        parameters
    });
    Ok(list(body, uri.path(), next))
}

/// The order of a list in time.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Oldest first.
    #[default]
    Asc,
    /// Newest first.
    Desc,
}
