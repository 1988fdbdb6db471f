//! A real NATS server, which tests stop and start again.
//!
//! Invariant: a server that cannot be had fails the test that wants it; nothing is skipped.

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::cluster::free_port;

const START_TRIES: u32 = 10;
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What installs the server on first use, and becomes it.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/nats-server");

/// Two tests must not install at once.
static INSTALLING: Mutex<()> = Mutex::new(());

pub struct NatsServer {
    port: u16,
    login: Option<&'static str>,
    running: Option<Child>,
}

impl NatsServer {
    /// On a free port of 127.0.0.1; whoever connects may speak.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// With `user:password` as a URL has them, nobody else may speak.
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

    /// As `--nats-url` takes it.
    pub fn url(&self) -> String {
        let login = self.login.map(|login| format!("{login}@")).unwrap_or_default();
        format!("nats://{login}127.0.0.1:{}", self.port)
    }

    /// As a crash does.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Again, on its port.
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
