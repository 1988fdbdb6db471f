//! `/api/conversations/{id}/messages/{seq}/reactions`: reactions to a message.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::messages::reactions::{self, Named};
use crate::http::access::policy::{PersonWriting, Reader};
use crate::http::bodies::answers::{json, no_content};
use crate::http::bodies::extract::{Path, Query};
use crate::http::bodies::messages::{Reaction, ShownEmoji};
use crate::http::bodies::parameters::{IdSchema, MessagePath};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// A reaction to a message with the names of the users.
#[derive(Serialize, ToSchema)]
pub struct NamedReaction<'a> {
    /// The emoji, or `:name:` for a custom emoji.
    #[schema(example = "👍", value_type = String)]
    emoji: Cow<'a, str>,
    /// The id of a custom emoji. Absent for an emoji of the Unicode set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, nullable = false)]
    custom_emoji_id: Option<i64>,
    /// The path of the picture of a custom emoji. Absent for an emoji of the Unicode set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    url: Option<String>,
    /// The number of users with this reaction.
    #[schema(minimum = 1, example = 1)]
    count: i64,
    /// Whether the caller has this reaction.
    me: bool,
    /// The names of the first 50 users, ordered by id.
    #[schema(max_items = 50, example = json!(["bugs"]))]
    user_names: &'a [String],
}

/// Path parameters of a route about one reaction to a message.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ReactionPath {
    /// The id of the conversation.
    #[param(value_type = IdSchema, inline, example = 1)]
    id: i64,
    /// The `seq` of the message in the conversation.
    #[param(value_type = IdSchema, inline, example = 1)]
    seq: i64,
    /// The emoji or its `:shortcode:`; or a custom emoji by its `:name:`, or by its id as `custom:1`.
    #[param(example = ":+1:")]
    emoji: String,
}

/// Add a reaction to a message
///
/// Has no effect if the caller already has this reaction.
#[utoipa::path(
    put,
    path = "/api/conversations/{id}/messages/{seq}/reactions/{emoji}",
    tag = "reactions",
    params(ReactionPath),
    responses(
        (status = 201, description = "Added.", body = Reaction<'_>),
        (status = 200, description = "The caller already had this reaction.", body = Reaction<'_>),
        (status = 409, description = "`message_deleted`, `too_many_reactions`."),
    ),
)]
pub async fn put_reaction(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<ReactionPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let (tally, new) = reactions::add(&state.app, &principal, path.id, path.seq, &path.emoji).await?;
    json(if new { StatusCode::CREATED } else { StatusCode::OK }, &Reaction::new(&tally))
}

/// Remove a reaction of the caller
///
/// Reactions of other users stay.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}/messages/{seq}/reactions/{emoji}",
    tag = "reactions",
    params(ReactionPath),
    responses((status = 204, description = "Removed.")),
)]
pub async fn delete_reaction(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<ReactionPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    reactions::remove(&state.app, &principal, path.id, path.seq, &path.emoji).await?;
    Ok(no_content())
}

/// List the reactions to a message
///
/// Ordered by their first addition, at most 20, with the names of the users.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages/{seq}/reactions",
    tag = "reactions",
    params(MessagePath),
    responses((status = 200, description = "The reactions.", body = Vec<NamedReaction<'_>>)),
)]
pub async fn list_reactions(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    Path(path): Path<MessagePath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let named = reactions::list(&state.app, &principal, path.id, path.seq).await?;
    let bodies: Vec<NamedReaction<'_>> = named
        .iter()
        .map(|Named { tally, user_names }| {
            let ShownEmoji { emoji, custom_emoji_id, url } = ShownEmoji::new(tally);
            NamedReaction { emoji, custom_emoji_id, url, count: tally.count, me: tally.me, user_names }
        })
        .collect();
    json(StatusCode::OK, &bodies)
}
