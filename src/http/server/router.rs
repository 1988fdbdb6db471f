//! The routes: which path leads to which handler.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use tower::util::MapRequestLayer;
use utoipa_axum::router::OpenApiRouter;

use super::edge::RouteSlot;
use super::{asyncapi, metrics, openapi};
use crate::base::error::Error;
use crate::domain::access::principal::Access;
use crate::http::bodies::problem::Problem;
use crate::http::routes::{conversations, events, files, identity, messages, operations, people, sending};
use crate::http::state::HttpState;

/// The Content-Security-Policy of Swagger UI: it may load only files of this server. Inline styles are allowed because its page
/// uses them.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                           connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The page at `/`. It leads to everything that the server has for a person, and loads nothing.
const ROOT_PAGE: &str = include_str!("root.html");
/// The Content-Security-Policy of that page: it may load nothing, and its links still work.
const ROOT_POLICY: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Every documented route, by the areas of `http/routes/`.
fn documented() -> OpenApiRouter<HttpState> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(conversations::routes())
        .merge(events::routes())
        .merge(files::routes())
        .merge(identity::routes())
        .merge(messages::routes())
        .merge(operations::routes())
        .merge(people::routes())
        .merge(sending::routes())
}

/// The OpenAPI document as JSON.
///
/// # Errors
/// The document cannot be written as JSON, which would be a bug.
pub fn openapi_json(access: Access) -> Result<String, Error> {
    let (_, document) = documented().split_for_parts();
    openapi::complete(&document, access).and_then(openapi::text).map_err(Error::internal)
}

/// The AsyncAPI document as JSON.
///
/// # Errors
/// The document cannot be written as JSON, which would be a bug.
pub fn asyncapi_json() -> Result<String, Error> {
    let (_, document) = documented().split_for_parts();
    // Events and frames are the same under secured and under open access.
    let document = openapi::complete(&document, Access::Secured).map_err(Error::internal)?;
    serde_json::to_string_pretty(&asyncapi::document(&document)).map_err(Error::internal)
}

/// Builds the router with all routes.
///
/// # Errors
/// Those of [`openapi_json`].
pub fn router(state: HttpState) -> Result<Router, Error> {
    let openapi: Arc<str> = openapi_json(state.app.settings.access)?.into();
    let asyncapi: Arc<str> = asyncapi_json()?.into();
    let (router, _) = documented().split_for_parts();
    let swagger = Arc::new(docs_settings());
    let router = router
        .route("/", get(root_page))
        .route("/openapi.json", get(move || serve_document(openapi)))
        .route("/asyncapi.json", get(move || serve_document(asyncapi)))
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

/// The router of the separate address for metrics.
pub fn metrics_router(state: HttpState) -> Router {
    Router::new().route("/metrics", get(metrics::render)).with_state(state)
}

/// The settings of Swagger UI. The browser keeps the token, so that a reload of the page does not ask for it again.
fn docs_settings() -> utoipa_swagger_ui::Config<'static> {
    utoipa_swagger_ui::Config::from("/openapi.json")
        .validator_url("none")
        .persist_authorization(true)
        .filter(true)
        .deep_linking(true)
        .display_request_duration(true)
}

async fn root_page() -> Response {
    let mut response = ROOT_PAGE.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(ROOT_POLICY));
    response
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
    let is_page = file.content_type.starts_with("text/html");
    let mut response = if is_page {
        // The page comes from a library, which gives it the title of the library.
        let page = String::from_utf8_lossy(&file.bytes);
        page.replace("<title>Swagger UI</title>", "<title>Posthaste API</title>").into_response()
    } else {
        file.bytes.into_response()
    };
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::try_from(file.content_type) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(DOCS_POLICY));
    Ok(response)
}
