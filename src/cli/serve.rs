//! The command `posthaste serve`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::explain;
use crate::app::App;
use crate::base::ids::Rng;
use crate::base::time::Clock;
use crate::config::{self, DataOptions, LogConfig, LogFormat, ServeConfig, ServeOptions};
use crate::domain::access::principal::Access;
use crate::domain::files::demo_gifs;
use crate::domain::operations::open_data::{self, Data};
use crate::domain::operations::{demo, health};
use crate::http::server;
use crate::http::state::{CONNECTION_LIMIT, HttpSettings, HttpState, RENDERER, Timeouts};
use crate::live::Live;
use crate::workers::Workers;

/// Runs the server until a signal to stop.
pub fn run(data: &DataOptions, options: ServeOptions) -> Result<ExitCode, String> {
    let (config, log) = config::serve(data, options)?;
    start_log(&log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the async runtime: {error}"))?;
    let outcome = runtime.block_on(serve(config));
    // The connections have ended or have had their time to end. A name look-up that hangs must not delay the end of the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn serve(config: ServeConfig) -> Result<(), String> {
    for sentence in config::environment::unknown() {
        tracing::warn!("{sentence}");
    }
    if let Some(file) = &config.data.file {
        tracing::info!(file = %file.display(), "read the configuration file");
    }
    let stop = stop_signal();
    let listener = bind(config.listen).await?;
    let metrics_listener = match config.metrics_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let demo = config.settings.demo;
    let next_step = first_step(&config);
    let place = config.data.location.describe();
    let (app, report) = App::open(&config.data.location, config.settings, Clock::System, Rng::System, RENDERER)
        .await
        .map_err(|error| explain(&place, &error))?;
    if report.upgraded_seed {
        tracing::info!("upgraded the database of the seed in place");
    }
    for (old, new) in &report.renamed_users {
        tracing::warn!(old, new, "changed a user name that was empty or differed from another one only by case");
    }
    let app = Arc::new(app);
    let live = Live::new(Arc::clone(&app));
    let mut workers = Workers::new(&app, &live, &config.bus, end_process).map_err(|error| explain(&place, &error))?;
    // A server that cannot write must not log that it listens.
    health::check(&app).await.map_err(|error| explain(&place, &error))?;
    let has_users = prepare_access(&app, &place, config.allow_open_existing).await?;
    if demo && demo::fill(&app).await.map_err(|error| explain(&place, &error))? {
        if app.gifs.as_ref().is_some_and(|gifs| gifs.service().is_none()) {
            demo_gifs::fill(&app).await.map_err(|error| explain(&place, &error))?;
        }
        tracing::info!("created the data of the demo");
    }
    let settings = HttpSettings {
        timeouts: Timeouts::default(),
        connection_limit: CONNECTION_LIMIT,
        origins: config.origins,
        trusted_proxies: config.trusted_proxies,
        metrics_elsewhere: metrics_listener.is_some(),
    };
    let state = HttpState::new(Arc::clone(&app), live, workers.states().clone(), settings);
    let access = if app.settings.access == Access::Open { "open" } else { "secured" };
    let address = listener.local_addr().unwrap_or(config.listen);
    tracing::info!(%address, database = place, access, "listening");
    tracing::info!("the documentation of the API is at {}", docs_url(app.settings.public_url.as_deref(), address));
    if app.settings.access == Access::Secured && !has_users {
        tracing::info!("there are no users yet. {next_step}");
    }
    workers.start();
    let outcome = server::serve(state, listener, metrics_listener, stop).await;
    workers.stop().await;
    app.db.close().await;
    tracing::info!("stopped");
    outcome.map_err(|error| error.to_string())
}

/// Refuses open access to a database with accounts. Returns whether there are users.
async fn prepare_access(app: &App, place: &str, allow_open_existing: bool) -> Result<bool, String> {
    let is_open = app.settings.access == Access::Open;
    let found = open_data::prepare(app, is_open).await.map_err(|error| explain(place, &error))?;
    if found == Data::Protected && is_open && !allow_open_existing {
        return Err(format!(
            "{place} has accounts, and open access (--demo or --open) would let everybody who reaches the server act as each of \
             them. Remove --demo and --open, choose another --data-dir or --database-url, or add --allow-open-existing"
        ));
    }
    Ok(found != Data::Empty)
}

/// How to create the first account.
fn first_step(config: &ServeConfig) -> String {
    format!(
        "Create the first administrator in another terminal: posthaste admin create-user {} --user-name NAME --admin \
         --password-stdin (it reads the password from standard input)",
        config.data.command_options()
    )
}

/// The address of the documentation in a browser on this machine, or behind the public URL.
fn docs_url(public_url: Option<&str>, address: SocketAddr) -> String {
    if let Some(url) = public_url {
        return format!("{}/docs", url.trim_end_matches('/'));
    }
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    format!("http://{address}/docs")
}

/// Ends the process immediately after a fatal fault. The database stays open on purpose: closing it would copy the
/// write-ahead log.
fn end_process(sentence: &str) {
    // The lock is held until the process ends, so that no other thread writes a line after this one.
    let _log = std::io::stderr().lock();
    tracing::error!("{sentence}");
    std::process::exit(1);
}

async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("{address} is in use; stop the program that listens there, or choose another address with --listen")
        }
        std::io::ErrorKind::PermissionDenied => format!(
            "{address} may not be used by this user: ports below 1024 are for root; choose another port, and put a proxy in front"
        ),
        std::io::ErrorKind::AddrNotAvailable => {
            format!("this machine does not have the address {}; listen on 127.0.0.1 or 0.0.0.0", address.ip())
        }
        _ => format!("cannot listen on {address}: {error}"),
    })
}

/// Waits for SIGTERM or SIGINT. The handlers are installed when this function is called, not when its future is first polled.
/// Without handlers, a signal ends the process immediately.
fn stop_signal() -> impl Future<Output = ()> {
    let stream = |kind| signal(kind).map_err(|error| tracing::error!(%error, "cannot install a signal handler"));
    let streams = (stream(SignalKind::terminate()), stream(SignalKind::interrupt()));
    async {
        match streams {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                tracing::info!("stopping");
            }
            _ => std::future::pending().await,
        }
    }
}

fn start_log(config: &LogConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| format!("--log: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match config.format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        // The innermost span is the last one in the list of spans, so it is not repeated.
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    started.map_err(|error| format!("cannot start the log: {error}"))
}
