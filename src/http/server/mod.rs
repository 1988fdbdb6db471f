//! Accepting and ending connections.
//!
//! Invariants: the number of open connections never exceeds the setting. A further connection is answered with 503 and closed.
//! After the shutdown signal no connection is accepted, and requests that have arrived are answered. Connections that are still
//! open after [`SHUTDOWN_TIMEOUT`] are closed.

pub mod asyncapi;
pub mod connection;
pub mod edge;
pub mod metrics;
pub mod openapi;
pub mod representation;
mod responses;
pub mod router;
mod schemas;
pub mod upgrade;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowHeaders, AllowOrigin, Cors, CorsLayer};

use super::access::client_address::PeerAddress;
use super::access::host;
use super::state::HttpState;
use crate::base::error::{Error, Result};
use crate::base::metrics::Metrics;
use crate::base::tasks;
use connection::{BodyWatch, Connection, canned};
use edge::Edge;
use router::{metrics_router, router};
use upgrade::ConnectionPermit;

/// The size of hyper's buffer for the head of a request. Larger than the limit of the edge, so that the edge answers.
const HEAD_BUFFER_BYTES: usize = 128 * 1_024;
/// How long connections may take to end after the shutdown signal.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failed accept, for example if there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a browser may cache the answer to a CORS preflight request.
const CORS_MAX_AGE: Duration = Duration::from_secs(600);

/// Serves requests until `shutdown` is ready. Then it stops the delivery of events and ends the connections gracefully.
///
/// # Errors
/// The router cannot be built.
pub async fn serve(
    state: HttpState,
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let live = Arc::clone(&state.live);
    let edge = Edge::new(state.clone(), router(state.clone())?);
    let cors = cors(&state.settings.origins.cors_origins)?;
    let service = CorsEdge { cors: cors.map(|cors| cors.layer(edge.clone())), edge };
    let acceptor = Acceptor::new(state.clone());
    let metrics_edge = Edge::unguarded(state.clone(), metrics_router(state));
    let metrics = async {
        match &metrics_listener {
            Some(listener) => acceptor.accept(listener, metrics_edge).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = acceptor.accept(&listener, service) => {}
        () = metrics => {}
        () = shutdown => {}
    }
    drop((listener, metrics_listener));
    live.stop();
    acceptor.end().await;
    Ok(())
}

fn cors(origins: &[String]) -> Result<Option<CorsLayer>> {
    if origins.is_empty() {
        return Ok(None);
    }
    let origins = origins.iter().map(HeaderValue::try_from).collect::<Result<Vec<_>, _>>().map_err(Error::internal)?;
    let exposed = [
        header::LINK,
        header::LOCATION,
        header::ETAG,
        header::RETRY_AFTER,
        HeaderName::from_static("ratelimit-limit"),
        HeaderName::from_static("ratelimit-remaining"),
        HeaderName::from_static("ratelimit-reset"),
        HeaderName::from_static("idempotency-replayed"),
        HeaderName::from_static("x-request-id"),
        HeaderName::from_static("tus-resumable"),
        HeaderName::from_static("upload-length"),
        HeaderName::from_static("upload-offset"),
    ];
    Ok(Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(exposed)
            .max_age(CORS_MAX_AGE),
    ))
}

/// The edge, with the CORS layer around it for requests that have the header `Origin`. An OPTIONS request that is not a CORS
/// preflight goes to the edge directly, because the layer would answer it itself.
#[derive(Clone)]
struct CorsEdge {
    edge: Edge,
    cors: Option<Cors<Edge>>,
}

impl tower::Service<Request> for CorsEdge {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let cross_origin = request.headers().contains_key(header::ORIGIN);
        let preflight = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        match &self.cors {
            // The layer answers a preflight itself. One with an invalid `Host` goes to the edge, which refuses it.
            Some(cors)
                if cross_origin
                    && (preflight || request.method() != Method::OPTIONS)
                    && host::settle(&mut request).is_ok() =>
            {
                let answering = cors.clone().oneshot(request);
                Box::pin(answering)
            }
            _ => self.edge.call(request),
        }
    }
}

/// An open connection. It is counted until it is dropped.
struct OpenConnection {
    metrics: Arc<Metrics>,
    _permit: ConnectionPermit,
}

impl OpenConnection {
    fn count(metrics: Arc<Metrics>, permit: ConnectionPermit) -> Self {
        metrics.connections.inc();
        Self { metrics, _permit: permit }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

struct Acceptor {
    state: HttpState,
    permits: Arc<Semaphore>,
}

impl Acceptor {
    fn new(state: HttpState) -> Self {
        Self { permits: Arc::new(Semaphore::new(state.settings.connection_limit)), state }
    }

    async fn accept<S, E>(&self, listener: &TcpListener, service: S)
    where
        S: tower::Service<Request, Response = Response, Error = E> + Clone + Send + 'static,
        S::Future: Send,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.take(stream, PeerAddress(peer), service.clone()),
                Err(error) => {
                    // The connection is already gone, or there are no file descriptors left. The server continues.
                    tracing::debug!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take<S, E>(&self, stream: TcpStream, peer: PeerAddress, service: S)
    where
        S: tower::Service<Request, Response = Response, Error = E> + Clone + Send + 'static,
        S::Future: Send,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let metrics = Arc::clone(&self.state.app.metrics);
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            metrics.connections_refused.inc();
            // The buffer of the new socket is empty, so the write succeeds unless the peer is gone.
            let detail = "Too many connections are open; try again later";
            drop(stream.try_write(&canned(503, "Service Unavailable", "too_many_connections", detail)));
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY on a connection");
        }
        let watch = BodyWatch::default();
        let (bodies, unread) = (watch.clone(), watch.clone());
        let permit = ConnectionPermit::new(permit);
        let shared_permit = permit.clone();
        let service = service.map_response(move |mut response: Response| {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                unread.upgrade();
            }
            if unread.is_unread() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        });
        let service = service.map_request(move |request: axum::http::Request<Incoming>| {
            let mut request = request.map(|body| bodies.watch(body));
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(shared_permit.clone());
            request
        });
        let timeouts = self.state.settings.timeouts;
        let stream = TokioIo::new(Connection::new(stream, watch, timeouts.stall));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(timeouts.head)
            .max_buf_size(HEAD_BUFFER_BYTES)
            .serve_connection(stream, TowerToHyperService::new(service));
        let connection = connection.with_upgrades();
        let stopped = self.state.live.stopped();
        let open = OpenConnection::count(metrics, permit);
        tasks::spawn("connection", async move {
            let _open = open;
            tokio::pin!(connection, stopped);
            let outcome = tokio::select! {
                outcome = &mut connection => outcome,
                () = stopped => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = outcome {
                tracing::debug!(%error, "a connection ended with an error");
            }
        });
    }

    async fn end(self) {
        // All permits are free when all connections have ended, including WebSockets.
        let all = u32::try_from(self.state.settings.connection_limit).unwrap_or(u32::MAX);
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.permits.acquire_many(all)).await.is_err() {
            tracing::warn!("some connections did not end in time and are closed");
        }
    }
}
