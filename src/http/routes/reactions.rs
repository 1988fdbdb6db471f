//! `/api/conversations/{id}/messages/{seq}/reactions`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::reactions;
use crate::http::answers::{json, no_content};
use crate::http::bodies_messages::Reaction;
use crate::http::extract::{PathSegments, Query};
use crate::http::policy::{PersonWriting, Reader};
use crate::http::problem::Problem;
use crate::http::state::HttpState;

/// One emoji under a message, and who put it there.
#[derive(Serialize, ToSchema)]
pub struct NamedReaction<'a> {
    #[schema(example = "👍")]
    emoji: &'a str,
    /// How many people.
    #[schema(minimum = 1, example = 1)]
    count: i64,
    /// Whether the caller is among them.
    me: bool,
    /// Their names, the first 50 by their ids.
    #[schema(max_items = 50, example = json!(["bugs"]))]
    user_names: &'a [String],
}

/// Puts an emoji under a message.
#[utoipa::path(
    put,
    path = "/api/conversations/{id}/messages/{seq}/reactions/{emoji}",
    tag = "conversations",
    params(
        ("id" = i64, Path, description = "The conversation.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
        ("seq" = i64, Path, description = "The message's place in it.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
        ("emoji" = String, Path, description = "The emoji itself, or its `:shortcode:`.", example = ":+1:"),
    ),
    responses(
        (status = 201, description = "It is there now.", body = Reaction<'_>),
        (status = 200, description = "It was there before.", body = Reaction<'_>),
        (status = 409, description = "`message_deleted`, `too_many_reactions`."),
    ),
)]
pub async fn put_reaction(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    let (tally, new) = reactions::add(&state.app, &principal, path.number(0), path.number(1), path.text(2)).await?;
    json(if new { StatusCode::CREATED } else { StatusCode::OK }, &Reaction::new(&tally))
}

/// Takes an emoji of the caller's away from a message.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}/messages/{seq}/reactions/{emoji}",
    tag = "conversations",
    params(
        ("id" = i64, Path, description = "The conversation.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
        ("seq" = i64, Path, description = "The message's place in it.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
        ("emoji" = String, Path, description = "The emoji itself, or its `:shortcode:`.", example = ":+1:"),
    ),
    responses((status = 204, description = "It is gone.")),
)]
pub async fn delete_reaction(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    reactions::remove(&state.app, &principal, path.number(0), path.number(1), path.text(2)).await?;
    Ok(no_content())
}

/// The emoji under a message, in the order in which they came, and who put them there; at most 20.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}/messages/{seq}/reactions",
    tag = "conversations",
    params(
        ("id" = i64, Path, description = "The conversation.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
        ("seq" = i64, Path, description = "The message's place in it.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1),
    ),
    responses((status = 200, description = "The emoji.", body = Vec<NamedReaction<'_>>)),
)]
pub async fn list_reactions(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    let named = reactions::list(&state.app, &principal, path.number(0), path.number(1)).await?;
    let bodies: Vec<NamedReaction<'_>> = named
        .iter()
        .map(|named| NamedReaction {
            emoji: &named.tally.emoji,
            count: named.tally.count,
            me: named.tally.me,
            user_names: &named.user_names,
        })
        .collect();
    json(StatusCode::OK, &bodies)
}
