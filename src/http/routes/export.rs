//! `/api/users/{user_name}/export`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::audit::AuditBody;
use super::messages::MessageBody;
use super::reports::ReportBody;
use super::sessions::SessionBody;
use super::users::UserBody;
use crate::app::App;
use crate::domain::edits::Edition;
use crate::domain::export::{self, Export, Item};
use crate::error::{Error, Result as DomainResult};
use crate::http::HttpState;
use crate::http::extract::{PathSegments, Query};
use crate::http::policy::Reader;
use crate::http::problem::Problem;
use crate::time::Timestamp;

/// One line: what it is, and the thing itself.
#[derive(Serialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
enum Line<'a> {
    User(UserBody<'a>),
    Account {
        has_password: bool,
        email_confirmed_at: Option<Timestamp>,
    },
    Session(SessionBody<'a>),
    AuditEntry(AuditBody<'a>),
    Reaction {
        conversation_id: i64,
        seq: i64,
        emoji: &'a str,
        at: Timestamp,
    },
    Report(ReportBody<'a>),
    Conversation {
        id: i64,
        joined_at: Timestamp,
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
    Mention {
        conversation_id: i64,
        seq: i64,
    },
    Message(MessageBody<'a>),
    EarlierBody {
        conversation_id: i64,
        seq: i64,
        body: &'a str,
        at: Timestamp,
    },
    /// The last line: without it, the stream was cut off.
    End,
}

/// Everything that is held about a user, as JSON lines: oneself, or anybody as an administrator. The last line has the type
/// `end`.
#[utoipa::path(
    get,
    path = "/api/users/{user_name}/export",
    tag = "users",
    params(("user_name" = String, Path, description = "The user's name; `me` is the caller.", example = "me")),
    responses((status = 200, description = "One JSON object a line: `{\"type\": …, \"data\": …}`.", body = String, content_type = "application/jsonl")),
)]
pub async fn export_user(
    State(state): State<HttpState>,
    Reader(principal): Reader,
    path: PathSegments,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    let mut export = export::begin(&state.app, &principal, path.text(0)).await?;
    // Before anything is answered: whoever is erased at this moment gets an answer that says so.
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

async fn page(app: &Arc<App>, export: &mut Export) -> DomainResult<Option<Bytes>> {
    let Some(items) = export.next(app).await.inspect_err(|error| tracing::error!(%error, "an export was cut off"))?
    else {
        return Ok(None);
    };
    let mut text = Vec::new();
    for item in &items {
        let default = app.settings.direct_messages_from;
        text.extend(match item {
            Item::User(user) => line(&Line::User(UserBody::whole(user, default)))?,
            Item::Account { has_password, email_confirmed_at } => {
                line(&Line::Account { has_password: *has_password, email_confirmed_at: *email_confirmed_at })?
            }
            Item::Session(session) => line(&Line::Session(SessionBody::new(session, false)))?,
            Item::Audit(entry) => line(&Line::AuditEntry(AuditBody::new(entry)))?,
            Item::Reaction(reaction) => line(&Line::Reaction {
                conversation_id: reaction.conversation.0,
                seq: reaction.seq,
                emoji: &reaction.emoji,
                at: reaction.at,
            })?,
            Item::Report(report) => line(&Line::Report(ReportBody::new(report)))?,
            Item::Conversation(id, joined_at) => line(&Line::Conversation { id: id.0, joined_at: *joined_at })?,
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
            Item::Mention(mention) => {
                line(&Line::Mention { conversation_id: mention.conversation.0, seq: mention.seq })?
            }
            Item::Message(message, names, editions) => {
                let mut lines = line(&Line::Message(MessageBody::named(message, names)))?;
                let (conversation_id, seq) = (message.conversation_id.0, message.seq);
                for Edition { body, at } in editions {
                    lines.extend(line(&Line::EarlierBody { conversation_id, seq, body, at: *at })?);
                }
                lines
            }
        });
    }
    Ok(Some(text.into()))
}

fn line(line: &Line<'_>) -> DomainResult<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line).map_err(Error::internal)?;
    bytes.push(b'\n');
    Ok(bytes)
}
