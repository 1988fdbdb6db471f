//! Accepting connections, and ending them.
//!
//! Invariants: there are never more than [`CONNECTION_LIMIT`] connections; one more is told so and closed. After the shutdown
//! signal nothing new is accepted, what was accepted is answered, and after [`SHUTDOWN_TIMEOUT`] the rest is cut off.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::util::option_layer;
use tower::{ServiceBuilder, ServiceExt};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::HttpState;
use super::connection::Connection;
use super::edge::{Edge, PeerAddress};
use super::router::{metrics_router, router};
use crate::error::{Error, Result};

/// Connections open at once.
pub const CONNECTION_LIMIT: usize = 16_384;
/// Bytes that hyper buffers of a head. More than the edge accepts, so that the edge's answer is the one given.
const HEAD_BUFFER_BYTES: usize = 128 * 1_024;
/// How long connections may take to end after the shutdown signal.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a browser may remember what CORS allows.
const CORS_MAX_AGE: Duration = Duration::from_secs(600);

const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
content-length: 173\r\nconnection: close\r\n\r\n{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\
\"detail\":\"too many connections are open: try again\",\"code\":\"too_many_connections\",\"request_id\":\"\"}     ";

/// Serves until `shutdown` is ready, then ends gracefully.
///
/// # Errors
/// When the router cannot be made.
pub async fn serve(
    state: HttpState,
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let edge = Edge::new(state.clone(), router(state.clone())?);
    let cors = cors(&state.settings.origins.cors_origins)?;
    let service = ServiceBuilder::new().layer(option_layer(cors)).service(edge);
    let acceptor = Acceptor::new(state.clone());
    let metrics_edge = Edge::new(state.clone(), metrics_router(state));
    let others = async {
        match &metrics_listener {
            Some(listener) => acceptor.accept(listener, metrics_edge).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = acceptor.accept(&listener, service) => {}
        () = others => {}
        () = shutdown => {}
    }
    drop((listener, metrics_listener));
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

struct Acceptor {
    state: HttpState,
    places: Arc<Semaphore>,
    graceful: GracefulShutdown,
}

impl Acceptor {
    fn new(state: HttpState) -> Self {
        Self { state, places: Arc::new(Semaphore::new(CONNECTION_LIMIT)), graceful: GracefulShutdown::new() }
    }

    async fn accept<S, E>(&self, listener: &TcpListener, service: S)
    where
        S: tower::Service<Request, Response = axum::response::Response, Error = E> + Clone + Send + 'static,
        S::Future: Send,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.take(stream, PeerAddress(peer), service.clone()),
                Err(error) => {
                    // Of a connection that is gone already, or for want of file descriptors: neither ends the server.
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take<S, E>(&self, stream: TcpStream, peer: PeerAddress, service: S)
    where
        S: tower::Service<Request, Response = axum::response::Response, Error = E> + Clone + Send + 'static,
        S::Future: Send,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let metrics = Arc::clone(&self.state.app.metrics);
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            metrics.connections_refused.inc();
            // The socket's buffer is empty, so this either fits at once or nobody is there to read it.
            drop(stream.try_write(BUSY));
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection without TCP_NODELAY");
        }
        let service = service.map_request(move |request: axum::http::Request<Incoming>| {
            let mut request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(peer);
            request
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.state.settings.timeouts.head)
            .max_buf_size(HEAD_BUFFER_BYTES)
            .serve_connection(TokioIo::new(Connection::new(stream)), TowerToHyperService::new(service));
        let connection = self.graceful.watch(connection);
        metrics.connections.inc();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            metrics.connections.dec();
            drop(place);
        });
    }

    async fn end(self) {
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.graceful.shutdown()).await.is_err() {
            tracing::warn!("some connections did not end in time and are cut off");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busy_answer_announces_its_length() {
        let text = std::str::from_utf8(BUSY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        let document: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(document["status"], 503);
    }
}
