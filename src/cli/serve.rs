//! `posthaste serve`.

use std::net::SocketAddr;
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
use crate::domain::operations::{demo, health};
use crate::http::server;
use crate::http::state::{CONNECTION_LIMIT, HttpSettings, HttpState, RENDERER, Timeouts};
use crate::live::Live;
use crate::workers::Workers;

/// Serves until a signal.
pub fn run(data: &DataOptions, options: ServeOptions) -> Result<ExitCode, String> {
    let (config, log) = config::serve(data, options)?;
    start_log(&log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let outcome = runtime.block_on(serve(config));
    // Every request is answered by now; a name look-up that hangs must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn serve(config: ServeConfig) -> Result<(), String> {
    let stop = stop_signal();
    let listener = bind(config.listen).await?;
    let metrics_listener = match config.metrics_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let (access, demo) = (config.settings.access, config.settings.demo);
    let place = config.data.location.describe();
    let (app, report) = App::open(&config.data.location, config.settings, Clock::System, Rng::System, RENDERER)
        .await
        .map_err(|error| explain(&place, &error))?;
    if report.upgraded_seed {
        tracing::info!("the seed's database was upgraded in place");
    }
    for (old, new) in &report.renamed_users {
        tracing::warn!(old, new, "a user name was empty or differed from another one only by case, and was changed");
    }
    let app = Arc::new(app);
    let live = Live::new(Arc::clone(&app));
    let mut workers = Workers::new(&app, &live, &config.bus, end_process).map_err(|error| error.to_string())?;
    // A server that cannot write must not say that it listens.
    health::check(&app).await.map_err(|error| explain(&place, &error))?;
    if demo && demo::fill(&app).await.map_err(|error| explain(&place, &error))? {
        tracing::info!("the demo's users and messages were written");
    }
    let settings = HttpSettings {
        timeouts: Timeouts::default(),
        connection_limit: CONNECTION_LIMIT,
        origins: config.origins,
        trusted_proxies: config.trusted_proxies,
        metrics_elsewhere: metrics_listener.is_some(),
    };
    let state = HttpState::new(Arc::clone(&app), live, workers.states().clone(), settings);
    let access = if access == Access::Open { "open" } else { "secured" };
    tracing::info!(address = %listener.local_addr().unwrap_or(config.listen), database = place, access, "listening");
    workers.start();
    let outcome = server::serve(state, listener, metrics_listener, stop).await;
    workers.stop().await;
    app.db.close().await;
    tracing::info!("stopped");
    outcome.map_err(|error| error.to_string())
}

/// Ends the process at once when nothing may be acknowledged any more. The database is left open on purpose: closing it would
/// copy the write-ahead log.
fn end_process(sentence: &str) {
    // Held to the end: no other thread writes a line behind this one.
    let _log = std::io::stderr().lock();
    tracing::error!("{sentence}");
    std::process::exit(1);
}

async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("{address} is in use: stop what listens there, or choose another with --listen")
        }
        _ => format!("cannot listen on {address}: {error}"),
    })
}

/// Waits for the signal to end. The signals are caught from the call on, not only once the future is polled: until then
/// they would end the process at once.
fn stop_signal() -> impl Future<Output = ()> {
    let stream = |kind| signal(kind).map_err(|error| tracing::error!(%error, "a signal cannot be waited for"));
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
        // The innermost span is the last one of the list of spans.
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    started.map_err(|error| format!("the log cannot start: {error}"))
}
