//! A real NATS server that tests can stop and start again.
//!
//! Invariant: if the NATS server cannot be installed, the test that needs it fails. No test is skipped.

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::cluster::free_port;

const START_TRIES: u32 = 10;
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Installs the NATS server on first use. With arguments it then replaces itself with the NATS server, which keeps its process
/// id. Without arguments it ends after the installation.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/nats-server");

/// Held during the installation, so that two tests do not install the NATS server at the same time.
static INSTALLING: Mutex<()> = Mutex::new(());

pub struct NatsServer {
    port: u16,
    login: Option<&'static str>,
    running: Option<Child>,
}

impl NatsServer {
    /// Starts on a free port of 127.0.0.1. Every client may connect.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts with a login, `user:password`, percent-encoded as in a URL. Only clients that log in with it may connect.
    pub async fn start_with(login: Option<&'static str>) -> Self {
        tokio::task::spawn_blocking(|| {
            let _one_at_a_time = INSTALLING.lock().unwrap();
            let status = Command::new(PROGRAM).status().unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
            assert!(status.success(), "the NATS server of the tests cannot be installed");
        })
        .await
        .unwrap();
        let mut server = Self { port: 0, login, running: None };
        for attempt in 1.. {
            server.port = free_port();
            if server.try_start().await {
                break;
            }
            assert!(attempt < START_TRIES, "the NATS server did not start");
        }
        server
    }

    /// The value for `--nats-url`.
    pub fn url(&self) -> String {
        let login = self.login.map(|login| format!("{login}@")).unwrap_or_default();
        format!("nats://{login}127.0.0.1:{}", self.port)
    }

    /// Kills the server, which simulates a crash.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Starts the server again, on the same port.
    pub async fn start_again(&mut self) {
        for attempt in 1.. {
            if self.try_start().await {
                return;
            }
            assert!(attempt < START_TRIES, "the NATS server did not start again");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn try_start(&mut self) -> bool {
        let mut command = Command::new(PROGRAM);
        command.args(["--addr", "127.0.0.1", "--port", &self.port.to_string()]);
        if let Some((user, password)) = self.login.and_then(|login| login.split_once(':')) {
            command.args(["--user", user, "--pass", &password.replace("%21", "!")]);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                self.running = Some(child);
                return true;
            }
            assert!(Instant::now() < deadline, "the NATS server does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.stop();
    }
}
