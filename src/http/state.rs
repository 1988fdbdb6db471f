//! The state that all handlers share, and the settings of HTTP.

use std::sync::Arc;
use std::time::Duration;

use super::access::client_address::TrustedProxies;
use super::access::limits::Limits;
use super::access::origin::OriginRules;
use super::bodies::{events, messages};
use crate::app::App;
use crate::domain::shared::rendering::Renderer;
use crate::live::Live;
use crate::workers::TaskStates;

/// The state that all handlers share. Cheap to clone.
#[derive(Clone)]
pub struct HttpState {
    /// The domain and its data.
    pub app: Arc<App>,
    /// The settings of HTTP.
    pub settings: Arc<HttpSettings>,
    /// The rate limits.
    pub limits: Arc<Limits>,
    /// The delivery of events.
    pub live: Arc<Live>,
    /// The states of the tasks that run as long as the server.
    pub tasks: TaskStates,
}

impl HttpState {
    /// Creates the shared state.
    pub fn new(app: Arc<App>, live: Arc<Live>, tasks: TaskStates, settings: HttpSettings) -> Self {
        let limits = Arc::new(Limits::new(app.settings.rate_limits));
        Self { app, settings: Arc::new(settings), limits, live, tasks }
    }
}

/// The functions that render messages and events for the layers below `http`.
pub const RENDERER: Renderer =
    Renderer { message: messages::render, event: events::render, ephemeral_event: events::render_ephemeral };

/// Limits of time.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the head of a request. Also the longest idle time of a connection.
    pub head: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// For a request, from its head to the head of its answer.
    pub request: Duration,
    /// Between two pings on a WebSocket from which nothing arrives. It is closed after two pings without an answer.
    pub heartbeat: Duration,
    /// How long a peer may accept no data while the server writes to it. After this time the connection is closed.
    pub stall: Duration,
    /// Between two comments that keep a stream of server-sent events alive while it has no events.
    pub keep_alive: Duration,
    /// How long a stream, a WebSocket or a long poll may continue while the database cannot confirm the caller's credentials.
    pub unconfirmed: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(30),
            body: Duration::from_secs(20),
            request: Duration::from_secs(60),
            heartbeat: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
            unconfirmed: Duration::from_secs(60),
        }
    }
}

/// The default limit of open connections.
pub const CONNECTION_LIMIT: usize = 16_384;

/// The settings of HTTP.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Limits of time.
    pub timeouts: Timeouts,
    /// The limit of open connections. A further connection is answered with 503 and closed.
    pub connection_limit: usize,
    /// The hosts and origins of the server, and the other origins that may call it.
    pub origins: OriginRules,
    /// The proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: TrustedProxies,
    /// Whether metrics have a separate address. If so, `/metrics` does not exist on the address of the API.
    pub metrics_elsewhere: bool,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            connection_limit: CONNECTION_LIMIT,
            origins: OriginRules::default(),
            trusted_proxies: TrustedProxies::default(),
            metrics_elsewhere: false,
        }
    }
}
