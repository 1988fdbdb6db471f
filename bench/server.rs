//! The server under test. It is started and stopped in the way an operator does it. Its start time and its memory are measured.

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
/// Cargo builds the server before a bench and sets this variable, if the bench belongs to the same package.
const BUILT_BINARY: Option<&str> = option_env!("CARGO_BIN_EXE_posthaste");

/// The options with which the server is started.
#[derive(Clone)]
pub struct Setup {
    pub binary: PathBuf,
    pub data_dir: PathBuf,
    /// The PostgreSQL database to use instead of the SQLite database in the data directory.
    pub database_url: Option<String>,
    pub access: Access,
    /// The file with the secret that signs JWTs.
    pub jwt_secret_file: PathBuf,
    /// The file for the server's output.
    pub log: PathBuf,
}

/// The callers that a server accepts.
#[derive(Clone, Copy)]
pub enum Access {
    /// Everyone.
    Open,
    /// Callers with credentials.
    Secured,
}

/// The issuer and the audience in JWTs.
pub const ISSUER_AND_AUDIENCE: &str = "bench";

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    /// The time from the start of the server to its first 200 on `/healthz`.
    pub start_time: Duration,
    process: Process,
}

/// The server's executable: `POSTHASTE_BIN`, or else the one that was built with this bench.
pub fn find_binary() -> Outcome<PathBuf> {
    if let Some(path) = std::env::var_os("POSTHASTE_BIN").map(PathBuf::from) {
        return if path.is_file() { Ok(path) } else { Err(format!("POSTHASTE_BIN: no file {}", path.display())) };
    }
    let executable = std::env::current_exe().context("finding this executable")?;
    let beside = executable.parent().and_then(Path::parent).map(|folder| folder.join("posthaste"));
    BUILT_BINARY.map(PathBuf::from).into_iter().chain(beside).find(|path| path.is_file()).ok_or_else(|| {
        "no posthaste executable: build it with `cargo build --release`, or set POSTHASTE_BIN".to_owned()
    })
}

impl Server {
    /// Starts the server and waits for its first 200.
    pub fn start(setup: &Setup) -> Outcome<Self> {
        let address = free_address()?;
        let mut command = Command::new(&setup.binary);
        command.args(["serve", "--rate-limits", "off", "--log-format", "json", "--listen"]);
        command.arg(address.to_string()).arg("--data-dir").arg(&setup.data_dir);
        command.args(["--jwt-issuer", ISSUER_AND_AUDIENCE, "--jwt-audience", ISSUER_AND_AUDIENCE]);
        command.arg("--jwt-hs256-secret-file").arg(&setup.jwt_secret_file);
        if let Access::Open = setup.access {
            command.args(["--open", "--allow-open-existing"]);
        }
        if let Some(url) = &setup.database_url {
            command.arg("--database-url").arg(url);
        }
        command.stdin(Stdio::null());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("POSTHASTE_")) {
            // The settings of the operator's environment do not apply to the bench.
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
                    return Err(format!("the server does not answer: {error}\n{}", process.last_words()));
                }
            }
            process.check_running()?;
        }
        Ok(Self { address, start_time: started_at.elapsed(), process })
    }

    /// The anonymous resident memory of the server: what it has allocated, without pages of files.
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

/// A port that was free when this function looked.
pub fn free_address() -> Outcome<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    listener.local_addr().context("asking for the free port")
}
