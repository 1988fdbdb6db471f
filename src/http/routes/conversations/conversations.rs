//! `/api/conversations`: making, seeing, changing and ending them.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::base::error::{Error, FieldError, Result as DomainResult};
use crate::domain::conversations::conversations::{self, Changes, History, NewGroup, OwnChanges, Shown};
use crate::domain::shared::idempotency::{Once, StoredAnswer};
use crate::http::access::policy::{PersonReading, PersonWriting, Reader};
use crate::http::bodies::answers::{
    given, json, list, next_page, no_content, not_null, present, resource, time_field, to_json,
};
use crate::http::bodies::conversations::{ConversationBody, ConversationKind, HistoryWord};
use crate::http::bodies::extract::{JsonBody, Path, Query, idempotency_key};
use crate::http::bodies::parameters::{ConversationPath, PageQuery};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// Bytes that one conversation takes in JSON, with its last message.
const CONVERSATION_BYTES: usize = 1_600;

/// The caller's conversations, latest activity first. A hidden one comes back with its next message.
#[utoipa::path(
    get,
    path = "/api/conversations",
    tag = "conversations",
    params(PageQuery),
    responses((status = 200, description = "The conversations. `Link` names the next page while there is one.", body = Vec<ConversationBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/conversations?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_conversations(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    Query(PageQuery { limit, cursor }): Query<PageQuery>,
) -> Result<Response, Problem> {
    let page = conversations::list(&state.app, &principal, limit, cursor.as_deref()).await?;
    let bodies: Vec<ConversationBody<'_>> =
        page.entries.iter().map(ConversationBody::new).collect::<DomainResult<_>>()?;
    Ok(list(to_json(&bodies, CONVERSATION_BYTES * bodies.len())?, uri.path(), next_page(page.next, limit, [])))
}

/// A conversation to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewConversation, example = json!({"kind": "group", "title": "Looney Tunes", "member_user_names": ["bugs", "duck"]}))]
pub struct NewConversationBody {
    #[schema(inline)]
    kind: ConversationKind,
    /// With whom, in a direct conversation; `me` for notes to oneself.
    #[schema(min_length = 1, max_length = 32)]
    user_name: Option<String>,
    /// Of a group: 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100, pattern = r"^[^\u0000]*$")]
    title: Option<String>,
    /// Of a group: an http or https address, or the path of an attachment.
    #[schema(max_length = 500)]
    avatar_url: Option<String>,
    /// Of a group: who is in it from the beginning, beside the caller.
    #[schema(max_items = 1000)]
    member_user_names: Option<Vec<String>>,
    /// Of a group: what those see who join later; `all` when it is absent.
    #[schema(inline)]
    history: Option<HistoryWord>,
    /// Of a group: whether members may add others; false when it is absent.
    members_can_add: Option<bool>,
}

impl NewConversationBody {
    /// Fields that do not belong to the kind.
    fn misplaced(&self) -> Vec<FieldError> {
        let (fields, detail): (&[(&'static str, bool)], _) = match self.kind {
            ConversationKind::Direct => (
                &[
                    ("title", self.title.is_some()),
                    ("avatar_url", self.avatar_url.is_some()),
                    ("member_user_names", self.member_user_names.is_some()),
                    ("history", self.history.is_some()),
                    ("members_can_add", self.members_can_add.is_some()),
                ],
                "belongs to a group",
            ),
            ConversationKind::Group => (&[("user_name", self.user_name.is_some())], "belongs to a direct conversation"),
        };
        fields.iter().filter(|(_, given)| *given).map(|(name, _)| FieldError::new(*name, "excluded", detail)).collect()
    }
}

fn required(field: &'static str) -> Error {
    Error::invalid(field, "required", "is required for this kind of conversation")
}

/// Makes a group, which the caller owns, or opens the direct conversation with somebody.
#[utoipa::path(
    post,
    path = "/api/conversations",
    tag = "conversations",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "For groups: a repeat with the same key and body is answered with the first answer, for 7 days. There is one direct conversation a pair anyway.", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
    ),
    request_body = NewConversationBody,
    responses(
        (status = 201, description = "Made.", body = ConversationBody<'_>, headers(
            ("Location" = String, description = "Where the conversation is."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` on the answer to a repeat."),
        )),
        (status = 200, description = "The direct conversation that there is.", body = ConversationBody<'_>),
        (status = 403, description = "`not_friends`: somebody is written to and added by friends alone."),
    ),
)]
pub async fn create_conversation(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    uri: Uri,
    headers: HeaderMap,
    body: JsonBody<NewConversationBody>,
) -> Result<Response, Problem> {
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), &body.bytes)?;
    let new = body.value;
    let misplaced = new.misplaced();
    if !misplaced.is_empty() {
        return Err(Error::Invalid(misplaced).into());
    }
    match new.kind {
        ConversationKind::Direct => {
            let name = new.user_name.ok_or_else(|| required("user_name"))?;
            let (shown, made) = conversations::open_direct(&state.app, &principal, &name).await?;
            let status = if made { StatusCode::CREATED } else { StatusCode::OK };
            let mut response = json(status, &ConversationBody::new(&shown)?)?;
            if let (true, Ok(place)) = (made, location(&shown).try_into()) {
                response.headers_mut().insert(axum::http::header::LOCATION, place);
            }
            Ok(response)
        }
        ConversationKind::Group => {
            let group = NewGroup {
                title: new.title.ok_or_else(|| required("title"))?,
                avatar_url: new.avatar_url,
                member_user_names: new.member_user_names.unwrap_or_default(),
                history: new.history.map_or(History::All, HistoryWord::history),
                members_can_add: new.members_can_add.unwrap_or_default(),
            };
            let once = Once { request, render: render_made, sealed: false };
            Ok(given(conversations::create_group(&state.app, &principal, group, once).await?))
        }
    }
}

fn location(shown: &Shown) -> String {
    format!("/api/conversations/{}", shown.conversation.head.id.0)
}

fn render_made(shown: &Shown) -> DomainResult<StoredAnswer> {
    Ok(StoredAnswer {
        status: StatusCode::CREATED.as_u16(),
        location: Some(location(shown)),
        body: serde_json::to_vec(&ConversationBody::new(shown)?).map_err(Error::internal)?,
    })
}

/// One conversation.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}",
    tag = "conversations",
    params(ConversationPath),
    responses(
        (status = 200, description = "The conversation.", body = ConversationBody<'_>, headers(("ETag" = String, description = "Of this answer."))),
        (status = 304, description = "`If-None-Match` names this answer."),
    ),
)]
pub async fn get_conversation(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    headers: HeaderMap,
    Path(path): Path<ConversationPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let shown = conversations::get(&state.app, &principal, path.id).await?;
    resource(&headers, &ConversationBody::new(&shown)?)
}

/// What is to change about a conversation. What is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConversationChanges, example = json!({"me": {"pinned": true, "draft": "nothing mu"}}))]
pub struct ConversationChangesBody {
    /// By an admin or owner.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, min_length = 1, max_length = 100, pattern = r"^[^\u0000]*$")]
    title: Option<String>,
    /// By an admin or owner; null takes it away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 500)]
    avatar_url: Option<Option<String>>,
    /// By an admin or owner.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(inline, nullable = false)]
    history: Option<HistoryWord>,
    /// By an admin or owner.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    members_can_add: Option<bool>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    me: Option<OwnChangesBody>,
}

/// What is to change for the caller alone.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OwnMembershipChanges)]
pub struct OwnChangesBody {
    /// Null ends it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    muted_until: Option<Option<String>>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pinned: Option<bool>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    archived: Option<bool>,
    /// At most 8,000 characters; null or an empty one takes it away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 8000, pattern = r"^[^\u0000]*$")]
    draft: Option<Option<String>>,
}

impl OwnChangesBody {
    fn read(self) -> DomainResult<OwnChanges> {
        let time = |text: Option<String>| text.map(|text| time_field("me.muted_until", &text)).transpose();
        let muted_until = self.muted_until.map(time).transpose()?;
        Ok(OwnChanges { muted_until, pinned: self.pinned, archived: self.archived, draft: self.draft })
    }
}

/// Changes a group, or what the caller keeps of a conversation.
#[utoipa::path(
    patch,
    path = "/api/conversations/{id}",
    tag = "conversations",
    params(ConversationPath),
    request_body = ConversationChangesBody,
    responses(
        (status = 200, description = "The conversation as it is now.", body = ConversationBody<'_>),
        (status = 403, description = "`insufficient_role`."),
        (status = 409, description = "`not_a_group`."),
    ),
)]
pub async fn update_conversation(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<ConversationPath>,
    body: JsonBody<ConversationChangesBody>,
) -> Result<Response, Problem> {
    let body = body.value;
    let changes = Changes {
        title: body.title,
        avatar_url: body.avatar_url,
        history: body.history.map(HistoryWord::history),
        members_can_add: body.members_can_add,
        me: body.me.map(OwnChangesBody::read).transpose()?,
    };
    let shown = conversations::update(&state.app, &principal, path.id, changes).await?;
    json(StatusCode::OK, &ConversationBody::new(&shown)?)
}

/// Ends a group, by its owner. A direct conversation is hidden from the caller until its next message.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}",
    tag = "conversations",
    params(ConversationPath),
    responses(
        (status = 204, description = "Ended, or hidden."),
        (status = 403, description = "`insufficient_role`."),
    ),
)]
pub async fn delete_conversation(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<ConversationPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    conversations::delete(&state.app, &principal, path.id).await?;
    Ok(no_content())
}
