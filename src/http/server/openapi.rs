//! The OpenAPI 3.1 document: generated from the types of the handlers, plus the security and the errors of every operation.
//!
//! Invariant: the errors added here are those that `problem.rs`, `extract.rs` and `edge.rs` can answer to every request.

use axum::http::{Method, StatusCode};
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, ParameterBuilder};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Content, Ref, RefOr, Required, ResponseBuilder};

use crate::domain::access::principal::Access;
use crate::http::access::admission::{is_api, is_public};
use crate::http::bodies::conversations::{ConversationKind, HistoryWord, RoleWord};
use crate::http::bodies::messages::MessageKind;
use crate::http::bodies::problem::{PROBLEM_JSON, ProblemDocument};
use crate::http::bodies::reports::ReportState;
use crate::http::bodies::users::{DirectMessagesFrom, Role};
use crate::http::routes::identity::api_keys::Scope;
use crate::http::routes::identity::users::ErasedMessages;
use crate::http::routes::messages::messages::Order;
use crate::http::routes::messages::search::HasWord;
use crate::http::routes::people::friends::{FriendState, RequestDirection};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Posthaste",
        description = "A self-hosted messaging API. Errors are problem documents (RFC 9457). Lists are JSON arrays; the \
                       Link header has the path of the next page. Times are in RFC 3339 format, in UTC with \
                       microseconds.",
        license(name = "MIT", identifier = "MIT"),
    ),
    components(schemas(
        ProblemDocument<'_>, MessageKind, Order, Scope, Role, DirectMessagesFrom, ErasedMessages, FriendState,
        RequestDirection, ConversationKind, HistoryWord, RoleWord,
        ReportState, HasWord
    )),
    tags(
        (name = "users", description = "User accounts and profiles."),
        (name = "sessions", description = "Logging in and logging out."),
        (name = "people", description = "Friends and blocks."),
        (name = "administration", description = "API keys, roles, bans, reports, statistics and the audit log."),
        (name = "live", description = "Events from one ordered log, by long poll, as server-sent events or on a WebSocket. Typing and presence."),
        (name = "messages", description = "Sending and reading messages."),
        (name = "files", description = "Uploading files, and reading them."),
        (name = "conversations", description = "Conversations, their members and their messages."),
        (name = "integrations", description = "Outgoing webhooks and incoming webhooks."),
        (name = "server", description = "Capabilities and health of the server."),
    ),
)]
struct Document;

/// The document without paths. The router adds those.
pub fn base() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// Adds the security schemes and the errors of every operation to the generated document.
pub fn complete(mut document: utoipa::openapi::OpenApi, access: Access) -> utoipa::openapi::OpenApi {
    let bearer = SecurityScheme::Http(
        HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A session token, an API key or a JWT."))
            .build(),
    );
    let act_as = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
        "X-Act-As",
        "The user_name of the user to act as. Only for callers that are not a user: API keys and open access.",
    )));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", bearer);
    components.add_security_scheme("actAs", act_as);
    for (path, item) in &mut document.paths.paths {
        let operations = [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
            ("head", &mut item.head),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            let public = !is_api(path) || is_public(&method_of(method), path);
            add_errors(operation, path, method, public);
            if let (Some("update_user"), Some(RefOr::T(body))) =
                (operation.operation_id.as_deref(), &mut operation.request_body)
            {
                // An absent body counts as an empty object, and every field of this body is optional.
                body.required = Some(Required::False);
            }
            if operation.operation_id.as_deref() == Some("list_users") {
                // The published document has an example of `limit` for this list alone. An example in `LimitSchema` would add it
                // to every list, and a struct for this list would define `limit` and `cursor` a second time.
                for parameter in operation.parameters.iter_mut().flatten() {
                    if let RefOr::T(limit) = parameter
                        && limit.name == "limit"
                    {
                        *limit = ParameterBuilder::from(limit.clone()).example(Some(50.into())).build();
                    }
                }
            }
            let mut security = Vec::new();
            if public || access == Access::Open {
                security.push(SecurityRequirement::default());
            }
            if !public && access == Access::Open {
                security.push(needed("actAs"));
            }
            if !public {
                security.push(needed("bearer"));
                security.push(needed("bearer").add("actAs", Vec::<String>::new()));
            }
            operation.security = Some(security);
        }
    }
    document
}

fn method_of(method: &str) -> Method {
    Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap_or_default()
}

fn add_errors(operation: &mut Operation, path: &str, method: &str, public: bool) {
    let mut errors = vec![
        (StatusCode::BAD_REQUEST, "The query, the body or the request is malformed."),
        (
            StatusCode::METHOD_NOT_ALLOWED,
            "The path does not support this method. The header `Allow` lists the supported ones.",
        ),
        (StatusCode::REQUEST_TIMEOUT, "The request took too long to arrive."),
        (StatusCode::URI_TOO_LONG, "The request target is longer than 16 KiB."),
        (StatusCode::TOO_MANY_REQUESTS, "Too many requests. The header `Retry-After` has the seconds to wait."),
        (StatusCode::MISDIRECTED_REQUEST, "Under open access, the host name is not one of the server."),
        (StatusCode::UNPROCESSABLE_ENTITY, "A parameter or a field is invalid. `errors` has an entry for each."),
        (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "The header fields are larger than 32 KiB."),
        (StatusCode::INTERNAL_SERVER_ERROR, "An internal error of the server."),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "The server cannot do this now. The header `Retry-After` has the seconds to wait.",
        ),
    ];
    if !public {
        errors.push((StatusCode::UNAUTHORIZED, "The credentials are missing or invalid."));
        errors.push((StatusCode::FORBIDDEN, "The caller may not do this."));
    }
    if path.contains('{') || method == "post" {
        errors.push((StatusCode::NOT_FOUND, "The object does not exist, or the caller may not see it."));
    }
    if matches!(method, "post" | "put" | "patch") {
        errors.push((StatusCode::PAYLOAD_TOO_LARGE, "The body is larger than 256 KiB."));
        errors.push((StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not `application/json` in UTF-8."));
        errors.push((StatusCode::INSUFFICIENT_STORAGE, "The server's storage is full."));
    }
    let responses = &mut operation.responses.responses;
    for (status, description) in errors {
        let described = || RefOr::T(ResponseBuilder::new().description(description).build());
        responses.entry(status.as_str().to_owned()).or_insert_with(described);
    }
    for (status, response) in responses {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
        {
            let content = Content::new(Some(Ref::from_schema_name("Problem")));
            response.content.insert(PROBLEM_JSON.into(), RefOr::T(content));
        }
    }
}

fn needed(scheme: &str) -> SecurityRequirement {
    SecurityRequirement::new(scheme, Vec::<String>::new())
}
