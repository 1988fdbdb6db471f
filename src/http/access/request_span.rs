//! The tracing span of a request. Every line that is logged while the request is handled has the fields of the span.
//!
//! Invariant: a field is an id, a name from a fixed list or the template of a route. The only text of a caller in the fields is the
//! request id, which consists of visible ASCII characters.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Error;
use axum::body::{Body, Bytes};
use axum::http::Method;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tracing::Span;
use tracing::field::Empty;

use crate::base::request_id::RequestId;
use crate::domain::access::principal::{Credential, Principal};

/// Creates the span of a request. Fields that are not known yet are recorded later.
pub fn open(request_id: &RequestId, method: &Method) -> Span {
    // The level is `error`, so that every log filter keeps the span and lines of all levels have the id.
    tracing::error_span!(
        "request",
        %request_id,
        method = method_name(method),
        route = Empty,
        credential = Empty,
        credential_id = Empty,
        user_id = Empty
    )
}

/// Records the caller in the span of the current request.
pub fn record_principal(principal: &Principal) {
    let (credential, credential_id) = match principal.credential() {
        Credential::Open => ("open", None),
        Credential::Session(id) => ("session", Some(id.0)),
        Credential::Jwt => ("jwt", None),
        Credential::ApiKey(id, _) => ("api_key", Some(id.0)),
    };
    let user_id = principal.person().map(|person| person.id.0);
    tracing::record_all!(Span::current(), credential = credential, credential_id = credential_id, user_id = user_id);
}

/// Records the template of the route in the span of the current request.
pub fn record_route(template: &str) {
    Span::current().record("route", template);
}

/// The name of a method for the log and the metrics. A method that HTTP does not define is `OTHER`, because its name is text of
/// the caller.
pub fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

/// Keeps the current span open for a body that is generated while it is sent. A complete body is not changed.
pub fn extend_over_body(response: Response) -> Response {
    let complete = response.body().size_hint().exact().is_some();
    if complete { response } else { response.map(|body| Body::new(SpannedBody { body, span: Span::current() })) }
}

struct SpannedBody {
    body: Body,
    span: Span,
}

impl HttpBody for SpannedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Self { body, span } = self.get_mut();
        let _entered = span.enter();
        Pin::new(body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
