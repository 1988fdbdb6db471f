//! What the handlers share, and what the operator chose about HTTP.

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

/// What the handlers share.
#[derive(Clone)]
pub struct HttpState {
    /// The rules and the data.
    pub app: Arc<App>,
    /// How the server is reached.
    pub settings: Arc<HttpSettings>,
    /// How often callers may come.
    pub limits: Arc<Limits>,
    /// Events as they happen.
    pub live: Arc<Live>,
    /// Whether the server's tasks run.
    pub tasks: TaskStates,
}

impl HttpState {
    /// What handlers share, from the rules and what the operator chose.
    pub fn new(app: Arc<App>, live: Arc<Live>, tasks: TaskStates, settings: HttpSettings) -> Self {
        let limits = Arc::new(Limits::new(app.settings.rate_limits));
        Self { app, settings: Arc::new(settings), limits, live, tasks }
    }
}

/// How messages and events are rendered below `http`.
pub const RENDERER: Renderer =
    Renderer { message: messages::render, event: events::render, ephemeral_event: events::render_ephemeral };

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// The head of a request; also how long a connection may lie idle.
    pub head: Duration,
    /// The body of a request.
    pub body: Duration,
    /// A request, from its head to its answer's.
    pub request: Duration,
    /// Between two pings of a socket from which nothing comes; it is closed after two without an answer.
    pub heartbeat: Duration,
    /// How long a peer may take nothing of what is written to it; then it is closed.
    pub stall: Duration,
    /// Time between two comments that keep a stream of server-sent events alive while it has no events.
    pub keep_alive: Duration,
    /// How long a stream, a socket or a long poll goes on while the database cannot confirm the caller's credentials.
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

/// Connections open at once.
pub const CONNECTION_LIMIT: usize = 16_384;

/// What the operator chose about HTTP.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Connections open at once; one more is told so and closed.
    pub connection_limit: usize,
    /// Which hosts and origins are ours.
    pub origins: OriginRules,
    /// Whose word about a caller's address is taken.
    pub trusted_proxies: TrustedProxies,
    /// Whether metrics have an address of their own, and so are not served here.
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
