//! Connecting: which host, within which time, and whether the server at the other end can be relied on.
//!
//! Invariants:
//! - A connection is handed out only after its server was examined: that it takes writes, that its settings keep what it
//!   acknowledges, and that no pooler mixes up prepared statements on the way.
//! - Everything here ends within a named time, also when a peer accepts a connection and then says nothing.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{LoadBalanceHosts, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, SimpleQueryMessage, SimpleQueryRow, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{errors, tls};
use crate::base::error::{Error, Result};
use crate::base::ids::Rng;

/// How long connecting may take, the examination included, where the URL names one host.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Likewise for each of several hosts, so that one that has vanished leaves time for the next one.
const HOST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long sent bytes may stay without the peer's acknowledgement before the system gives the connection up.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time before the first TCP keepalive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// Time between two probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Unanswered probes after which the connection is closed.
const KEEPALIVE_RETRIES: u32 = 3;
/// The driver's default of `keepalives_idle`. A URL that sets exactly this value is treated as if it set none.
const DEFAULT_KEEPALIVE_IDLE: Duration = Duration::from_secs(2 * 60 * 60);
/// A pooled connection that lay idle for longer is asked with an empty query before it is used.
const UNCHECKED_IDLE: Duration = Duration::from_secs(1);
/// How long the answer to that query may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// A pooled connection that is older is replaced, so that a server that an address no longer leads to is left by itself.
const MAX_AGE: Duration = Duration::from_secs(600);

/// What is asked of a server before its connection is used. The driver names its prepared statements `s` and a number: on
/// a connection that has prepared none they belong to another one.
const EXAMINATION: &str = "SELECT current_setting('transaction_read_only') AS read_only, current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes, current_setting('synchronous_commit') AS synchronous_commit,
    (SELECT count(*) FROM pg_catalog.pg_prepared_statements WHERE name ~ '^s[0-9]+$') AS foreign_statements";

/// What drives a connection; it ends with it.
pub type Driver = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// Why there is no connection.
pub enum Refusal {
    /// The server has as many connections as it takes.
    Full(String),
    /// Everything else, in words for the operator.
    Other(String),
}

impl Refusal {
    /// As an error that passes.
    pub fn into_error(self) -> Error {
        match self {
            Self::Full(text) | Self::Other(text) => Error::unavailable(text),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Full(text) | Self::Other(text) => text,
        }
    }
}

/// The servers of a URL.
pub struct Target {
    /// One configuration for each host.
    hosts: Vec<Config>,
    connector: MakeRustlsConnect,
    wants: TargetSessionAttrs,
    at_random: bool,
    /// The host that was connected to last: asked first, so that one that has vanished costs its time-out only once.
    preferred: AtomicUsize,
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`Error::Internal`] with a sentence for the operator, without the URL's secrets.
    pub fn parse(url: &str, application_name: &str) -> Result<Self> {
        let (mut config, connector) = tls::configure(url)?;
        if config.get_application_name().is_none() {
            config.application_name(application_name);
        }
        let count = config.get_hosts().len().max(config.get_hostaddrs().len());
        let ports = config.get_ports().len();
        if count == 0 || ports > 1 && ports != count {
            return Err(Error::internal("the PostgreSQL URL names no host, or not as many ports as hosts"));
        }
        let wants = config.get_target_session_attrs();
        let at_random = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
        let hosts = (0..count).map(|index| one_host(&config, index)).collect();
        Ok(Self { hosts, connector, wants, at_random, preferred: AtomicUsize::new(0) })
    }

    /// What encrypts its connections.
    pub fn connector(&self) -> MakeRustlsConnect {
        self.connector.clone()
    }

    /// Connects to the first host that answers and passes the examination. `drive` starts what drives the connection.
    pub async fn connect(
        &self,
        allow_unsafe_storage: bool,
        drive: &(dyn Fn(Driver) -> JoinHandle<()> + Send + Sync),
    ) -> Result<ClientWrapper, Refusal> {
        let limit = if self.hosts.len() == 1 { CONNECT_TIMEOUT } else { HOST_TIMEOUT };
        let first = if self.at_random { jitter(self.hosts.len()) } else { self.preferred.load(Ordering::Relaxed) };
        let (mut full, mut refusals) = (false, Vec::new());
        for index in (first..self.hosts.len()).chain(0..first) {
            let connecting = self.connect_to(index, allow_unsafe_storage, drive);
            let refusal = match timeout(limit, connecting).await {
                Ok(Ok(client)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(client);
                }
                Ok(Err(refusal)) => refusal,
                Err(_) => Refusal::Other("the server took too long to accept a connection".into()),
            };
            full |= matches!(refusal, Refusal::Full(_));
            refusals.push(if self.hosts.len() == 1 {
                refusal.text().to_owned()
            } else {
                format!("{}: {}", host_name(&self.hosts[index]), refusal.text())
            });
        }
        let text = refusals.join("; ");
        Err(if full { Refusal::Full(text) } else { Refusal::Other(text) })
    }

    async fn connect_to(
        &self,
        index: usize,
        allow_unsafe_storage: bool,
        drive: &(dyn Fn(Driver) -> JoinHandle<()> + Send + Sync),
    ) -> Result<ClientWrapper, Refusal> {
        let (client, connection) = self.hosts[index].connect(self.connector.clone()).await.map_err(refused)?;
        // Dropped at any point from here on, it closes the connection.
        let client = ClientWrapper::new(client, drive(connection));
        let examined = examine(&client).await.map_err(refused)?;
        if self.wants == TargetSessionAttrs::ReadWrite && examined.read_only {
            return Err(Refusal::Other("the server takes no writes: it is a standby, or was made read-only (a command that only reads, such as backup, \
                 takes it with ?target_session_attrs=any)".into()));
        }
        if self.wants == TargetSessionAttrs::ReadOnly && !examined.read_only {
            return Err(Refusal::Other(
                "the server takes writes, and target_session_attrs asks for one that does not".into(),
            ));
        }
        if examined.foreign_statements {
            return Err(Refusal::Other(errors::MIXED_STATEMENTS.into()));
        }
        if !allow_unsafe_storage && !examined.unsafe_settings.is_empty() {
            let found = examined.unsafe_settings.join("; ");
            return Err(Refusal::Other(format!("{found}; --allow-unsafe-storage accepts it as it is")));
        }
        Ok(client)
    }
}

/// The configuration of one of several hosts.
fn one_host(all: &Config, index: usize) -> Config {
    let mut config = Config::new();
    if let Some(user) = all.get_user() {
        config.user(user);
    }
    if let Some(password) = all.get_password() {
        config.password(password);
    }
    if let Some(name) = all.get_dbname() {
        config.dbname(name);
    }
    if let Some(options) = all.get_options() {
        config.options(options);
    }
    if let Some(name) = all.get_application_name() {
        config.application_name(name);
    }
    match all.get_hosts().get(index) {
        Some(tokio_postgres::config::Host::Tcp(host)) => _ = config.host(host),
        Some(tokio_postgres::config::Host::Unix(path)) => _ = config.host_path(path),
        None => {}
    }
    if let Some(address) = all.get_hostaddrs().get(index) {
        config.hostaddr(*address);
    }
    if let Some(port) = all.get_ports().get(index).or(all.get_ports().first()) {
        config.port(*port);
    }
    let given_idle = Some(all.get_keepalives_idle()).filter(|idle| *idle != DEFAULT_KEEPALIVE_IDLE);
    config
        .ssl_mode(all.get_ssl_mode())
        .ssl_negotiation(all.get_ssl_negotiation())
        .channel_binding(all.get_channel_binding())
        .connect_timeout(all.get_connect_timeout().copied().unwrap_or(HOST_TIMEOUT))
        .tcp_user_timeout(all.get_tcp_user_timeout().copied().unwrap_or(TCP_USER_TIMEOUT))
        .keepalives(all.get_keepalives())
        .keepalives_idle(given_idle.unwrap_or(KEEPALIVE_IDLE))
        .keepalives_interval(all.get_keepalives_interval().unwrap_or(KEEPALIVE_INTERVAL))
        .keepalives_retries(all.get_keepalives_retries().unwrap_or(KEEPALIVE_RETRIES));
    // The examination finds out whether the server takes writes, together with the rest.
    config.target_session_attrs(TargetSessionAttrs::Any);
    config
}

fn host_name(config: &Config) -> String {
    let port = config.get_ports().first().copied().unwrap_or(super::url::DEFAULT_PORT);
    match (config.get_hosts().first(), config.get_hostaddrs().first()) {
        (Some(tokio_postgres::config::Host::Tcp(host)), _) => format!("{host}:{port}"),
        (Some(tokio_postgres::config::Host::Unix(path)), _) => format!("{}:{port}", path.display()),
        (None, Some(address)) => format!("{address}:{port}"),
        (None, None) => format!("localhost:{port}"),
    }
}

fn refused(error: tokio_postgres::Error) -> Refusal {
    let Some(reported) = error.as_db_error() else {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        return Refusal::Other(format!("{error}{cause}"));
    };
    let text = format!("{} ({})", reported.message(), reported.code().code());
    // PgBouncer says so with the code of a protocol violation.
    let full = *reported.code() == SqlState::TOO_MANY_CONNECTIONS
        || reported.message().contains("no more connections allowed");
    if full { Refusal::Full(text) } else { Refusal::Other(text) }
}

/// What an examination found.
struct Examined {
    read_only: bool,
    foreign_statements: bool,
    /// A sentence for each setting with which a crash can lose what was acknowledged.
    unsafe_settings: Vec<String>,
}

async fn examine(client: &Client) -> Result<Examined, tokio_postgres::Error> {
    let answer = client.simple_query(EXAMINATION).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let is = |name: &str, value: &str| row.and_then(|row: &SimpleQueryRow| row.try_get(name).ok()?) == Some(value);
    let mut unsafe_settings = Vec::new();
    for (name, lost) in [
        ("fsync", "a crash of the machine can destroy the database"),
        ("full_page_writes", "a crash of the machine can destroy pages of the database"),
        ("synchronous_commit", "a crash of the server loses what was acknowledged last"),
    ] {
        if is(name, "off") {
            unsafe_settings.push(format!(
                "{name} is off, with which {lost}: set {name} = on, in postgresql.conf or where ALTER ROLE or ALTER DATABASE \
                 set it"
            ));
        }
    }
    Ok(Examined {
        read_only: is("read_only", "on"),
        foreign_statements: !is("foreign_statements", "0"),
        unsafe_settings,
    })
}

/// The settings of a server with which a crash can lose what was acknowledged, a sentence each.
///
/// # Errors
/// Of the connection.
pub async fn unsafe_settings(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    Ok(examine(client).await?.unsafe_settings)
}

/// A pooled connection.
pub struct Session {
    /// The connection.
    pub client: ClientWrapper,
    /// Which of the pool's generations it belongs to.
    pub generation: u64,
    /// When it was last given back.
    pub returned_at: Instant,
}

/// Makes the connections of a pool and decides which are used again.
pub struct Manager {
    target: Target,
    allow_unsafe_storage: bool,
    /// Rises when every connection made so far is condemned.
    generation: AtomicU64,
}

impl Manager {
    /// For the servers of a URL.
    pub fn new(target: Target, allow_unsafe_storage: bool) -> Self {
        Self { target, allow_unsafe_storage, generation: AtomicU64::new(0) }
    }

    /// What encrypts its connections.
    pub fn connector(&self) -> MakeRustlsConnect {
        self.target.connector()
    }

    /// Condemns the connections of a generation; whether they were not condemned before.
    pub fn condemn(&self, generation: u64) -> bool {
        let next = generation + 1;
        self.generation.compare_exchange(generation, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

impl managed::Manager for Manager {
    type Type = Session;
    type Error = Refusal;

    async fn create(&self) -> Result<Session, Refusal> {
        // Taken before connecting: what condemns the pool meanwhile condemns this connection too.
        let generation = self.generation.load(Ordering::Acquire);
        let drive = |connection: Driver| {
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a database connection ended");
                }
            })
        };
        let client = self.target.connect(self.allow_unsafe_storage, &drive).await?;
        Ok(Session { client, generation, returned_at: Instant::now() })
    }

    async fn recycle(&self, session: &mut Session, metrics: &Metrics) -> RecycleResult<Refusal> {
        let current = session.generation == self.generation.load(Ordering::Acquire);
        if !current || session.client.is_closed() || metrics.age() > MAX_AGE {
            return Err(RecycleError::message("too old, or closed"));
        }
        if session.returned_at.elapsed() <= UNCHECKED_IDLE {
            return Ok(());
        }
        match timeout(PROBE_TIMEOUT, session.client.simple_query("")).await {
            Ok(Ok(_)) => Ok(()),
            outcome => {
                // A firewall that has forgotten one connection has forgotten them all.
                if self.condemn(session.generation) {
                    let reason = match outcome {
                        Ok(Err(error)) => error.to_string(),
                        _ => "no answer".to_owned(),
                    };
                    tracing::warn!(reason, "an idle database connection did not answer: replacing all connections");
                }
                Err(RecycleError::message("dead"))
            }
        }
    }
}

/// A number below `limit`.
pub fn jitter(limit: usize) -> usize {
    // Nothing rests on how random it is.
    let bytes = Rng::System.bytes().unwrap_or_default();
    usize::from_le_bytes(bytes) % limit.max(1)
}
