//! `/api/conversations`: creating, reading, changing and deleting conversations.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::base::error::{Error, FieldError, Result as DomainResult};
use crate::domain::conversations::conversations::{self, Changes, History, NewGroup, OwnChanges, Shown};
use crate::domain::conversations::listing::{self, Filter};
use crate::domain::shared::idempotency::{Once, StoredAnswer};
use crate::domain::shared::precondition::Precondition;
use crate::http::access::policy::{PersonWriting, Reader};
use crate::http::bodies::answers::{
    given, json, list, next_page, no_content, not_null, present, resource, time_field, to_json,
};
use crate::http::bodies::conditions::precondition;
use crate::http::bodies::conversations::{ConversationBody, ConversationKind, HistoryWord};
use crate::http::bodies::extract::{JsonBody, Path, Query, idempotency_key};
use crate::http::bodies::parameters::{ConversationPath, PageQuery, PreconditionHeaders};
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// The usual size of a conversation in JSON with its last message, in bytes.
const CONVERSATION_BYTES: usize = 1_600;

/// Query parameters that select conversations of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ConversationFilter {
    /// Only conversations of this kind.
    #[param(inline)]
    kind: Option<ConversationKind>,
    /// Only conversations with unread messages (`true`) or without (`false`). Only for the list of a user.
    unread: Option<bool>,
    /// Only conversations that the user has archived (`true`) or has not (`false`). Only for the list of a user.
    archived: Option<bool>,
}

impl ConversationFilter {
    fn read(&self) -> Filter {
        let kind = self.kind.map(ConversationKind::kind);
        Filter { kind, unread: self.unread, archived: self.archived }
    }

    /// The parameters as they were given, for the link to the next page.
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let kind = self.kind.map(|kind| ("kind", kind.kind().as_str().to_owned()));
        let unread = self.unread.map(|unread| ("unread", unread.to_string()));
        let archived = self.archived.map(|archived| ("archived", archived.to_string()));
        kind.into_iter().chain(unread).chain(archived).collect()
    }
}

/// List conversations
///
/// For a user, the own conversations by latest activity. A hidden conversation appears again with its next message. For an API key
/// that acts as nobody, all conversations by id.
#[utoipa::path(
    get,
    path = "/api/conversations",
    tag = "conversations",
    params(ConversationFilter, PageQuery),
    responses((status = 200, description = "The conversations. `Link` has the path of the next page, if there is one.", body = Vec<ConversationBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/conversations?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_conversations(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    uri: Uri,
    query: Query<(ConversationFilter, PageQuery)>,
) -> Result<Response, Problem> {
    let (filter, PageQuery { limit, cursor }) = query.0;
    let page = listing::list(&state.app, &principal, filter.read(), limit, cursor.as_deref()).await?;
    let bodies: Vec<ConversationBody<'_>> =
        page.entries.iter().map(ConversationBody::new).collect::<DomainResult<_>>()?;
    Ok(list(
        to_json(&bodies, CONVERSATION_BYTES * bodies.len())?,
        uri.path(),
        next_page(page.next, limit, filter.parameters()),
    ))
}

/// Request body for creating a conversation.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewConversation, example = json!({"kind": "group", "title": "Looney Tunes", "member_user_names": ["elmer"]}))]
pub struct NewConversationBody {
    #[schema(inline)]
    kind: ConversationKind,
    /// For a direct conversation: the other user, or `me` for notes to oneself.
    #[schema(min_length = 1, max_length = 32)]
    user_name: Option<String>,
    /// For a group: the title, 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100, pattern = r"^[^\u0000]*$")]
    title: Option<String>,
    /// For a group: an http or https URL or the path of an attachment.
    #[schema(max_length = 500)]
    avatar_url: Option<String>,
    /// For a group: the first members besides the caller.
    #[schema(max_items = 1000)]
    member_user_names: Option<Vec<String>>,
    /// For a group: which messages a member who joins later can see. `all` if absent.
    #[schema(inline)]
    history: Option<HistoryWord>,
    /// For a group: whether members without the role owner or admin may add others. False if absent.
    members_can_add: Option<bool>,
}

impl NewConversationBody {
    /// The errors for fields that do not apply to the kind of conversation.
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
                "only for a group",
            ),
            ConversationKind::Group => (&[("user_name", self.user_name.is_some())], "only for a direct conversation"),
        };
        fields.iter().filter(|(_, given)| *given).map(|(name, _)| FieldError::new(*name, "excluded", detail)).collect()
    }
}

fn required(field: &'static str) -> Error {
    Error::invalid(field, "required", "required for this kind of conversation")
}

/// Create a conversation
///
/// Creates a group with the caller as its owner, or a direct conversation. If the direct conversation with this user already
/// exists, it is returned with the status 200.
#[utoipa::path(
    post,
    path = "/api/conversations",
    tag = "conversations",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "For groups: a repeated request with the same key and body has no second effect and gets the first answer again, for 7 days. A direct conversation exists only once for two users anyway.", min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
    ),
    request_body = NewConversationBody,
    responses(
        (status = 201, description = "Created.", body = ConversationBody<'_>, headers(
            ("Location" = String, description = "The path of the conversation."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` if this is the stored answer to an earlier request with the same key."),
        )),
        (status = 200, description = "The existing direct conversation.", body = ConversationBody<'_>),
        (status = 403, description = "`not_friends`: one of the users accepts messages and additions to groups only from friends."),
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
            let once = Once { request, render: render_created, sealed: false };
            Ok(given(conversations::create_group(&state.app, &principal, group, once).await?))
        }
    }
}

fn location(shown: &Shown) -> String {
    format!("/api/conversations/{}", shown.conversation.head.id.0)
}

fn render_created(shown: &Shown) -> DomainResult<StoredAnswer> {
    Ok(StoredAnswer {
        status: StatusCode::CREATED.as_u16(),
        location: Some(location(shown)),
        body: serde_json::to_vec(&ConversationBody::new(shown)?).map_err(Error::internal)?,
    })
}

/// Get a conversation
///
/// Callers who are not in the conversation get the answer for a conversation that does not exist.
#[utoipa::path(
    get,
    path = "/api/conversations/{id}",
    tag = "conversations",
    params(ConversationPath),
    responses(
        (status = 200, description = "The conversation.", body = ConversationBody<'_>, headers(("ETag" = String, description = "The entity tag of this answer."))),
        (status = 304, description = "Not modified: the answer still has the entity tag in `If-None-Match`."),
    ),
)]
pub async fn get_conversation(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    Path(path): Path<ConversationPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let shown = conversations::get(&state.app, &principal, path.id).await?;
    resource(&ConversationBody::new(&shown)?)
}

/// Request body for changing a conversation. An absent field is not changed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConversationChanges, example = json!({"me": {"pinned": true, "draft": "nothing mu"}}))]
pub struct ConversationChangesBody {
    /// Only admins and owners may change it.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, min_length = 1, max_length = 100, pattern = r"^[^\u0000]*$")]
    title: Option<String>,
    /// Only admins and owners may change it. Null removes it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 500)]
    avatar_url: Option<Option<String>>,
    /// Only admins and owners may change it.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    history: Option<HistoryWord>,
    /// Only admins and owners may change it.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    members_can_add: Option<bool>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    me: Option<OwnChangesBody>,
}

/// Changes of the caller's own state in the conversation. Other members do not see them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OwnMembershipChanges)]
pub struct OwnChangesBody {
    /// The time until which the caller wants no notifications. Null ends the muting.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    muted_until: Option<Option<String>>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    pinned: Option<bool>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    archived: Option<bool>,
    /// A saved draft of at most 8,000 characters. Null or an empty text removes it.
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

/// Change a conversation
///
/// Changes the settings of a group, or the caller's own state in a conversation.
#[utoipa::path(
    patch,
    path = "/api/conversations/{id}",
    tag = "conversations",
    params(ConversationPath, PreconditionHeaders),
    request_body = ConversationChangesBody,
    responses(
        (status = 200, description = "The changed conversation.", body = ConversationBody<'_>, headers(("ETag" = String, description = "The entity tag of this answer."))),
        (status = 412, description = "`precondition_failed`: the object has another entity tag than `If-Match` allows."),
        (status = 403, description = "`insufficient_role`: the role of the caller does not allow this."),
        (status = 409, description = "`not_a_group`: the conversation is direct."),
    ),
)]
pub async fn update_conversation(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    headers: HeaderMap,
    Path(path): Path<ConversationPath>,
    body: JsonBody<ConversationChangesBody>,
) -> Result<Response, Problem> {
    let body = body.value;
    let changes = Changes {
        title: body.title,
        avatar_url: body.avatar_url,
        avatar: None,
        history: body.history.map(HistoryWord::history),
        members_can_add: body.members_can_add,
        me: body.me.map(OwnChangesBody::read).transpose()?,
    };
    let shown = conversations::update(&state.app, &principal, path.id, changes, unchanged(&headers)).await?;
    resource(&ConversationBody::new(&shown)?)
}

/// The conditions of a request that changes a conversation.
fn unchanged(headers: &HeaderMap) -> Precondition<Shown> {
    precondition(headers, |shown| to_json(&ConversationBody::new(shown)?, CONVERSATION_BYTES))
}

/// Delete a group or hide a direct conversation
///
/// Only an owner can delete a group. A direct conversation is hidden from the caller until its next message.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}",
    tag = "conversations",
    params(ConversationPath, PreconditionHeaders),
    responses(
        (status = 204, description = "Deleted or hidden."),
        (status = 412, description = "`precondition_failed`: the object has another entity tag than `If-Match` allows."),
        (status = 403, description = "`insufficient_role`: the role of the caller does not allow this."),
    ),
)]
pub async fn delete_conversation(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    headers: HeaderMap,
    Path(path): Path<ConversationPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    conversations::delete(&state.app, &principal, path.id, unchanged(&headers)).await?;
    Ok(no_content())
}
