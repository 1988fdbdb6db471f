//! `/api/conversations`: making, seeing, changing and ending them.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::members::RoleWord;
use super::messages::{MessageBody, render};
use super::users::UserBody;
use super::{given, json, list, next_page, no_content, not_null, present, resource, time_field, to_json};
use crate::domain::conversations::{self, Changes, Conversation, History, Me, NewGroup, OwnChanges, Shown};
use crate::domain::idempotency::{Once, StoredAnswer};
use crate::error::{Error, FieldError, Result as DomainResult};
use crate::http::HttpState;
use crate::http::extract::{JsonBody, PathSegments, Query, idempotency_key};
use crate::http::policy::{PersonReading, PersonWriting, Reader};
use crate::http::problem::Problem;
use crate::time::Timestamp;

/// Bytes that one conversation takes in JSON, with its last message.
const CONVERSATION_BYTES: usize = 1_600;

/// A conversation, as the caller has it.
#[derive(Serialize, ToSchema)]
#[schema(as = Conversation)]
pub struct ConversationBody<'a> {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    #[schema(inline, value_type = ConversationKind)]
    kind: &'static str,
    /// Of a group.
    #[schema(example = "Looney Tunes")]
    title: Option<&'a str>,
    avatar_url: Option<&'a str>,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    /// The id of the user who made it.
    #[schema(minimum = 1, example = 1)]
    created_by: i64,
    /// How many messages it has; the newest one's seq.
    #[schema(minimum = 0, example = 3)]
    last_seq: i64,
    /// The newest message, if there is one that the caller sees.
    #[schema(value_type = Option<MessageBody<'_>>)]
    last_message: Option<&'a RawValue>,
    #[schema(minimum = 0, example = 2)]
    member_count: i64,
    #[schema(inline, value_type = HistoryWord)]
    history: &'static str,
    /// Whether members may add others.
    members_can_add: bool,
    /// The other one in a direct conversation; null when they were erased, and for callers who are not in it.
    peer: Option<UserBody<'a>>,
    /// What the caller has of it; null for callers who stand for nobody.
    me: Option<MeBody<'a>>,
}

/// What a member has of a conversation.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnMembership)]
pub struct MeBody<'a> {
    #[schema(inline, value_type = RoleWord)]
    role: &'static str,
    #[schema(value_type = String, format = DateTime)]
    joined_at: Timestamp,
    /// Read up to this seq.
    read_seq: i64,
    /// Delivered up to this seq.
    delivered_seq: i64,
    unread_count: i64,
    mention_count: i64,
    /// No notifications until then.
    #[schema(value_type = Option<String>, format = DateTime)]
    muted_until: Option<Timestamp>,
    pinned: bool,
    archived: bool,
    /// What the caller has begun to write.
    draft: Option<&'a str>,
}

/// What sort of conversation.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConversationKind {
    /// Of two people, or notes to oneself.
    Direct,
    /// Of any number.
    Group,
}

/// What those see who joined later.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HistoryWord {
    /// Everything.
    All,
    /// What came after them.
    SinceJoined,
}

impl HistoryWord {
    const fn history(self) -> History {
        match self {
            Self::All => History::All,
            Self::SinceJoined => History::SinceJoined,
        }
    }
}

impl<'a> MeBody<'a> {
    fn new(me: &'a Me, last_seq: i64) -> Self {
        Self {
            role: me.role.as_str(),
            joined_at: me.joined_at,
            read_seq: me.read_seq,
            delivered_seq: me.delivered_seq,
            unread_count: me.unread_count(last_seq),
            mention_count: me.mention_count,
            muted_until: me.keeps.muted_until,
            pinned: me.keeps.pinned,
            archived: me.keeps.archived,
            draft: me.keeps.draft.as_deref(),
        }
    }
}

impl<'a> ConversationBody<'a> {
    /// A conversation as it is shown to a caller.
    ///
    /// # Errors
    /// When a rendered message is no JSON, which would be a fault of ours.
    pub fn new(shown: &'a Shown) -> DomainResult<Self> {
        let Shown { conversation, last_message, peer, principal, direct_messages_from } = shown;
        let last_message = last_message
            .as_ref()
            .map(|message| serde_json::from_slice(&message.text))
            .transpose()
            .map_err(Error::internal)?;
        let peer =
            peer.as_ref().map(|peer| UserBody::shown(peer, *direct_messages_from, principal.sees_private(peer.id)));
        let me = conversation.me.as_ref().map(|me| MeBody::new(me, conversation.head.last_seq));
        Ok(Self { last_message, peer, me, ..Self::bare(conversation) })
    }

    /// A conversation without what is in it, and without anybody.
    pub fn bare(conversation: &'a Conversation) -> Self {
        Self {
            id: conversation.head.id.0,
            kind: conversation.kind.as_str(),
            title: conversation.title.as_deref(),
            avatar_url: conversation.avatar_url.as_deref(),
            created_at: conversation.created_at,
            created_by: conversation.created_by.0,
            last_seq: conversation.head.last_seq,
            last_message: None,
            member_count: conversation.member_count,
            history: conversation.history.as_str(),
            members_can_add: conversation.members_can_add,
            peer: None,
            me: None,
        }
    }
}

/// The caller's conversations, latest activity first. A hidden one comes back with its next message.
#[utoipa::path(
    get,
    path = "/api/conversations",
    tag = "conversations",
    params(
        ("limit" = Option<u32>, Query, description = "Entries of the page; 50 when it is absent.", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "Where the page begins: taken from a Link header as it is."),
    ),
    responses((status = 200, description = "The conversations. `Link` names the next page while there is one.", body = Vec<ConversationBody<'_>>, headers(
        ("Link" = Option<String>, description = "`</api/conversations?…>; rel=\"next\"`"),
    ))),
)]
pub async fn list_conversations(
    State(state): State<HttpState>,
    PersonReading(principal): PersonReading,
    uri: Uri,
    mut query: Query,
) -> Result<Response, Problem> {
    let (limit, cursor) = (query.limit(), query.text("cursor"));
    query.finish()?;
    let page = conversations::list(&state.app, &principal, limit, cursor.as_deref(), render).await?;
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
    params(("Idempotency-Key" = Option<String>, Header, description = "For groups: a repeat with the same key and body is answered with the first answer, for 7 days. There is one direct conversation a pair anyway.", min_length = 1, max_length = 255, pattern = "^[ -~]+$")),
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
    query: Query,
    body: JsonBody<NewConversationBody>,
) -> Result<Response, Problem> {
    query.finish()?;
    let request = idempotency_key(&state.app, &headers, &principal, uri.path(), &body.bytes)?;
    let new = body.value;
    let misplaced = new.misplaced();
    if !misplaced.is_empty() {
        return Err(Error::Invalid(misplaced).into());
    }
    match new.kind {
        ConversationKind::Direct => {
            let name = new.user_name.ok_or_else(|| required("user_name"))?;
            let (shown, made) = conversations::open_direct(&state.app, &principal, &name, render).await?;
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
            Ok(given(conversations::create_group(&state.app, &principal, group, render, once).await?))
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
    params(("id" = i64, Path, description = "The conversation.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)),
    responses(
        (status = 200, description = "The conversation.", body = ConversationBody<'_>, headers(("ETag" = String, description = "Of this answer."))),
        (status = 304, description = "`If-None-Match` names this answer."),
    ),
)]
pub async fn get_conversation(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    headers: HeaderMap,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    let shown = conversations::get(&state.app, &principal, path.number(0), render).await?;
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
    params(("id" = i64, Path, description = "The conversation.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)),
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
    path: PathSegments,
    query: Query,
    body: JsonBody<ConversationChangesBody>,
) -> Result<Response, Problem> {
    query.finish()?;
    let body = body.value;
    let changes = Changes {
        title: body.title,
        avatar_url: body.avatar_url,
        history: body.history.map(HistoryWord::history),
        members_can_add: body.members_can_add,
        me: body.me.map(OwnChangesBody::read).transpose()?,
    };
    let shown = conversations::update(&state.app, &principal, path.number(0), changes, render).await?;
    json(StatusCode::OK, &ConversationBody::new(&shown)?)
}

/// Ends a group, by its owner. A direct conversation is hidden from the caller until its next message.
#[utoipa::path(
    delete,
    path = "/api/conversations/{id}",
    tag = "conversations",
    params(("id" = i64, Path, description = "The conversation.", minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)),
    responses(
        (status = 204, description = "Ended, or hidden."),
        (status = 403, description = "`insufficient_role`."),
    ),
)]
pub async fn delete_conversation(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    conversations::delete(&state.app, &principal, path.number(0)).await?;
    Ok(no_content())
}
