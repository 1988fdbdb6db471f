//! Connecting: the choice of the host, time limits, and checks of the PostgreSQL server.
//!
//! Invariants:
//! - A connection is used only after a check of its PostgreSQL server: the server accepts writes, its settings do not lose
//!   acknowledged data, and no pooler mixes up prepared statements. The URL and the options can relax the first two.
//! - Every operation here ends within a named time, even when a peer accepts a connection and then sends nothing.

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

/// How long connecting may take, including the check, when the URL names one host.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The same limit for each host, when the URL names several. It is shorter, so that a host that does not answer leaves time
/// for the next one.
const HOST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long sent bytes may stay unacknowledged by the peer before the operating system closes the connection.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time before the first TCP keepalive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// Time between two probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Unanswered probes after which the connection is closed.
const KEEPALIVE_RETRIES: u32 = 3;
/// The driver's default of `keepalives_idle`. A URL that sets exactly this value is treated as if it set none.
const DEFAULT_KEEPALIVE_IDLE: Duration = Duration::from_secs(2 * 60 * 60);
/// A pooled connection that was idle for longer is tested with an empty query before it is used.
const UNCHECKED_IDLE: Duration = Duration::from_secs(1);
/// How long the answer to that test may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// A pooled connection that is older is replaced. So the pool stops using a server after the host name points to another
/// one.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The query that checks a PostgreSQL server before a connection is used. The query also counts prepared statements named
/// `s` and a number, as tokio_postgres names them. A new connection has none of its own, so they belong to another
/// connection.
const SERVER_CHECK: &str = "SELECT current_setting('transaction_read_only') AS read_only, current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes, current_setting('synchronous_commit') AS synchronous_commit,
    (SELECT count(*) FROM pg_catalog.pg_prepared_statements WHERE name ~ '^s[0-9]+$') AS foreign_statements";

/// The future that runs a connection. It completes when the connection ends.
pub type ConnectionDriver = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// Why connecting failed.
pub enum Refusal {
    /// PostgreSQL accepts no more connections.
    Full(String),
    /// Another reason. The text is a sentence for the operator.
    Other(String),
}

impl Refusal {
    /// Converts to [`Error::Unavailable`]: the cause may disappear without a change of this program.
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

/// The PostgreSQL servers that a URL names.
pub struct Target {
    /// One configuration for each host.
    hosts: Vec<Config>,
    connector: MakeRustlsConnect,
    wanted_attributes: TargetSessionAttrs,
    at_random: bool,
    /// The index of the host that was connected to last. It is tried first, so that the pool waits only once for a host
    /// that does not answer.
    preferred: AtomicUsize,
}

impl Target {
    /// Parses a URL.
    ///
    /// # Errors
    /// [`Error::Internal`] with a sentence for the operator, which contains no secrets of the URL.
    pub fn parse(url: &str, application_name: &str) -> Result<Self> {
        let (mut config, connector) = tls::configure(url)?;
        if config.get_application_name().is_none() {
            config.application_name(application_name);
        }
        let count = config.get_hosts().len().max(config.get_hostaddrs().len());
        let ports = config.get_ports().len();
        if count == 0 || ports > 1 && ports != count {
            return Err(Error::internal("the PostgreSQL URL has no host, or the numbers of hosts and ports differ"));
        }
        let wanted_attributes = config.get_target_session_attrs();
        let at_random = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
        let hosts = (0..count).map(|index| config_for_host(&config, index)).collect();
        Ok(Self { hosts, connector, wanted_attributes, at_random, preferred: AtomicUsize::new(0) })
    }

    /// The TLS connector for these servers.
    pub fn connector(&self) -> MakeRustlsConnect {
        self.connector.clone()
    }

    /// Connects to the first host that answers and passes the check. `drive` starts the task that runs the connection.
    pub async fn connect(
        &self,
        allow_unsafe_storage: bool,
        drive: &(dyn Fn(ConnectionDriver) -> JoinHandle<()> + Send + Sync),
    ) -> Result<ClientWrapper, Refusal> {
        let limit = if self.hosts.len() == 1 { CONNECT_TIMEOUT } else { HOST_TIMEOUT };
        let first = if self.at_random { jitter(self.hosts.len()) } else { self.preferred.load(Ordering::Relaxed) };
        let (mut full, mut failures) = (false, Vec::new());
        for index in (first..self.hosts.len()).chain(0..first) {
            let connecting = self.connect_to(index, allow_unsafe_storage, drive);
            let failure = match timeout(limit, connecting).await {
                Ok(Ok(client)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(client);
                }
                Ok(Err(failure)) => failure,
                Err(_) => Refusal::Other("PostgreSQL took too long to accept a connection".into()),
            };
            full |= matches!(failure, Refusal::Full(_));
            failures.push(if self.hosts.len() == 1 {
                failure.text().to_owned()
            } else {
                format!("{}: {}", host_name(&self.hosts[index]), failure.text())
            });
        }
        let text = failures.join("; ");
        Err(if full { Refusal::Full(text) } else { Refusal::Other(text) })
    }

    async fn connect_to(
        &self,
        index: usize,
        allow_unsafe_storage: bool,
        drive: &(dyn Fn(ConnectionDriver) -> JoinHandle<()> + Send + Sync),
    ) -> Result<ClientWrapper, Refusal> {
        let (client, connection) = self.hosts[index].connect(self.connector.clone()).await.map_err(connect_error)?;
        // From here on, dropping the client closes the connection.
        let client = ClientWrapper::new(client, drive(connection));
        let checked = check_server(&client).await.map_err(connect_error)?;
        if self.wanted_attributes == TargetSessionAttrs::ReadWrite && checked.read_only {
            return Err(Refusal::Other(
                "PostgreSQL is read-only: it is a standby, or is configured so. For a command that \
                 only reads, such as backup, add ?target_session_attrs=any to the URL"
                    .into(),
            ));
        }
        if self.wanted_attributes == TargetSessionAttrs::ReadOnly && !checked.read_only {
            return Err(Refusal::Other(
                "PostgreSQL accepts writes, but target_session_attrs asks for a read-only server".into(),
            ));
        }
        if checked.foreign_statements {
            return Err(Refusal::Other(errors::MIXED_STATEMENTS.into()));
        }
        if !allow_unsafe_storage && !checked.unsafe_settings.is_empty() {
            let found = checked.unsafe_settings.join("; ");
            return Err(Refusal::Other(format!(
                "{found}; change this setting, or accept it with --allow-unsafe-storage"
            )));
        }
        Ok(client)
    }
}

/// The configuration of one of several hosts.
fn config_for_host(all: &Config, index: usize) -> Config {
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
    // The check after connecting also reads whether the server accepts writes, so tokio_postgres need not ask for it
    // separately.
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

fn connect_error(error: tokio_postgres::Error) -> Refusal {
    let Some(reported) = error.as_db_error() else {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        return Refusal::Other(format!("{error}{cause}"));
    };
    let text = format!("{} ({})", reported.message(), reported.code().code());
    // PgBouncer reports this with the code of a protocol violation.
    let full = *reported.code() == SqlState::TOO_MANY_CONNECTIONS
        || reported.message().contains("no more connections allowed");
    if full { Refusal::Full(text) } else { Refusal::Other(text) }
}

/// The result of checking a PostgreSQL server.
struct ServerCheck {
    read_only: bool,
    foreign_statements: bool,
    /// One sentence for each setting with which a crash can lose acknowledged data.
    unsafe_settings: Vec<String>,
}

async fn check_server(client: &Client) -> Result<ServerCheck, tokio_postgres::Error> {
    let answer = client.simple_query(SERVER_CHECK).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let is = |name: &str, value: &str| row.and_then(|row: &SimpleQueryRow| row.try_get(name).ok()?) == Some(value);
    let mut unsafe_settings = Vec::new();
    for (name, lost) in [
        ("fsync", "a crash of the machine can destroy the database"),
        ("full_page_writes", "a crash of the machine can destroy pages of the database"),
        ("synchronous_commit", "a crash of PostgreSQL loses the last acknowledged writes"),
    ] {
        if is(name, "off") {
            unsafe_settings.push(format!(
                "{name} is off, with which {lost}: set {name} = on, in postgresql.conf or where ALTER ROLE or ALTER DATABASE \
                 set it"
            ));
        }
    }
    Ok(ServerCheck {
        read_only: is("read_only", "on"),
        foreign_statements: !is("foreign_statements", "0"),
        unsafe_settings,
    })
}

/// One sentence for each setting of a PostgreSQL server with which a crash can lose acknowledged data.
///
/// # Errors
/// Errors of the connection.
pub async fn unsafe_settings(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    Ok(check_server(client).await?.unsafe_settings)
}

/// A pooled connection.
pub struct PoolEntry {
    /// The client of the connection.
    pub client: ClientWrapper,
    /// The pool's generation when the connection was created.
    pub generation: u64,
    /// When the connection was last returned to the pool.
    pub returned_at: Instant,
}

/// Creates the connections of a pool, and decides which ones are used again.
pub struct Manager {
    target: Target,
    allow_unsafe_storage: bool,
    /// The current generation of the pool. It is increased to retire all connections that exist.
    generation: AtomicU64,
}

impl Manager {
    /// A manager for the servers of a URL.
    pub fn new(target: Target, allow_unsafe_storage: bool) -> Self {
        Self { target, allow_unsafe_storage, generation: AtomicU64::new(0) }
    }

    /// The TLS connector of the pool.
    pub fn connector(&self) -> MakeRustlsConnect {
        self.target.connector()
    }

    /// Retires the connections of a generation. Returns `false` when they were already retired.
    pub fn retire_generation(&self, generation: u64) -> bool {
        let next = generation + 1;
        self.generation.compare_exchange(generation, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

impl managed::Manager for Manager {
    type Type = PoolEntry;
    type Error = Refusal;

    async fn create(&self) -> Result<PoolEntry, Refusal> {
        // The generation is read before connecting. If it is retired while this connection is created, this connection is
        // retired too.
        let generation = self.generation.load(Ordering::Acquire);
        let drive = |connection: ConnectionDriver| {
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    let reason = connect_error(error);
                    tracing::debug!(error = reason.text(), "a connection to PostgreSQL ended");
                }
            })
        };
        let client = self.target.connect(self.allow_unsafe_storage, &drive).await?;
        Ok(PoolEntry { client, generation, returned_at: Instant::now() })
    }

    async fn recycle(&self, entry: &mut PoolEntry, metrics: &Metrics) -> RecycleResult<Refusal> {
        let current = entry.generation == self.generation.load(Ordering::Acquire);
        if !current || entry.client.is_closed() || metrics.age() > MAX_AGE {
            return Err(RecycleError::message("too old, or closed"));
        }
        if entry.returned_at.elapsed() <= UNCHECKED_IDLE {
            return Ok(());
        }
        match timeout(PROBE_TIMEOUT, entry.client.simple_query("")).await {
            Ok(Ok(_)) => Ok(()),
            outcome => {
                // A firewall that has dropped one idle connection has probably dropped all of them.
                if self.retire_generation(entry.generation) {
                    let reason = match outcome {
                        Ok(Err(error)) => connect_error(error).text().to_owned(),
                        _ => "no answer".to_owned(),
                    };
                    tracing::warn!(reason, "an idle connection to PostgreSQL failed, so all connections are replaced");
                }
                Err(RecycleError::message("dead"))
            }
        }
    }
}

/// A random number below `limit`.
pub fn jitter(limit: usize) -> usize {
    // A weak random number, or 0 without randomness, does no harm here.
    let bytes = Rng::System.bytes().unwrap_or_default();
    usize::from_le_bytes(bytes) % limit.max(1)
}
