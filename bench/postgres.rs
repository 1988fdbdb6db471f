//! A temporary PostgreSQL cluster with PostgreSQL's default durability, and pgbench as the limit over it.
//!
//! Invariant: the cluster listens on one loopback port only, lies in the scratch folder, and is stopped before the folder is
//! removed.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::process::{Context, Outcome, Output, Process, Stop};
use crate::{data, server};

const READY_AT_MOST: Duration = Duration::from_secs(30);
const OVERTIME: Duration = Duration::from_secs(30);
const DATABASE: &str = "posthaste";

/// A running cluster.
pub struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    port: u16,
    process: Process,
}

/// Tables outside the schema `messaging`: for each user, the conversations of their newest 50 messages with the lowest seq in
/// each; and a copy of the messages, into which `INSERT_ONE` inserts.
pub const SCRATCH_TABLES: &str = "
    CREATE TABLE bench_pages (user_id BIGINT PRIMARY KEY, conversation_ids BIGINT[], from_seqs BIGINT[]);
    INSERT INTO bench_pages
        SELECT user_id, array_agg(conversation_id), array_agg(from_seq) FROM (
            SELECT users.id AS user_id, conversation_id, min(seq) AS from_seq
            FROM generate_series(1, 1000) AS users (id) CROSS JOIN LATERAL (
                SELECT conversation_id, seq FROM messaging.members JOIN messaging.messages USING (conversation_id)
                WHERE members.user_id = users.id ORDER BY timestamp_sent DESC, messages.id DESC LIMIT 50) AS page
            GROUP BY users.id, conversation_id) AS beginnings
        GROUP BY user_id;
    CREATE TABLE bench_messages (LIKE messaging.messages INCLUDING ALL);
    INSERT INTO bench_messages SELECT * FROM messaging.messages ORDER BY id;
    CREATE SEQUENCE bench_sequence START 1000000000;";

/// The limit for reads: selects the 50 rows of a page when it is already known where the page begins in each conversation.
/// Compared on this machine with 16 clients, in pages per second: these ranges 6,800 to 7,700, the 50 keys one by one 6,400 to
/// 7,000, `FIND_PAGE` 3,500 to 4,100, 50 newest rows of each conversation by LATERAL 1,100.
pub const READ_PAGE: &str = "
\\set user random(1, 1000)
SELECT m.id, m.conversation_id, m.seq, m.kind, m.sender_id, m.recipient_id, m.created_at, m.timestamp_sent, \
    m.timestamp_delivered, m.timestamp_read, m.reply_to, m.body \
    FROM bench_pages AS page, unnest(page.conversation_ids, page.from_seqs) AS beginning (conversation_id, seq) \
    JOIN messaging.messages AS m ON m.conversation_id = beginning.conversation_id AND m.seq >= beginning.seq \
    WHERE page.user_id = :user ORDER BY m.timestamp_sent DESC, m.id DESC;
";

/// The fastest known plain query that also finds out which rows belong to the page. It reads only the newest eight rows of each
/// conversation, so some of its results are wrong. A server must not return wrong results.
pub const FIND_PAGE: &str = "
\\set user random(1, 1000)
SELECT m.id, m.conversation_id, m.seq, m.kind, m.sender_id, m.recipient_id, m.created_at, m.timestamp_sent, \
    m.timestamp_delivered, m.timestamp_read, m.reply_to, m.body \
    FROM messaging.members AS mb JOIN messaging.conversations AS c ON c.id = mb.conversation_id \
    JOIN messaging.messages AS m ON m.conversation_id = c.id AND m.seq > c.last_seq - 8 \
    WHERE mb.user_id = :user ORDER BY m.timestamp_sent DESC, m.id DESC LIMIT 50;
";

/// The limit for writes: each transaction inserts one row. The rows are spread over the same 1,000 conversations as the sends
/// to the server.
pub const INSERT_ONE: &str = "
\\set conversation 1 + 10 * random(0, 999)
INSERT INTO bench_messages (conversation_id, seq, id, timestamp_sent, kind, sender_id, recipient_id, created_at, \
    body) VALUES (:conversation, nextval('bench_sequence'), currval('bench_sequence'), now(), 'text', 1, 2, now(), \
    'hey are you coming to the meeting later today or shall we move it until tomorrow and not later than at.');
";

impl Cluster {
    /// Creates and starts a cluster in the folder.
    pub fn start(folder: &Path) -> Outcome<Self> {
        let programs = find_programs()?;
        let data = folder.join("postgres");
        fs::create_dir_all(&data).context(format!("creating {}", data.display()))?;
        let owner = Owner::for_server(folder)?;
        if let Some(owner) = owner {
            chown(&data, Some(owner.user), Some(owner.group)).context("giving the cluster its folder")?;
        }
        let mut make = Command::new(programs.join("initdb"));
        make.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "-D"]);
        make.arg(&data).current_dir("/").stdin(Stdio::null());
        Owner::apply(owner, &mut make);
        Process::start("initdb", &mut make, folder.join("initdb.log"), Stop::Terminate, Output::Logged)?
            .wait_for_success(Duration::from_secs(120))?;

        let port = server::free_address()?.port();
        let mut serve = Command::new(programs.join("postgres"));
        serve.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        // Allows connections for pgbench besides those of the server's pool. All other settings are PostgreSQL's defaults.
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200"] {
            serve.args(["-c", setting]);
        }
        serve.current_dir("/").stdin(Stdio::null());
        Owner::apply(owner, &mut serve);
        let log = folder.join("postgres.log");
        let process = Process::start("postgres", &mut serve, log, Stop::Interrupt, Output::Logged)?;
        let cluster = Self { folder: folder.to_owned(), programs, port, process };
        cluster.create_database()?;
        Ok(cluster)
    }

    /// The value of the server's option `--database-url`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{DATABASE}", self.port)
    }

    /// The version that PostgreSQL reports.
    pub fn version(&self) -> Outcome<String> {
        self.with_client(async |client| client.query_one("SHOW server_version", &[]).await.map(|row| row.get(0)))
    }

    /// Fills the empty schema.
    pub fn fill(&self, message_count: u64) -> Outcome<()> {
        run_async(async {
            let mut client = self.connect(DATABASE).await?;
            data::fill_postgres(&mut client, message_count).await
        })
    }

    /// Runs statements that return no rows.
    pub fn execute(&self, statements: &str) -> Outcome<()> {
        self.with_client(async |client| client.batch_execute(statements).await)
    }

    /// Transactions per second of one script with prepared statements, without the time to connect.
    pub fn pgbench(&self, script: &str, clients: usize, warm_up: Duration, duration: Duration) -> Outcome<f64> {
        self.pgbench_once(script, clients, warm_up)?;
        self.pgbench_once(script, clients, duration)
    }

    fn pgbench_once(&self, script: &str, clients: usize, duration: Duration) -> Outcome<f64> {
        let file = self.folder.join("pgbench.sql");
        fs::write(&file, script).context("writing the pgbench script")?;
        let mut command = Command::new(self.programs.join("pgbench"));
        command.args(["-n", "-M", "prepared", "-h", "127.0.0.1", "-U", "postgres"]);
        command.args(["-p", &self.port.to_string(), "-c", &clients.to_string(), "-j", "2"]);
        command.args(["-T", &duration.as_secs_f64().ceil().to_string(), "-f"]).arg(&file);
        command.arg(DATABASE).stdin(Stdio::null());
        let log = self.folder.join("pgbench.log");
        let process = Process::start("pgbench", &mut command, log, Stop::Interrupt, Output::Piped)?;
        process.wait_for_success(duration + OVERTIME)?;
        let mut text = String::new();
        process.take_stdout()?.read_to_string(&mut text).context("reading what pgbench said")?;
        text.lines()
            .find_map(|line| line.strip_prefix("tps = ")?.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| format!("pgbench reported no rate:\n{text}"))
    }

    /// Vacuums and analyzes all tables, as autovacuum does in operation, and then runs a checkpoint.
    pub fn vacuum(&self) -> Outcome<()> {
        // VACUUM cannot run in a transaction, and several statements in one message form a transaction.
        self.execute("VACUUM (ANALYZE)")?;
        self.execute("CHECKPOINT")
    }

    fn create_database(&self) -> Outcome<()> {
        let deadline = Instant::now() + READY_AT_MOST;
        loop {
            let created = self.with_client_of("postgres", async |client| {
                client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await
            });
            match created {
                Ok(()) => return Ok(()),
                Err(_) if Instant::now() < deadline => {
                    self.process.check_running()?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs an action over a connection of its own.
    pub fn with_client<T>(&self, action: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>) -> Outcome<T> {
        self.with_client_of(DATABASE, action)
    }

    fn with_client_of<T>(
        &self,
        database: &str,
        action: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Outcome<T> {
        run_async(async {
            let client = self.connect(database).await?;
            action(&client).await.map_err(|error| format!("PostgreSQL: {}", data::full_message(&error)))
        })
    }

    async fn connect(&self, database: &str) -> Outcome<Client> {
        let parameters = format!("host=127.0.0.1 port={} user=postgres dbname={database}", self.port);
        let (client, connection) =
            tokio_postgres::connect(&parameters, NoTls).await.context("connecting to PostgreSQL")?;
        tokio::spawn(connection);
        Ok(client)
    }
}

fn run_async<T>(future: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    runtime.block_on(future)
}

/// The folder of initdb and the other programs: the newest installed version, or else the search path.
fn find_programs() -> Outcome<PathBuf> {
    let mut folders: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    folders.sort();
    let searched = std::env::var_os("PATH").unwrap_or_default();
    folders
        .into_iter()
        .rev()
        .map(|(_, folder)| folder)
        .chain(std::env::split_paths(&searched))
        .find(|folder| ["initdb", "postgres", "pgbench"].iter().all(|name| folder.join(name).is_file()))
        .ok_or_else(|| {
            "no PostgreSQL here (initdb, postgres and pgbench): install it, or set POSTHASTE_BENCH_ONLY=sqlite"
                .to_owned()
        })
}

/// The user that the cluster runs as: PostgreSQL refuses to run as root.
#[derive(Clone, Copy)]
struct Owner {
    user: u32,
    group: u32,
}

impl Owner {
    /// The user `postgres` if this process runs as root; otherwise this user.
    fn for_server(folder: &Path) -> Outcome<Option<Self>> {
        if fs::metadata(folder).context("looking at the scratch folder")?.uid() != 0 {
            return Ok(None);
        }
        let people = fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
        let owner = ["postgres", "nobody"].iter().find_map(|name| {
            let fields: Vec<&str> =
                people.lines().map(|line| line.split(':').collect()).find(|fields: &Vec<&str>| fields[0] == *name)?;
            Some(Self { user: fields.get(2)?.parse().ok()?, group: fields.get(3)?.parse().ok()? })
        });
        owner.map(Some).ok_or_else(|| "PostgreSQL does not run as root, and there is no user `postgres`".to_owned())
    }

    fn apply(owner: Option<Self>, command: &mut Command) {
        if let Some(Self { user, group }) = owner {
            command.uid(user).gid(group);
        }
    }
}
