//! The database of a test: a SQLite file in a folder of its own, or a database of its own in the PostgreSQL cluster of the run.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use posthaste::store::driver::environment::Location;

use super::callers::hex;
use super::migrations;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

pub struct Place {
    pub kind: Kind,
    pub folder: tempfile::TempDir,
    pub database: String,
    /// The URL of a superuser's connection to the cluster.
    cluster: String,
}

/// Reads a file in another process. A process that closes a file of a SQLite database loses its own locks on that file (fcntl),
/// and the server may run in the process of the tests.
pub fn bytes_of(file: &std::path::Path) -> Vec<u8> {
    let output = std::process::Command::new("cat").arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Place {
    pub async fn new(kind: Kind) -> Self {
        match kind {
            Kind::Sqlite => Self::make(kind, String::new()),
            Kind::Postgres => Self::in_cluster(&cluster_url()).await,
        }
    }

    /// Creates a database in a cluster. It need not be the cluster of the test run.
    pub async fn in_cluster(cluster: &str) -> Self {
        let place = Self::make(Kind::Postgres, cluster.to_owned());
        place.admin(&format!("CREATE DATABASE {}", place.database)).await;
        place
    }

    /// Uses the same database in another cluster from now on, for example in a promoted standby.
    pub fn move_to(&mut self, cluster: &str) {
        cluster.clone_into(&mut self.cluster);
    }

    fn make(kind: Kind, cluster: String) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let database = format!("test_{}_{number}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        Self { kind, folder, database, cluster }
    }

    pub fn url(&self) -> String {
        match self.kind {
            Kind::Sqlite => format!("sqlite:{}", self.sqlite_file().display()),
            Kind::Postgres => self.postgres_url(),
        }
    }

    pub fn postgres_url(&self) -> String {
        let server = self.cluster.rsplit_once('/').unwrap().0;
        format!("{server}/{}?sslmode=disable", self.database)
    }

    pub fn sqlite_file(&self) -> PathBuf {
        self.folder.path().join("posthaste.db")
    }

    pub fn location(&self) -> Location {
        Location::parse(&self.url()).unwrap()
    }

    /// Runs SQL directly on the database, over its own connection. The text names tables as `messaging.TABLE`; on SQLite the
    /// prefix is removed.
    pub async fn sql(&self, sql: &str) {
        match self.kind {
            Kind::Sqlite => {
                let connection = rusqlite::Connection::open(self.sqlite_file()).unwrap();
                connection.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
                connection.execute_batch(&sql.replace("messaging.", "")).unwrap();
            }
            Kind::Postgres => self.postgres().await.batch_execute(sql).await.unwrap(),
        }
    }

    /// Undoes all versions of the schema after `version`. The schema is then the one of a server with that version.
    pub async fn back_to(&self, version: i64) {
        let database = if self.kind == Kind::Sqlite { "sqlite" } else { "postgres" };
        let newest = self.numbers("SELECT max(version) FROM messaging.schema_migrations").await[0][0];
        for its_version in (version + 1..=newest).rev() {
            self.sql(&migrations::undo(its_version, database)).await;
            self.sql(&format!("DELETE FROM messaging.schema_migrations WHERE version = {its_version}")).await;
        }
        assert_eq!(self.numbers("SELECT max(version) FROM messaging.schema_migrations").await, [[version]]);
    }

    /// Reads integers by SQL directly from the database, over its own connection.
    pub async fn numbers(&self, sql: &str) -> Vec<Vec<i64>> {
        match self.kind {
            Kind::Sqlite => {
                let connection = rusqlite::Connection::open(self.sqlite_file()).unwrap();
                let mut statement = connection.prepare(&sql.replace("messaging.", "")).unwrap();
                let count = statement.column_count();
                let rows = statement.query_map([], |row| (0..count).map(|index| row.get(index)).collect()).unwrap();
                rows.map(Result::unwrap).collect()
            }
            Kind::Postgres => {
                let rows = self.postgres().await.query(sql, &[]).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|index| row.get(index)).collect()).collect()
            }
        }
    }

    /// Every row of every table as text, with bytes in hexadecimal, so that a test can search for data that must not be stored.
    /// For SQLite the result also has the bytes of the database files.
    pub async fn everything(&self) -> String {
        match self.kind {
            Kind::Sqlite => self.every_sqlite_row(),
            Kind::Postgres => {
                let client = self.postgres().await;
                let tables = "SELECT quote_ident(table_schema) || '.' || quote_ident(table_name)
                                FROM information_schema.tables
                               WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')";
                let mut text = String::new();
                for table in client.query(tables, &[]).await.unwrap() {
                    let table: &str = table.get(0);
                    for row in client.query(&format!("SELECT t::text FROM {table} t"), &[]).await.unwrap() {
                        text += &format!("{table}: {}\n", row.get::<_, &str>(0));
                    }
                }
                text
            }
        }
    }

    fn every_sqlite_row(&self) -> String {
        let connection = rusqlite::Connection::open(self.sqlite_file()).unwrap();
        let mut tables = connection.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").unwrap();
        let mut text = String::new();
        for table in tables.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap) {
            let mut statement = connection.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
            let columns = statement.column_count();
            let mut rows = statement.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                text += &table;
                for column in 0..columns {
                    text += &match row.get_ref(column).unwrap() {
                        rusqlite::types::ValueRef::Blob(bytes) => format!(" {}", hex(bytes)),
                        other => format!(" {:?}", other.as_str().map_or_else(|_| format!("{other:?}"), str::to_owned)),
                    };
                }
                text.push('\n');
            }
        }
        for file in std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path()) {
            if file.file_name().unwrap().to_str().unwrap().starts_with("posthaste.db") {
                text += &String::from_utf8_lossy(&bytes_of(&file));
            }
        }
        text
    }

    pub async fn postgres(&self) -> tokio_postgres::Client {
        connect(&self.postgres_url()).await
    }

    pub async fn remove(self) {
        if self.kind == Kind::Postgres {
            self.admin(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database)).await;
        }
    }

    async fn admin(&self, sql: &str) {
        connect(&self.cluster).await.batch_execute(sql).await.unwrap();
    }
}

pub fn cluster_url() -> String {
    std::env::var("POSTHASTE_TEST_POSTGRES_URL")
        .expect("POSTHASTE_TEST_POSTGRES_URL is not set: run make test, or scripts/with-postgres cargo test")
}

pub async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
