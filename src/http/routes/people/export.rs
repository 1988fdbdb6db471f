//! `/api/users/{user_name}/export`: the export of all data of a user.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use crate::app::App;
use crate::base::error::{Error, Result as DomainResult};
use crate::base::time::Timestamp;
use crate::domain::conversations::members::Role;
use crate::domain::files::custom_emoji::CustomEmoji;
use crate::domain::messages::edits::EarlierText;
use crate::domain::people::export::{self, Export, Item, Mark, PastOrPresentMembership};
use crate::domain::people::friends::Which;
use crate::http::access::policy::Reader;
use crate::http::bodies::attachments::AttachmentBody;
use crate::http::bodies::audit::AuditBody;
use crate::http::bodies::emoji::{EmojiBody, listed};
use crate::http::bodies::extract::{Path, Query};
use crate::http::bodies::incoming_webhooks::IncomingWebhookBody;
use crate::http::bodies::invites::InviteBody;
use crate::http::bodies::messages::MessageBody;
use crate::http::bodies::problem::Problem;
use crate::http::bodies::reports::ReportBody;
use crate::http::bodies::sessions::SessionBody;
use crate::http::bodies::users::UserBody;
use crate::http::state::HttpState;

/// A line of an export: its type and its data.
#[derive(Serialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
enum Line<'a> {
    User(UserBody<'a>),
    Account {
        has_password: bool,
        email_confirmed_at: Option<Timestamp>,
        last_seen_at: Option<Timestamp>,
    },
    Session(SessionBody<'a>),
    AuditEntry(AuditBody<'a>),
    Report(ReportBody<'a>),
    /// Another user: a friend, a friend request in either direction, or a block.
    Person {
        relation: &'static str,
        user_name: &'a str,
    },
    Scheduled {
        id: i64,
        recipient_id: Option<i64>,
        conversation_id: Option<i64>,
        body: &'a str,
        reply_to: Option<i64>,
        created_at: Timestamp,
        send_at: Timestamp,
    },
    Attachment {
        #[serde(flatten)]
        attachment: AttachmentBody<'a>,
        uploaded_at: Timestamp,
    },
    Invite(InviteBody<'a>),
    IncomingWebhook(IncomingWebhookBody<'a>),
    CustomEmoji(EmojiBody<'a>),
    Conversation {
        id: i64,
        role: Option<&'static str>,
        joined_at: Option<Timestamp>,
        left_at: Option<Timestamp>,
        muted_until: Option<Timestamp>,
        pinned: bool,
        archived: bool,
        draft: Option<&'a str>,
    },
    Watermarks {
        conversation_id: i64,
        delivered_seq: i64,
        read_seq: i64,
        unread_from: Option<i64>,
    },
    Receipt {
        conversation_id: i64,
        kind: &'static str,
        seq: i64,
        at: Timestamp,
    },
    Message(MessageBody<'a>),
    EarlierBody {
        conversation_id: i64,
        seq: i64,
        body: &'a str,
        at: Timestamp,
    },
    /// The last line. An export without it is incomplete.
    End,
}

/// A line about one user and one message. The domain provides the name of its type.
#[derive(Serialize)]
struct MarkLine<'a> {
    #[serde(rename = "type")]
    line_type: &'static str,
    data: MarkData<'a>,
}

#[derive(Serialize)]
struct MarkData<'a> {
    conversation_id: i64,
    seq: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    emoji: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
}

/// Path parameter of the route that exports the data of a user.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ExportPath {
    /// The name of the user, or `me` for the caller.
    #[param(example = "me")]
    user_name: String,
}

/// Export all data of a user
///
/// Returns all stored data of the user as JSON lines. The last line has the type `end`; without it, the export is incomplete.
/// Users can export their own data. Administrators can export the data of every user.
#[utoipa::path(
    get,
    path = "/api/users/{user_name}/export",
    tag = "users",
    params(ExportPath),
    responses((status = 200, description = "One JSON object per line: `{\"type\": …, \"data\": …}`.", body = String, content_type = "application/jsonl")),
)]
pub async fn export_user(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    Path(path): Path<ExportPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let mut export = export::begin(&state.app, &principal, &path.user_name).await?;
    // The first page is read before the answer begins, so that an error (such as a user who is being erased) can set the status.
    let first = page(&state.app, &mut export).await?.unwrap_or_default();
    let others = stream::try_unfold((state.app, Some(export)), |(app, export)| async move {
        let Some(mut export) = export else { return DomainResult::<_, Error>::Ok(None) };
        Ok(match page(&app, &mut export).await? {
            Some(bytes) => Some((bytes, (app, Some(export)))),
            None => Some((line(&Line::End)?.into(), (app, None))),
        })
    });
    let pages = stream::once(async { DomainResult::<_, Error>::Ok(first) }).chain(others);
    let mut response = Response::new(Body::from_stream(pages));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jsonl"));
    Ok(response)
}

const fn relation(which: Which) -> &'static str {
    match which {
        Which::Friends => "friend",
        Which::Outgoing => "asked",
        Which::Incoming => "asked_by",
        Which::Blocked => "blocked",
    }
}

fn conversation(belonging: &PastOrPresentMembership) -> Line<'_> {
    Line::Conversation {
        id: belonging.conversation.0,
        role: belonging.role.map(Role::as_str),
        joined_at: belonging.joined_at,
        left_at: belonging.left_at,
        muted_until: belonging.keeps.muted_until,
        pinned: belonging.keeps.pinned,
        archived: belonging.keeps.archived,
        draft: belonging.keeps.draft.as_deref(),
    }
}

async fn page(app: &Arc<App>, export: &mut Export) -> DomainResult<Option<Bytes>> {
    let Some(items) =
        export.next(app).await.inspect_err(|error| tracing::error!(%error, "an export failed and is incomplete"))?
    else {
        return Ok(None);
    };
    let mut text = Vec::new();
    for item in &items {
        let default = app.settings.direct_messages_from;
        text.extend(match item {
            Item::User(user) => line(&Line::User(UserBody::whole(user, default)))?,
            Item::Account { has_password, email_confirmed_at, last_seen_at } => line(&Line::Account {
                has_password: *has_password,
                email_confirmed_at: *email_confirmed_at,
                last_seen_at: *last_seen_at,
            })?,
            Item::Session(session) => line(&Line::Session(SessionBody::new(session, false)))?,
            Item::Audit(entry) => line(&Line::AuditEntry(AuditBody::new(entry)))?,
            Item::Report(report) => line(&Line::Report(ReportBody::new(report)))?,
            Item::Person(which, user_name) => line(&Line::Person { relation: relation(*which), user_name })?,
            Item::Scheduled(scheduled) => line(&Line::Scheduled {
                id: scheduled.id.0,
                recipient_id: scheduled.recipient_id.map(|id| id.0),
                conversation_id: scheduled.conversation_id.map(|id| id.0),
                body: &scheduled.body,
                reply_to: scheduled.reply_to,
                created_at: scheduled.created_at,
                send_at: scheduled.send_at,
            })?,
            Item::Attachment(found) => line(&Line::Attachment {
                attachment: AttachmentBody::new(&found.description),
                uploaded_at: found.created_at,
            })?,
            Item::Invite(invite) => line(&Line::Invite(InviteBody::new(invite, None)))?,
            Item::IncomingWebhook(found) => line(&Line::IncomingWebhook(IncomingWebhookBody::new(found, None)))?,
            Item::CustomEmoji(emoji) => line(&Line::CustomEmoji(EmojiBody::new(&listed(CustomEmoji::clone(emoji)))))?,
            Item::Conversation(belonging) => line(&conversation(belonging))?,
            Item::Watermarks(id, watermarks) => line(&Line::Watermarks {
                conversation_id: id.0,
                delivered_seq: watermarks.delivered_seq,
                read_seq: watermarks.read_seq,
                unread_from: watermarks.unread_from,
            })?,
            Item::Receipt(receipt) => line(&Line::Receipt {
                conversation_id: receipt.conversation.0,
                kind: receipt.kind.as_str(),
                seq: receipt.seq,
                at: receipt.at,
            })?,
            Item::Mark(Mark { line_type, conversation, seq, emoji, at }) => line(&MarkLine {
                line_type,
                data: MarkData { conversation_id: conversation.0, seq: *seq, emoji: emoji.as_deref(), at: *at },
            })?,
            Item::Message(message, names, editions) => {
                let mut lines = line(&Line::Message(MessageBody::named(message, names)))?;
                let (conversation_id, seq) = (message.conversation_id.0, message.seq);
                for EarlierText { body, at } in editions {
                    lines.extend(line(&Line::EarlierBody { conversation_id, seq, body, at: *at })?);
                }
                lines
            }
        });
    }
    Ok(Some(text.into()))
}

fn line(line: &impl Serialize) -> DomainResult<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line).map_err(Error::internal)?;
    bytes.push(b'\n');
    Ok(bytes)
}
