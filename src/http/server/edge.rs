//! The edge, which every request passes: it assigns the request id, runs the checks before routing and completes the answer.
//!
//! Invariants: under `/api`, credentials are checked before routing, so that callers without them cannot find out which paths
//! exist. Every answer that passes the edge has the request id, and every error is a problem document. Every request is counted
//! under the template of its route.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tower::{Service, ServiceExt};
use tracing::Instrument as _;

use crate::base::error::Error;
use crate::base::metrics::{RequestLabels, RouteLabels};
use crate::base::request_id::RequestId;
use crate::domain::access::principal::{Access, Principal};
use crate::http::access::admission::admit;
use crate::http::access::host;
use crate::http::access::limits::{Decision, write_headers};
use crate::http::access::request_span::{self, method_name};
use crate::http::bodies::parameters::MAX_WAIT;
use crate::http::bodies::problem::{PROBLEM_JSON, Problem};
use crate::http::server::representation;
use crate::http::state::HttpState;

/// The path of the long poll. Its requests may take longer than others.
const POLL_PATH: &str = "/api/events";
/// The path of uploads. Their requests take as long as the file takes to arrive.
const UPLOAD_PATH: &str = "/api/attachments";
/// The beginning of the paths of resumable uploads.
const PARTS_PATH: &str = "/api/uploads/";
/// The end of the paths of pictures, which are uploads too.
const AVATAR_SUFFIX: &str = "/avatar";
/// The beginning of the paths of custom emoji, whose pictures are uploads too.
const EMOJI_PATH: &str = "/api/emoji/";
/// The longest time in which a file arrives.
const UPLOAD_TIME: Duration = Duration::from_secs(3_600);
/// The limit of all header fields together, in bytes. Smaller than hyper's buffer, so that the edge refuses the request.
const HEADERS_LIMIT_BYTES: usize = 32 * 1_024;
/// The limit of path and query, in bytes.
const TARGET_LIMIT_BYTES: usize = 16 * 1_024;
/// The longest `X-Request-Id` of a caller that is used.
const REQUEST_ID_LIMIT_BYTES: usize = 128;
/// The label for requests that match no route.
const UNMATCHED_ROUTE: &str = "unmatched";
/// An answer that takes at least this long is logged as a warning, except that of a long poll.
const SLOW: Duration = Duration::from_secs(1);

/// The router with the work of the edge around it.
#[derive(Clone)]
pub struct Edge {
    state: HttpState,
    router: axum::Router,
    /// Has the same routes, and compresses their answers.
    compressing: axum::Router,
    /// Has the same routes, and runs none of their handlers: it only notes the matched route.
    route_names: axum::Router,
    /// Whether hosts, origins and credentials are checked. False only on the separate address for metrics.
    guarded: bool,
}

impl Edge {
    /// Wraps the router of the API.
    pub fn new(state: HttpState, router: axum::Router) -> Self {
        Self::wrap(state, router, true)
    }

    /// Wraps a router without access control.
    pub fn unguarded(state: HttpState, router: axum::Router) -> Self {
        Self::wrap(state, router, false)
    }

    fn wrap(state: HttpState, router: axum::Router, guarded: bool) -> Self {
        let (compressing, route_names) = (representation::compressing(router.clone()), names_only(&router));
        Self { state, router, compressing, route_names, guarded }
    }

    async fn handle(self, mut request: Request, request_id: RequestId) -> Response {
        let started = Instant::now();
        let method = request.method().clone();
        let compressed = representation::accepts_encodings(request.headers_mut());
        let personal = request.uri().path().starts_with("/api/");
        let route = RouteSlot::default();
        request.extensions_mut().insert(route.clone());
        let response = match check(&self.state, &mut request, self.guarded) {
            Err(problem) => {
                self.note_route(&request).await;
                problem.into_response()
            }
            Ok(()) => {
                if request.headers().contains_key(header::UPGRADE) {
                    request.extensions_mut().insert(self.clone());
                }
                self.answer(request, compressed).await
            }
        };
        let response = finish(response, &request_id, personal);
        self.count(&method, route.take(), response.status(), started.elapsed());
        request_span::extend_over_body(response)
    }

    /// Answers the request that a frame of a WebSocket stands for. The caller was admitted when the socket was opened.
    pub fn frame(&self, request: Request, principal: Principal) -> impl Future<Output = Response> + Send {
        let request_id = request_id(&self.state, request.headers());
        let span = request_span::open(&request_id, request.method());
        request_id.clone().scope(self.handle_frame(request, principal, request_id)).instrument(span)
    }

    async fn handle_frame(&self, mut request: Request, principal: Principal, request_id: RequestId) -> Response {
        let started = Instant::now();
        request_span::record_principal(&principal);
        let method = request.method().clone();
        let slot = RouteSlot::default();
        request.extensions_mut().insert(slot.clone());
        request.extensions_mut().insert(principal);
        let answering = AssertUnwindSafe(representation::answer(self.router.clone(), request)).catch_unwind();
        let response = match tokio::time::timeout(self.state.settings.timeouts.request, answering).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => Problem::from(Error::internal("a handler panicked")).into_response(),
            Err(_) => Problem::from(Error::unavailable("a request took too long")).into_response(),
        };
        let response = finish(response, &request_id, true);
        self.count(&method, slot.take(), response.status(), started.elapsed());
        response
    }

    /// Completes an answer that did not come from a handler, as the edge completes all answers: with the request id, other headers
    /// and, for an error, the problem document.
    pub fn finish_response(&self, response: Response) -> Response {
        let request_id = request_id(&self.state, &HeaderMap::new());
        request_span::open(&request_id, &Method::POST).in_scope(|| finish(response, &request_id, true))
    }

    /// Admits and routes the request. A timeout or a panic becomes an error answer.
    async fn answer(&self, mut request: Request, compressed: bool) -> Response {
        let router = if compressed { &self.compressing } else { &self.router }.clone();
        let allowed = self.state.settings.timeouts.request + extra_time(request.method(), request.uri().path());
        let answering = async move {
            let (decision, admitted) =
                if self.guarded { admit(&self.state, &mut request).await } else { (Decision::UNLIMITED, Ok(())) };
            let mut response = match admitted {
                Ok(()) => representation::answer(router, request).await,
                Err(problem) => {
                    self.note_route(&request).await;
                    problem.into_response()
                }
            };
            write_headers(&decision, response.headers_mut());
            response
        };
        match tokio::time::timeout(allowed, AssertUnwindSafe(answering).catch_unwind()).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => Problem::from(Error::internal("a handler panicked")).into_response(),
            Err(_) => Problem::from(Error::unavailable("a request took too long")).into_response(),
        }
    }

    /// Notes the route of a request that is refused before routing, for the log and the metrics. The answer does not depend on
    /// it.
    fn note_route(&self, request: &Request) -> impl Future<Output = ()> + Send + use<> {
        let mut named = Request::new(Body::empty());
        named.method_mut().clone_from(request.method());
        named.uri_mut().clone_from(request.uri());
        if let Some(slot) = request.extensions().get::<RouteSlot>() {
            named.extensions_mut().insert(slot.clone());
        }
        let routes = self.route_names.clone();
        async move {
            let Ok(_) = routes.oneshot(named).await;
        }
    }

    fn count(&self, method: &Method, route: Option<MatchedPath>, status: StatusCode, took: Duration) {
        let label = method_name(method);
        let route = match &route {
            Some(path) => path.as_str(),
            None => {
                request_span::record_route(UNMATCHED_ROUTE);
                UNMATCHED_ROUTE
            }
        };
        let waits = !extra_time(method, route).is_zero();
        let metrics = &self.state.app.metrics;
        let labels = RequestLabels { method: label, route: route.to_owned(), status: status.as_u16() };
        metrics.requests.get_or_create(&labels).inc();
        let labels = RouteLabels { route: labels.route };
        metrics.request_duration_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        let duration_ms = took.as_secs_f64() * 1_000.0;
        let status = status.as_u16();
        // A long poll waits for events, and an upload for its file, so a long duration is not a sign of a problem.
        let slow = took >= SLOW && !waits;
        if status >= 500 || slow {
            tracing::warn!(status, duration_ms, "answered");
        } else if status >= 400 {
            tracing::info!(status, duration_ms, "answered");
        } else {
            tracing::debug!(status, duration_ms, "answered");
        }
    }
}

/// A router with the same routes that notes the matched route and answers nothing.
fn names_only(router: &axum::Router) -> axum::Router {
    router.clone().layer(tower::layer::layer_fn(|_: axum::routing::Route| {
        tower::service_fn(|mut request: Request| async move {
            RouteSlot::note(&mut request);
            Ok::<_, Infallible>(Response::new(Body::empty()))
        })
    }))
}

/// How much longer than others a request may take until the head of its answer. `path` may be the template of a route.
fn extra_time(method: &Method, path: &str) -> Duration {
    match (method.as_str(), path) {
        (_, POLL_PATH) => MAX_WAIT,
        ("POST", UPLOAD_PATH) => UPLOAD_TIME,
        ("PATCH", path) if path.starts_with(PARTS_PATH) => UPLOAD_TIME,
        ("PUT", path) if path.ends_with(AVATAR_SUFFIX) || path.starts_with(EMOJI_PATH) => UPLOAD_TIME,
        _ => Duration::ZERO,
    }
}

/// A slot in which the router stores the template of the matched route, for the metrics.
#[derive(Clone, Debug, Default)]
pub struct RouteSlot(std::sync::Arc<std::sync::OnceLock<MatchedPath>>);

impl RouteSlot {
    /// Stores the route of a request. Called inside the router.
    pub fn note(request: &mut Request) {
        // Only the first call stores the route.
        if let (Some(slot), Some(path)) =
            (request.extensions().get::<Self>(), request.extensions().get::<MatchedPath>())
            && slot.0.set(path.clone()).is_ok()
        {
            request_span::record_route(path.as_str());
        }
    }

    fn take(&self) -> Option<MatchedPath> {
        self.0.get().cloned()
    }
}

fn request_id(state: &HttpState, headers: &HeaderMap) -> RequestId {
    let given = headers.get("x-request-id").filter(|value| !value.is_empty() && value.len() <= REQUEST_ID_LIMIT_BYTES);
    given
        .and_then(|value| RequestId::new(Bytes::copy_from_slice(value.as_bytes())))
        .unwrap_or_else(|| state.app.request_ids.next())
}

/// The checks before admission and routing.
fn check(state: &HttpState, request: &mut Request, guarded: bool) -> Result<(), Problem> {
    let headers = request.headers();
    let size_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size_bytes > HEADERS_LIMIT_BYTES {
        return Err(Problem::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            "All header fields together must have at most 32 KiB",
        ));
    }
    let uri = request.uri();
    if uri.path().len() + uri.query().map_or(0, str::len) > TARGET_LIMIT_BYTES {
        return Err(Problem::new(
            StatusCode::URI_TOO_LONG,
            "uri_too_long",
            "The request target must have at most 16 KiB",
        ));
    }
    host::settle(request)?;
    match state.app.settings.access {
        _ if !guarded => Ok(()),
        Access::Open => state.settings.origins.check_open(request.method(), request.headers()),
        Access::Secured => Ok(()),
    }
}

fn finish(mut response: Response, request_id: &RequestId, personal: bool) -> Response {
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM_JSON);
        if !is_problem {
            let problem =
                response.extensions_mut().remove::<Problem>().unwrap_or_else(|| problem_without_cause(&response));
            let document = problem.render(request_id.as_str());
            let headers = response.headers_mut();
            headers.remove(header::CONTENT_ENCODING);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(document.len()));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            *response.body_mut() = Body::from(document);
        }
    } else if personal && !response.headers().contains_key(header::CACHE_CONTROL) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    let headers = response.headers_mut();
    let id = HeaderValue::from_maybe_shared(request_id.to_bytes()).unwrap_or(HeaderValue::from_static("none"));
    headers.insert("x-request-id", id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The problem for an error answer that axum or a layer wrote, and not a handler.
fn problem_without_cause(response: &Response) -> Problem {
    let allowed = response.headers().get(header::ALLOW).and_then(|allowed| allowed.to_str().ok());
    match (response.status(), allowed) {
        (StatusCode::METHOD_NOT_ALLOWED, Some(allowed)) => Problem::method_not_allowed(allowed),
        (status, _) => Problem::of_status(status),
    }
}

impl Service<Request> for Edge {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let request_id = request_id(&self.state, request.headers());
        let span = request_span::open(&request_id, request.method());
        let handling = self.clone().handle(request, request_id.clone());
        Box::pin(request_id.scope(handling.map(Ok)).instrument(span))
    }
}
