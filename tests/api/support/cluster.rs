//! A PostgreSQL cluster for one test, which can trace the whole cluster and stop it under load.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use posthaste::base::ids::Rng;
use tempfile::TempDir;

use super::process::{signal, start, wait};

const START_TRIES: u32 = 10;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Cluster {
    folder: TempDir,
    /// Words before the command of the server, for example those of a tracer.
    wrapper: Vec<String>,
    /// Settings of the server, each as `name=value`.
    settings: Vec<String>,
    port: u16,
    running: Option<Child>,
}

impl Cluster {
    /// Starts a new cluster with PostgreSQL's default settings for durability.
    pub async fn start() -> Self {
        Self::start_wrapped(Vec::new()).await
    }

    /// Starts a new cluster with some settings of its own.
    pub async fn start_with(settings: &[&str]) -> Self {
        Self::make(Vec::new(), settings).await
    }

    pub async fn start_wrapped(wrapper: Vec<String>) -> Self {
        Self::make(wrapper, &[]).await
    }

    async fn make(wrapper: Vec<String>, settings: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("posthaste-cluster.").tempdir().unwrap();
        own(&folder);
        // With --no-sync, initdb does not sync the files that it creates. The running server does sync.
        let mut words = as_os_user();
        words.push(program("initdb"));
        words.push(format!("--pgdata={}", folder.path().join("data").display()));
        words.extend(
            [
                "--username=posthaste",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--no-instructions",
            ]
            .map(str::to_owned),
        );
        let output = Command::new(&words[0]).args(&words[1..]).current_dir("/").output().unwrap();
        assert!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        let mut cluster = Self {
            folder,
            wrapper,
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            port: 0,
            running: None,
        };
        cluster.start_on_a_free_port().await;
        cluster
    }

    /// Starts a standby that streams from this cluster. Its name for `synchronous_standby_names` is `walreceiver`.
    pub async fn standby(&self) -> Self {
        let folder = tempfile::Builder::new().prefix("posthaste-standby.").tempdir().unwrap();
        own(&folder);
        let mut words = as_os_user();
        words.push(program("pg_basebackup"));
        words
            .extend([format!("--dbname={}", self.url()), format!("--pgdata={}", folder.path().join("data").display())]);
        words.extend(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"].map(str::to_owned));
        let output = Command::new(&words[0]).args(&words[1..]).current_dir("/").output().unwrap();
        assert!(output.status.success(), "pg_basebackup failed: {}", String::from_utf8_lossy(&output.stderr));
        let mut standby = Self { folder, wrapper: Vec::new(), settings: Vec::new(), port: 0, running: None };
        standby.start_on_a_free_port().await;
        standby
    }

    /// Makes the stopped server become a hot standby at its next start.
    pub fn make_standby(&self) {
        std::fs::write(self.data().join("standby.signal"), "").unwrap();
    }

    async fn start_on_a_free_port(&mut self) {
        for attempt in 1.. {
            self.port = free_port();
            if self.try_start_server().await {
                return;
            }
            assert!(attempt < START_TRIES, "PostgreSQL did not start:\n{}", self.log());
        }
    }

    /// The URL of a superuser's connection.
    pub fn url(&self) -> String {
        format!("postgres://posthaste@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts the server again, on the same port.
    pub async fn start_again(&mut self) {
        for attempt in 1.. {
            if self.try_start_server().await {
                return;
            }
            // A lock file or the port of the last server may remain for a moment.
            assert!(attempt < START_TRIES, "PostgreSQL did not start again:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Stops without a checkpoint and without closing connections in order, as a crash does. The next start recovers.
    pub async fn stop_immediately(&mut self) {
        self.stop("QUIT").await;
    }

    /// Disconnects all clients and stops cleanly.
    pub async fn stop_cleanly(&mut self) {
        self.stop("INT").await;
    }

    async fn stop(&mut self, name: &str) {
        let mut child = self.running.take().expect("PostgreSQL does not run");
        signal(name, self.server_id(&child));
        assert!(wait(&mut child, STOP_TIMEOUT).await.is_some(), "PostgreSQL did not stop:\n{}", self.log());
    }

    async fn try_start_server(&mut self) -> bool {
        let mut words = self.wrapper.clone();
        words.extend(as_os_user());
        words.push(program("postgres"));
        words.extend(["-D".to_owned(), self.data().display().to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            format!("unix_socket_directories={}", self.folder.path().display()),
        ]
        .into_iter()
        .chain(self.settings.clone())
        {
            words.extend(["-c".to_owned(), setting]);
        }
        let mut child = start(&words, &self.folder.path().join("log"));
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if let Ok((client, connection)) = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await {
                drop((client, connection));
                self.running = Some(child);
                return true;
            }
            assert!(Instant::now() < deadline, "PostgreSQL does not answer:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The process id of the postmaster. Without a wrapper it is the id of the child. Otherwise it is read from the file that
    /// the postmaster writes into its data folder.
    fn server_id(&self, child: &Child) -> u32 {
        if self.wrapper.is_empty() {
            return child.id();
        }
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        text.lines().next().unwrap().trim().parse().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take()
            && matches!(child.try_wait(), Ok(None))
        {
            signal("QUIT", self.server_id(&child));
            drop(child.wait());
        }
    }
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run make test, or scripts/with-postgres cargo test"))
}

fn os_user() -> String {
    variable("POSTHASTE_TEST_POSTGRES_USER")
}

fn program(name: &str) -> String {
    format!("{}/{name}", variable("POSTHASTE_TEST_POSTGRES_BIN"))
}

/// Makes the user that runs PostgreSQL the owner of a folder.
pub fn own(folder: &TempDir) {
    let script = r#"if [ "$(id -u)" = 0 ]; then chown "$1" "$2"; fi"#;
    let status = Command::new("sh").args(["-c", script, "sh", &os_user()]).arg(folder.path()).status();
    assert!(status.is_ok_and(|status| status.success()), "the owner of a folder cannot be changed");
}

/// The words before a command that run it as the user for PostgreSQL, which refuses to run as root. Empty if this process does
/// not run as root.
pub fn as_os_user() -> Vec<String> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    if id(&["-u"]) != "0" {
        return Vec::new();
    }
    let user = os_user();
    let group = id(&["-g", &user]);
    if Command::new("setpriv").arg("--version").output().is_err() {
        return ["runuser", "-u", &user, "--"].map(str::to_owned).into();
    }
    ["setpriv", &format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups", "--"]
        .map(str::to_owned)
        .into()
}

/// A port that no process listens on. It is below the range from which the kernel takes ports for outgoing connections, because
/// it must still be free when a stopped server starts again. If another program takes the port first, the caller must try
/// another one.
pub fn free_port() -> u16 {
    loop {
        let random = u16::from_le_bytes(Rng::System.bytes().unwrap());
        let port = 20_000 + random % 12_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
