//! `/api/messages`: sending a message, and the timeline of a user.

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
use crate::http::bodies::answers::{given, list, not_null, time_field};
use crate::http::bodies::extract::{JsonBody, Path, Query, idempotency_key};
use crate::http::bodies::messages::{MessageBody, join, render_sent};
use crate::http::bodies::parameters::{IdempotencyKeyHeader, PageQuery, optional_time};
use crate::http::bodies::problem::Problem;
use crate::http::bodies::scheduled::{ScheduledBody, render_accepted};
use crate::http::state::HttpState;

/// Request body for sending a message. Give exactly one of `recipient_user_name` and `conversation_id`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"recipient_user_name": "elmer", "body": "hey"}))]
pub struct SendMessage {
    /// The sender. Needed if the caller is not a user. Otherwise it may be absent or the caller's own name.
    #[schema(min_length = 1, max_length = 32)]
    sender_user_name: Option<String>,
    /// The recipient of a direct message.
    #[schema(min_length = 1, max_length = 32)]
    recipient_user_name: Option<String>,
    /// The conversation to send to.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    conversation_id: Option<i64>,
    /// The text: 1 to 8,000 characters, stored byte for byte. May be empty or absent if there are attachments. U+0000 is refused.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, max_length = 8000, pattern = r"^[^\u0000]*$")]
    body: Option<String>,
    /// The `seq` of the message that this one replies to, in the same conversation.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    reply_to: Option<i64>,
    /// The files that the message holds, in this order: ids of attachments that the sender uploaded or may see.
    #[schema(max_items = 10)]
    attachment_ids: Option<Vec<i64>>,
    /// Whether the message gets a preview of the first link in its text, if the server makes previews. True if absent.
    link_preview: Option<bool>,
    /// The time at which the message is sent, at most one year from now. The message is then accepted with 202, and can be read
    /// and cancelled under `/api/scheduled`.
    #[schema(value_type = Option<String>, format = DateTime)]
    send_at: Option<String>,
}

/// Send a message
///
/// When the answer arrives, the message is stored on disk.
#[utoipa::path(
    post,
    path = "/api/messages",
    tag = "messages",
    params(IdempotencyKeyHeader),
    request_body = SendMessage,
    responses(
        (status = 201, description = "Sent.", body = MessageBody<'_>, headers(
            ("Location" = String, description = "The path of the message: `/api/conversations/{id}/messages/{seq}`."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
        )),
        (status = 202, description = "The message has `send_at` and was accepted as a scheduled message.", body = ScheduledBody<'_>, headers(
            ("Location" = String, description = "The path of the scheduled message: `/api/scheduled/{id}`."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
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
        body: body.value.body.unwrap_or_default(),
        reply_to: body.value.reply_to,
        attachment_ids: body.value.attachment_ids.unwrap_or_default(),
        link_preview_declined: body.value.link_preview == Some(false),
    };
    if let Some(text) = &body.value.send_at {
        let send_at = time_field("send_at", text)?;
        let once = Once { request, render: render_accepted, sealed: false };
        return Ok(given(scheduled::schedule(&state.app, &principal, new, send_at, once).await?));
    }
    let once = Once { request, render: render_sent, sealed: false };
    Ok(given(messages::send(&state.app, &principal, new, once).await?))
}

/// Path parameter of a route about the timeline of one user.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct TimelinePath {
    /// The name of the user, or `me` for the caller.
    #[param(example = "me")]
    user_name: String,
}

/// Which messages of a timeline to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TimelineFilter {
    /// Messages of this number of days before now. 30 if `days`, `since` and `until` are absent. Cannot be combined with `since`
    /// or `until`.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 3650)]
    days: Option<i64>,
    /// Messages sent at this time or later. A date stands for its beginning in UTC.
    #[serde(default, deserialize_with = "optional_time")]
    #[param(value_type = Option<String>)]
    since: Option<Timestamp>,
    /// Messages sent before this time. A date stands for its beginning in UTC.
    #[serde(default, deserialize_with = "optional_time")]
    #[param(value_type = Option<String>)]
    until: Option<Timestamp>,
    /// `asc` (oldest first) if absent.
    #[serde(default)]
    order: Order,
    /// Only messages of the direct conversation with this user.
    with: Option<String>,
}

/// List the timeline of a user
///
/// The messages of all conversations of the user.
#[utoipa::path(
    get,
    path = "/api/messages/{user_name}",
    tag = "messages",
    params(TimelinePath, TimelineFilter, PageQuery),
    responses((status = 200, description = "The messages, ordered by `timestamp_sent` and `id`. `Link` has the path of the next page, if there is one. It keeps the time range of the first page.", body = Vec<MessageBody<'_>>, headers(
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

/// The order of a list by time.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Oldest first.
    #[default]
    Asc,
    /// Newest first.
    Desc,
}
