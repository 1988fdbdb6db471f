//! The OpenAPI 3.1 document: generated from the types of the handlers, plus the security and the errors of every operation.
//!
//! Invariants:
//! - The errors added here are those that `problem.rs`, `extract.rs` and `edge.rs` can answer to every request.
//! - What several operations share is in the components, once: enums, and the answers to common errors.

use axum::http::Method;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::{OpenApi, ToSchema};

use super::{responses, schemas};
use crate::domain::access::principal::Access;
use crate::http::access::admission::{is_api, is_public};
use crate::http::bodies::conversations::{ConversationKind, HistoryWord, RoleWord};
use crate::http::bodies::events::{
    EndedConversation, EventBody, MemberChange, PresenceChange, PresenceState, ReactionChange, TypingChange,
    WatermarkChange,
};
use crate::http::bodies::frames::{
    DevicePresence, FrameHead, HelloFrame, PingFrame, PongFrame, PresenceFrame, ReceiptFrame, ReplyFrame, ResetFrame,
    StreamHello, StreamReset, TypingFrame,
};
use crate::http::bodies::live_schemas::{self, CLIENT_FRAME, EVENT, LOGGED_EVENT, SERVER_FRAME, reference};
use crate::http::bodies::messages::MessageKind;
use crate::http::bodies::problem::ProblemDocument;
use crate::http::bodies::reports::ReportState;
use crate::http::bodies::users::{DirectMessagesFrom, Role};
use crate::http::routes::identity::api_keys::Scope;
use crate::http::routes::identity::users::ErasedMessages;
use crate::http::routes::messages::messages::{Order, SendMessage};
use crate::http::routes::messages::search::HasWord;
use crate::http::routes::people::friends::{FriendState, RequestDirection};

/// The security scheme of tokens.
const BEARER: &str = "bearer";
/// The security scheme of `X-Act-As`. Documentation pages sort the schemes by name, and the token should be first.
const ACT_AS: &str = "xActAs";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Posthaste",
        description = "A self-hosted messaging API. Errors are problem documents (RFC 9457). Lists are JSON arrays; the \
                       Link header has the path of the next page. Times are in RFC 3339 format, in UTC with \
                       microseconds. `/asyncapi.json` describes events, the WebSocket and webhooks.",
        contact(name = "Posthaste"),
        license(name = "MIT", identifier = "MIT"),
    ),
    servers((url = "/", description = "This server.")),
    components(schemas(
        ProblemDocument<'_>, MessageKind, Order, Scope, Role, DirectMessagesFrom, ErasedMessages, FriendState,
        RequestDirection, ConversationKind, HistoryWord, RoleWord, ReportState, HasWord, PresenceState,
        EventBody<'_>, ReactionChange<'_>, WatermarkChange<'_>, EndedConversation, MemberChange<'_>, TypingChange<'_>,
        PresenceChange<'_>, HelloFrame<'_>, ResetFrame, ReplyFrame<'_>, PongFrame, StreamHello<'_>, StreamReset,
        FrameHead, ReceiptFrame, TypingFrame, PresenceFrame, DevicePresence, PingFrame
    )),
    tags(
        (name = "users", description = "User accounts and profiles."),
        (name = "sessions", description = "Logging in and logging out."),
        (name = "people", description = "Friends and blocks."),
        (name = "administration", description = "API keys, roles, bans, reports, statistics and the audit log."),
        (name = "live", description = "Events from one ordered log, by long poll, as server-sent events or on a WebSocket. Typing and presence."),
        (name = "messages", description = "Sending, reading, editing and reporting messages."),
        (name = "reactions", description = "Reactions to messages, and pinned messages."),
        (name = "receipts", description = "Which messages were delivered and read."),
        (name = "conversations", description = "Conversations and their settings."),
        (name = "members", description = "The members of conversations, and invites into groups."),
        (name = "files", description = "Uploading files, and reading them."),
        (name = "uploads", description = "Resumable uploads, in several requests."),
        (name = "pictures", description = "The pictures of users and groups."),
        (name = "emoji", description = "The Unicode emoji, and the custom emoji of the server."),
        (name = "gifs", description = "Searching and attaching GIFs, and the GIFs of the server."),
        (name = "integrations", description = "Outgoing webhooks and incoming webhooks."),
        (name = "server", description = "Capabilities and health of the server."),
    ),
)]
struct Document;

/// The document in the order in which people read it.
#[derive(Serialize)]
struct Ordered {
    openapi: Value,
    info: Value,
    servers: Value,
    tags: Value,
    paths: Value,
    components: Value,
}

/// The document without paths. The router adds those.
pub fn base() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// Completes the generated document: the schemas of events and frames, and the security and the errors of every operation.
///
/// # Errors
/// The document cannot be written as JSON, which would be a bug.
pub fn complete(document: &utoipa::openapi::OpenApi, access: Access) -> serde_json::Result<Value> {
    let mut document = serde_json::to_value(document)?;
    let mut components = document["components"].take();
    if let Some(schemas) = components["schemas"].as_object_mut() {
        live_schemas::add(schemas, &SendMessage::name());
    }
    responses::add_codes(&mut components);
    components["securitySchemes"] = json!({
        BEARER: {"type": "http", "scheme": "bearer", "description": "A session token, an API key or a JWT."},
        ACT_AS: {
            "type": "apiKey",
            "in": "header",
            "name": "X-Act-As",
            "description": "The user_name of the user to act as. Only for callers that are not a user: API keys and open access.",
        },
    });
    components["responses"] = responses::shared();
    document["components"] = components;
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            let public = !is_api(path) || is_public(&method_of(method), path);
            responses::add_errors(operation, path, method, public);
            complete_operation(operation, access);
            operation["security"] = security(operation, public, access);
        }
    }
    schemas::refine(&mut document);
    Ok(document)
}

/// The text of the document.
///
/// # Errors
/// The document cannot be written as JSON, which would be a bug.
pub fn text(mut document: Value) -> serde_json::Result<String> {
    let mut part = |name: &str| document[name].take();
    let (openapi, info, servers, tags) = (part("openapi"), part("info"), part("servers"), part("tags"));
    let (paths, components) = (part("paths"), part("components"));
    serde_json::to_string_pretty(&Ordered { openapi, info, servers, tags, paths, components })
}

fn method_of(method: &str) -> Method {
    Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap_or_default()
}

/// What no attribute of a handler can express.
fn complete_operation(operation: &mut Value, access: Access) {
    match operation["operationId"].as_str() {
        // An absent body counts as an empty object, and every field of this body is optional.
        Some("update_user") => operation["requestBody"]["required"] = false.into(),
        // The published document has an example of `limit` for this list alone. An example in `LimitSchema` would add it
        // to every list, and a struct for this list would define `limit` and `cursor` a second time.
        Some("list_users") => {
            let parameters = operation["parameters"].as_array_mut().into_iter().flatten();
            for limit in parameters.filter(|parameter| parameter["name"] == "limit") {
                limit["example"] = 50.into();
            }
        }
        // Without credentials nothing else says who the sender is.
        Some("send_message") if access == Access::Open => {
            let example = json!({"sender_user_name": "rdibari", "recipient_user_name": "bugs", "body": "hey"});
            operation["requestBody"]["content"]["application/json"]["example"] = example;
        }
        // Trying the example must not erase the caller.
        Some("erase_user") => {
            for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
                if let Some(parameter) = parameter.as_object_mut() {
                    parameter.remove("example");
                }
            }
        }
        // OpenAPI has no place for the data of a stream, for the frames of a socket and for what a webhook receives.
        Some("stream_events") => {
            operation["responses"]["200"]["x-items"] = json!({
                "hello": reference(&StreamHello::name()),
                "reset": reference(&StreamReset::name()),
                "message": reference(EVENT),
            });
        }
        Some("create_webhook") => operation["responses"]["201"]["x-deliveries"] = reference(LOGGED_EVENT),
        Some("open_socket") => {
            operation["responses"]["101"]["x-frames"] =
                json!({"server": reference(SERVER_FRAME), "client": reference(CLIENT_FRAME)});
        }
        _ => {}
    }
}

/// The alternative credentials of an operation. A handler that uses the credentials of a public route says so in its attribute.
fn security(operation: &Value, public: bool, access: Access) -> Value {
    let needed = |schemes: &[&str]| -> Value {
        schemes.iter().map(|scheme| ((*scheme).to_owned(), json!([]))).collect::<Map<_, _>>().into()
    };
    let none = needed(&[]);
    match (public, access) {
        (true, _) if operation["security"].is_array() => json!([none, needed(&[BEARER])]),
        (true, _) => json!([none]),
        (false, Access::Secured) => json!([needed(&[BEARER]), needed(&[BEARER, ACT_AS])]),
        (false, Access::Open) => json!([none, needed(&[BEARER]), needed(&[ACT_AS]), needed(&[BEARER, ACT_AS])]),
    }
}
