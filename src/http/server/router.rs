//! Which path goes to which handler.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use tower::util::MapRequestLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::edge::RouteSlot;
use super::{metrics, openapi};
use crate::base::error::Error;
use crate::domain::access::principal::Access;
use crate::http::bodies::problem::Problem;
use crate::http::routes::conversations::{conversations, incoming_webhooks, invites, members, typing};
use crate::http::routes::events::{events, webhooks, ws};
use crate::http::routes::identity::{api_keys, audit, mfa, passwords, sessions, users};
use crate::http::routes::messages::{forwards, history, messages, pins, reactions, receipts, search, threads};
use crate::http::routes::operations::{admin, capabilities, health};
use crate::http::routes::people::{export, friends, presence, reports};
use crate::http::routes::sending::scheduled;
use crate::http::state::HttpState;

/// What Swagger UI may load: only what this server serves. Its own page styles itself inline.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                           connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Every documented route, by the areas of `http/routes/`.
fn documented() -> OpenApiRouter<HttpState> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(identity())
        .merge(people())
        .merge(conversations())
        .merge(messages())
        .merge(sending())
        .merge(events())
        .merge(operations())
}

fn identity() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(users::list_users, users::register_user))
        .routes(routes!(users::get_user, users::update_user, users::erase_user))
        .routes(routes!(passwords::change_password))
        .routes(routes!(passwords::ask_for_email_confirmation))
        .routes(routes!(passwords::confirm_email))
        .routes(routes!(passwords::ask_for_password_reset))
        .routes(routes!(passwords::reset_password))
        .routes(routes!(mfa::offer_mfa, mfa::enable_mfa))
        .routes(routes!(mfa::disable_mfa))
        .routes(routes!(sessions::list_sessions, sessions::create_session))
        .routes(routes!(sessions::end_session))
        .routes(routes!(api_keys::list_api_keys, api_keys::create_api_key))
        .routes(routes!(api_keys::revoke_api_key))
        .routes(routes!(audit::list_audit))
}

fn people() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(export::export_user))
        .routes(routes!(reports::report_message))
        .routes(routes!(reports::list_reports, reports::decide_report))
        .routes(routes!(friends::list_friends))
        .routes(routes!(friends::list_friend_requests))
        .routes(routes!(friends::put_friend, friends::delete_friend))
        .routes(routes!(friends::list_blocks))
        .routes(routes!(friends::put_block, friends::delete_block))
        .routes(routes!(presence::get_presence))
}

fn conversations() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(conversations::list_conversations, conversations::create_conversation))
        .routes(routes!(
            conversations::get_conversation,
            conversations::update_conversation,
            conversations::delete_conversation
        ))
        .routes(routes!(members::list_members))
        .routes(routes!(members::put_member, members::remove_member))
        .routes(routes!(invites::create_invite, invites::list_invites))
        .routes(routes!(invites::end_invite))
        .routes(routes!(invites::get_invite, invites::accept_invite))
        .routes(routes!(incoming_webhooks::create_incoming_webhook, incoming_webhooks::list_incoming_webhooks))
        .routes(routes!(incoming_webhooks::end_incoming_webhook))
        .routes(routes!(incoming_webhooks::post_by_hook))
        .routes(routes!(typing::type_in_conversation))
}

fn messages() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(messages::send_message))
        .routes(routes!(messages::list_messages))
        .routes(routes!(history::list_conversation_messages))
        .routes(routes!(history::get_conversation_message, history::edit_message, history::delete_message))
        .routes(routes!(history::list_editions))
        .routes(routes!(receipts::report_receipts))
        .routes(routes!(receipts::list_receipts))
        .routes(routes!(reactions::put_reaction, reactions::delete_reaction))
        .routes(routes!(reactions::list_reactions))
        .routes(routes!(pins::pin_message, pins::unpin_message))
        .routes(routes!(pins::list_pins))
        .routes(routes!(threads::list_replies))
        .routes(routes!(forwards::forward_message))
        .routes(routes!(search::search_messages))
}

fn sending() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(scheduled::list_scheduled))
        .routes(routes!(scheduled::get_scheduled, scheduled::cancel_scheduled))
}

fn events() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(webhooks::list_webhooks, webhooks::create_webhook))
        .routes(routes!(webhooks::update_webhook, webhooks::delete_webhook))
        .routes(routes!(webhooks::list_deliveries))
        .routes(routes!(webhooks::replay_webhook))
        .routes(routes!(events::poll_events))
        .routes(routes!(events::stream_events))
        .routes(routes!(ws::open_socket))
}

fn operations() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(admin::ban_user, admin::unban_user))
        .routes(routes!(admin::set_user_role))
        .routes(routes!(admin::issue_password_reset))
        .routes(routes!(admin::get_stats))
        .routes(routes!(capabilities::get_capabilities))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
}

/// The OpenAPI document as it is served.
///
/// # Errors
/// When it cannot be written as JSON, which would be a fault of ours.
pub fn openapi_json(access: Access) -> Result<String, Error> {
    let (_, document) = documented().split_for_parts();
    openapi::complete(document, access).to_pretty_json().map_err(Error::internal)
}

/// Every route.
///
/// # Errors
/// As [`openapi_json`].
pub fn router(state: HttpState) -> Result<Router, Error> {
    let document: Arc<str> = openapi_json(state.app.settings.access)?.into();
    let (router, _) = documented().split_for_parts();
    let swagger = Arc::new(utoipa_swagger_ui::Config::from("/openapi.json").validator_url("none"));
    let router = router
        .route("/openapi.json", get(move || serve_document(document)))
        .route("/docs", get(|| async { Redirect::permanent("/docs/") }))
        .route("/redoc", get(|| async { Redirect::permanent("/docs/") }))
        .route("/docs/", get(docs_page))
        .route("/docs/{*file}", get(docs_file))
        .layer(axum::Extension(swagger))
        .route("/metrics", get(metrics::guarded))
        .route_layer(MapRequestLayer::new(|mut request: Request| {
            RouteSlot::note(&mut request);
            request
        }));
    Ok(router.with_state(state))
}

/// The metrics, for an address of their own.
pub fn metrics_router(state: HttpState) -> Router {
    Router::new().route("/metrics", get(metrics::render)).with_state(state)
}

async fn serve_document(document: Arc<str>) -> Response {
    let mut response = document.to_string().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

type Swagger = axum::Extension<Arc<utoipa_swagger_ui::Config<'static>>>;

async fn docs_page(State(_): State<HttpState>, swagger: Swagger) -> Result<Response, Problem> {
    docs("", swagger)
}

async fn docs_file(
    State(_): State<HttpState>,
    Path(file): Path<String>,
    swagger: Swagger,
) -> Result<Response, Problem> {
    docs(&file, swagger)
}

fn docs(file: &str, axum::Extension(swagger): Swagger) -> Result<Response, Problem> {
    let found = utoipa_swagger_ui::serve(file, swagger).map_err(|error| Error::internal(error.to_string()))?;
    let Some(file) = found else {
        return Err(Problem::of_status(StatusCode::NOT_FOUND));
    };
    let mut response = file.bytes.into_response();
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::try_from(file.content_type) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(DOCS_POLICY));
    Ok(response)
}
