//! The server under test: started, timed, weighed and stopped like an operator would.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{self, Request};
use crate::process::{Context, Outcome, Output, Process, Stop};

const START_AT_MOST: Duration = Duration::from_secs(300);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(1);
/// Cargo builds the server before a bench and says where, if the bench belongs to its package.
const BUILT_BESIDE: Option<&str> = option_env!("CARGO_BIN_EXE_posthaste");

/// How the server is started.
#[derive(Clone)]
pub struct Setup {
    /// The executable.
    pub binary: PathBuf,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// PostgreSQL instead of the SQLite database in the data directory.
    pub database_url: Option<String>,
    /// Whom it lets in.
    pub access: Access,
    /// Holds the secret that JWTs are signed with.
    pub jwt_secret_file: PathBuf,
    /// Where its words go.
    pub log: PathBuf,
}

/// Whom a server lets in.
#[derive(Clone, Copy)]
pub enum Access {
    /// Everyone.
    Open,
    /// Who has credentials.
    Secured,
}

/// What JWTs say of their issuer and their audience.
pub const ISSUER_AND_AUDIENCE: &str = "bench";

/// A server that answers.
pub struct Server {
    /// Where it answers.
    pub address: SocketAddr,
    /// From its start to its first 200 on `/healthz`.
    pub start_time: Duration,
    process: Process,
}

/// The server's executable: `POSTHASTE_BIN`, else the one that was built with this bench.
pub fn find_binary() -> Outcome<PathBuf> {
    if let Some(path) = std::env::var_os("POSTHASTE_BIN").map(PathBuf::from) {
        return if path.is_file() { Ok(path) } else { Err(format!("POSTHASTE_BIN: no file {}", path.display())) };
    }
    let executable = std::env::current_exe().context("finding this executable")?;
    let beside = executable.parent().and_then(Path::parent).map(|folder| folder.join("posthaste"));
    BUILT_BESIDE.map(PathBuf::from).into_iter().chain(beside).find(|path| path.is_file()).ok_or_else(|| {
        "no posthaste executable: build it with `cargo build --release`, or set POSTHASTE_BIN".to_owned()
    })
}

impl Server {
    /// Starts it and waits for its first 200.
    pub fn start(setup: &Setup) -> Outcome<Self> {
        let address = free_address()?;
        let mut command = Command::new(&setup.binary);
        command.args(["serve", "--rate-limits", "off", "--log-format", "json", "--listen"]);
        command.arg(address.to_string()).arg("--data-dir").arg(&setup.data_dir);
        command.args(["--jwt-issuer", ISSUER_AND_AUDIENCE, "--jwt-audience", ISSUER_AND_AUDIENCE]);
        command.arg("--jwt-hs256-secret-file").arg(&setup.jwt_secret_file);
        if let Access::Open = setup.access {
            command.arg("--open");
        }
        if let Some(url) = &setup.database_url {
            command.arg("--database-url").arg(url);
        }
        command.stdin(Stdio::null());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("POSTHASTE_")) {
            // The operator's own settings are not what is measured.
            command.env_remove(name);
        }
        let started_at = Instant::now();
        let process = Process::start("posthaste", &mut command, setup.log.clone(), Stop::Terminate, Output::Logged)?;
        let health = Request::get(address, "/healthz");
        loop {
            match client::fetch(address, &health, Duration::from_secs(2)) {
                Ok(page) if page.status == 200 => break,
                Ok(_) | Err(_) if started_at.elapsed() < START_AT_MOST => thread::sleep(ASK_AGAIN_AFTER),
                Ok(page) => return Err(format!("/healthz still answers {}", page.status)),
                Err(error) => {
                    return Err(format!("posthaste does not answer: {error}\n{}", process.last_words()));
                }
            }
            process.check_running()?;
        }
        Ok(Self { address, start_time: started_at.elapsed(), process })
    }

    /// Its anonymous resident memory: what it has allocated, without the pages of files.
    pub fn anonymous_memory_bytes(&self) -> Outcome<u64> {
        self.process.check_running()?;
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(&path).context(format!("reading {path}"))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .map(|kibibytes| kibibytes * 1024)
            .ok_or_else(|| format!("no RssAnon in {path}"))
    }
}

/// A port that was free a moment ago.
pub fn free_address() -> Outcome<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    listener.local_addr().context("asking for the free port")
}
