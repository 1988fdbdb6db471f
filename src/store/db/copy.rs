//! Backup and restore: copying the whole database into one file and back.
//!
//! A backup is a SQLite database with the schema of Posthaste, whichever database it comes from. So there is only one
//! format, any SQLite tool can read it, and it can be restored into either database.
//!
//! Invariants: a copy is one snapshot of its source, and other connections can write while it is taken. A restore is one
//! transaction, keeps the data that it replaces, and renews the epoch of the event log, so that no cursor from before the
//! restore is accepted after it. It assigns no id again that was assigned after the backup was made. Nothing is reported as done before it is synced to disk.

use std::path::{Path, PathBuf};

use super::backup_digest::{self, Found, append_digest_and_sync, unusable};
use super::columns::read;
use super::progress::{Progress, RESTORING, Report};
use super::{Conn, Db, migrations};
use crate::base::error::{Error, Result};
use crate::store::driver::environment::{Environment, Location};
use crate::store::driver::files::{folder_of, make_folder, stamp, sync_file, sync_folder_of, with_suffix};
use crate::store::driver::values::{OwnedValue, Value};
use crate::store::files::blobs;
use crate::store::messages::search;
use crate::store::sqlite::connection::open_alone;
use crate::store::sqlite::file::{check_structure, copy_file, mark_and_close, replace_rows};

/// Rows that are copied between two reports of progress.
const ROWS_PER_STEP: i64 = 1_000;

/// Tables that are not copied row by row. Each database has its own `schema_migrations`, and PostgreSQL has a sequence in
/// place of the table `messaging_sequence`. A copy from or to PostgreSQL also leaves out the search index; the restore
/// builds it from the messages.
const NOT_COPIED: &[&str] = &["schema_migrations", "messaging_sequence"];

/// The least number of ids that a restore leaves out, in each table. They were perhaps assigned after the backup was made, and clients
/// may still know them.
const LEAST_ID_STEP: i64 = 1_000_000_000;

/// The first version of the schema that has files.
const FILES_VERSION: i64 = 17;

/// A backup that does not have its final name yet. Dropping it removes the copy.
pub struct PartialBackup {
    partial: PathBuf,
    file: PathBuf,
}

impl PartialBackup {
    /// Copies the data of `source` into a file beside `file`, which must not exist.
    ///
    /// # Errors
    /// When the source cannot be read or the file cannot be written. An incomplete file is removed.
    pub async fn copy(source: &Location, file: &Path, environment: Environment, report: Report<'_>) -> Result<Self> {
        if file.exists() {
            return Err(Error::internal(format!("{} exists already; choose a new file", file.display())));
        }
        let backup = Self { partial: with_suffix(file, ".partial"), file: file.to_owned() };
        remove_database(&backup.partial)?;
        create_private_file(&backup.partial)?;
        match source {
            Location::Sqlite(path) => copy_file(path, &backup.partial, report)?,
            Location::Postgres(_) => copy_postgres_into_file(source, &backup.partial, environment, report).await?,
        }
        Ok(backup)
    }

    /// The final name.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Opens the copy, for reading and for [`mark_lost`](crate::store::files::blobs::mark_lost).
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self) -> Result<Conn> {
        open_alone(&self.partial).map(Conn::Sqlite)
    }

    /// Appends a digest of the content, syncs the file to disk and gives it its final name. No connection to it may be open.
    ///
    /// # Errors
    /// When the file cannot be written or synced. The file is then removed.
    pub fn publish(self, report: Report<'_>) -> Result<()> {
        let (partial, file) = (&self.partial, &self.file);
        let finished = finish(partial, report).and_then(|()| {
            std::fs::rename(partial, file).map_err(Error::unavailable)?;
            sync_folder_of(file).inspect_err(|_| {
                // A power loss could still remove the new name, so the backup is removed. If that fails too, the error of
                // the sync is returned.
                drop(std::fs::remove_file(file));
            })
        });
        // After the rename too, dropping `self` removes the files that SQLite left beside the partial file.
        finished
    }
}

impl Drop for PartialBackup {
    fn drop(&mut self) {
        // The next backup with this name removes what is left.
        drop(remove_database(&self.partial));
    }
}

/// Opens a backup for reading.
///
/// # Errors
/// When it cannot be opened.
pub fn open_to_read(file: &Path) -> Result<Conn> {
    crate::store::sqlite::file::open_to_read(file).map(Conn::Sqlite)
}

/// Whether the schema of a copy has files.
///
/// # Errors
/// Errors of the database.
pub async fn holds_files(copy: &mut Conn) -> Result<bool> {
    Ok(migrations::version(copy).await?.is_some_and(|version| version >= FILES_VERSION))
}

/// Turns a copy that no process has open into a single file, checks its structure, appends its digest and syncs it.
fn finish(copy: &Path, report: Report<'_>) -> Result<()> {
    mark_and_close(copy)?;
    check_structure(copy, false)?;
    append_digest_and_sync(copy, report)
}

/// The result of [`inspect`] for a backup that can be restored.
#[derive(Clone, Copy, Debug)]
pub struct Inspected {
    /// Whether the file has a digest. If it has one, the digest matches.
    pub digest: Found,
    /// The version of its schema.
    pub schema_version: i64,
}

/// Checks whether a file can be restored: its digest, its structure and the version of its schema. `thorough` also checks
/// the indexes.
///
/// # Errors
/// When the file cannot be restored, with a sentence for the operator.
pub fn inspect(file: &Path, thorough: bool, report: Report<'_>) -> Result<Inspected> {
    if !file.exists() {
        return Err(Error::internal(format!("{} does not exist", file.display())));
    }
    let digest = backup_digest::check(file, report)?;
    let schema_version = check_structure(file, thorough)?;
    if schema_version > migrations::NEWEST {
        let newest = migrations::NEWEST;
        let reason =
            format!("its schema version is {schema_version}, but this program supports versions up to {newest}");
        return Err(unusable(file, reason));
    }
    Ok(Inspected { digest, schema_version })
}

/// The result of a restore.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Where the replaced data is kept, if there was any.
    pub kept: Option<String>,
    /// Whether the backup had a digest. If it had one, the digest matched.
    pub digest: Found,
}

/// Replaces all data at `target` with the data of a backup. Blobs with the ids `lost` are marked as lost.
///
/// # Errors
/// When the file cannot be used ([`inspect`]), or when the target cannot be written or synced. The target is then unchanged,
/// unless the error says otherwise.
pub async fn restore(
    file: &Path,
    target: &Location,
    environment: Environment,
    context: migrations::Context,
    lost: Vec<i64>,
    report: Report<'_>,
) -> Result<Restored> {
    let digest = inspect(file, false, report)?.digest;
    // The backup itself is not changed. A copy of it is migrated to the newest schema.
    let staged = match target {
        Location::Sqlite(path) => with_suffix(path, ".restoring"),
        Location::Postgres(_) => with_suffix(file, ".restoring"),
    };
    make_folder(folder_of(&staged))?;
    remove_database(&staged)?;
    let outcome = restore_staged(file, &staged, target, environment, context, lost, report).await;
    remove_database(&staged)?;
    outcome.map(|kept| Restored { kept, digest })
}

async fn restore_staged(
    file: &Path,
    staged: &Path,
    target: &Location,
    environment: Environment,
    context: migrations::Context,
    lost: Vec<i64>,
    report: Report<'_>,
) -> Result<Option<String>> {
    create_private_file(staged)?;
    copy_file(file, staged, report)?;
    // After a failed sync, pages may be read back with their old content. Nothing may be read from such a copy.
    sync_file(staged)?;
    let now = context.now;
    let epoch = context.epoch.clone();
    let staged_db = Db::open(&Location::Sqlite(staged.to_owned()), environment.clone()).await?;
    migrations::migrate(&staged_db, context.clone()).await?;
    if let Location::Sqlite(_) = target {
        staged_db.maintain((), |conn, ()| Box::pin(search::rebuild_missing(conn))).await?;
    }
    staged_db
        .write((epoch, lost), |conn, (epoch, lost)| {
            Box::pin(async move {
                blobs::mark_lost(conn, lost).await?;
                conn.execute("UPDATE messaging.event_log SET epoch = $1", &[Value::Text(epoch)]).await?;
                // The content versions rise by a large step, so that no answer from before the restore is taken for
                // current.
                let step = i64::from_str_radix(epoch.get(..10).unwrap_or("1"), 16).unwrap_or(1);
                let sql = "UPDATE messaging.conversations SET content_version = content_version + $1";
                conn.execute(sql, &[Value::I64(step)]).await?;
                // The position of revocations rises by the same step, so that a running node does not trust its cached
                // credentials.
                let sql = "UPDATE messaging.server_state SET last_revocation = last_revocation + $1";
                conn.execute(sql, &[Value::I64(step)]).await?;
                // The step is random, so a second restore of the same backup does not assign the ids of the first one again.
                skip_ids(conn, LEAST_ID_STEP + step).await
            })
        })
        .await?;
    staged_db.close().await;
    sync_file(staged)?;
    let tables = tables_of_this_program(staged, environment.clone(), context.clone()).await?;
    match target {
        Location::Sqlite(path) => {
            let old = path.exists();
            let db = Db::open(target, environment).await?;
            migrations::migrate(&db, context).await?;
            db.close().await;
            let kept = with_suffix(path, &format!(".before-restore-{}", stamp(now)));
            remove_database(&kept)?;
            if old {
                create_private_file(&kept)?;
            }
            let names: Vec<&str> = tables.iter().map(|table| &*table.name).chain(["messaging_sequence"]).collect();
            replace_rows(path, staged, old.then_some(kept.as_path()), &names, report)?;
            sync_folder_of(path).map_err(|error| {
                Error::unavailable(format!("the backup was restored, but a power failure could undo this: {error}"))
            })?;
            Ok(old.then(|| kept.display().to_string()))
        }
        Location::Postgres(_) => {
            let db = Db::open(target, environment).await?;
            let input = Replacement { staged: staged.to_owned(), tables, context };
            let kept = db.maintain(input, |conn, input| Box::pin(replace_postgres(conn, input))).await?;
            let total = kept.1;
            report(Progress { step: RESTORING, done: total, total });
            Ok(kept.0)
        }
    }
}

/// Leaves out the next `count` ids of messages and of every table that numbers its rows, in a SQLite file.
async fn skip_ids(conn: &mut Conn, count: i64) -> Result<()> {
    let count = [Value::I64(count)];
    conn.execute("UPDATE messaging.messaging_sequence SET last_value = last_value + $1", &count).await?;
    conn.execute("UPDATE sqlite_sequence SET seq = seq + $1", &count).await?;
    // A table that never had a row has no entry yet.
    conn.execute(
        "INSERT INTO sqlite_sequence (name, seq)
         SELECT m.name, $1 FROM sqlite_master m
          WHERE m.type = 'table' AND m.sql LIKE '%AUTOINCREMENT%' AND m.name NOT IN (SELECT name FROM sqlite_sequence)",
        &count,
    )
    .await?;
    Ok(())
}

/// The tables of this program's schema. A backup may also hold tables of other programs, which are not copied.
async fn tables_of_this_program(
    staged: &Path,
    environment: Environment,
    context: migrations::Context,
) -> Result<Vec<Table>> {
    let empty = with_suffix(staged, "-tables");
    remove_database(&empty)?;
    let db = Db::open(&Location::Sqlite(empty.clone()), environment).await?;
    migrations::migrate(&db, context).await?;
    let tables = db.read((), |conn, ()| Box::pin(tables(conn))).await;
    db.close().await;
    remove_database(&empty)?;
    tables
}

/// Removes a SQLite database that belongs to this program, and the files that SQLite and the driver keep beside it.
fn remove_database(path: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm", "-journal", "-state"] {
        match std::fs::remove_file(with_suffix(path, suffix)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::unavailable(error)),
        }
    }
    Ok(())
}

/// Creates an empty file that only its owner can read. SQLite uses it as a new database.
fn create_private_file(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map(drop).map_err(Error::unavailable)
}

/// Copies all rows from one snapshot of PostgreSQL into a SQLite file.
async fn copy_postgres_into_file(
    source: &Location,
    target: &Path,
    environment: Environment,
    report: Report<'_>,
) -> Result<()> {
    let now = environment.clock.now();
    let source = Db::open(source, environment.clone()).await?;
    let target_db = Db::open(&Location::Sqlite(target.to_owned()), environment).await?;
    migrations::migrate(&target_db, migrations::Context { now, epoch: String::new(), name_key: [0; 32] }).await?;
    target_db.close().await;
    let mut file = Conn::Sqlite(open_alone(target)?);
    let mut conn = source.connection().await?;
    // The limits of the role are meant for requests. A copy may take any time.
    conn.script(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
         SET LOCAL statement_timeout = 0;
         SET LOCAL idle_in_transaction_session_timeout = 0",
    )
    .await?;
    if migrations::version(&mut conn).await? != Some(migrations::NEWEST) {
        return Err(Error::internal(
            "the schema version of the database is not the one of this program; start this server once",
        ));
    }
    file.script("BEGIN; DELETE FROM event_log; DELETE FROM server_state").await?;
    let tables = tables(&mut file).await?;
    copy_rows(&mut conn, &mut file, &tables, report).await?;
    let last_id = conn.one("SELECT last_value FROM messaging.messaging_sequence", &[], |row| row.i64(0)).await?;
    file.execute("UPDATE messaging.messaging_sequence SET last_value = $1", &[Value::I64(last_id)]).await?;
    for Table { name, .. } in tables.iter().filter(|table| table.is_numbered) {
        let schema_table = format!("messaging.{name}");
        let sql = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence($1, 'id')::regclass), 0)";
        let last_id = conn.one(sql, &[Value::Text(&schema_table)], |row| row.i64(0)).await?;
        file.execute("DELETE FROM sqlite_sequence WHERE name = $1", &[Value::Text(name)]).await?;
        let values = [Value::Text(name), Value::I64(last_id)];
        file.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)", &values).await?;
    }
    file.script("COMMIT").await?;
    conn.script("COMMIT").await
}

struct Replacement {
    staged: PathBuf,
    tables: Vec<Table>,
    context: migrations::Context,
}

/// Renames the current schema, creates a new one and fills it with the rows of the staged file. Returns the name of the
/// renamed schema and the number of copied rows. The name is `None` when the old schema had no tables.
async fn replace_postgres(conn: &mut Conn, input: &Replacement) -> Result<(Option<String>, u64)> {
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'messaging'";
    let had_data = conn.one(tables, &[], |row| row.i64(0)).await? > 0;
    let kept = format!("messaging_before_restore_{}", stamp(input.context.now));
    if had_data {
        // Renaming takes no lock on the tables. Without this lock, a send that began in the old schema would end in the new
        // one. Every transaction looks up users first. So a transaction that waits for this lock has read nothing yet, and
        // continues in the new schema.
        if migrations::version(conn).await?.is_some() {
            conn.script("LOCK TABLE messaging.users, messaging.conversations IN ACCESS EXCLUSIVE MODE").await?;
        }
        conn.script(&format!("ALTER SCHEMA messaging RENAME TO {kept}")).await?;
    }
    migrations::apply(conn, &input.context).await?;
    conn.script("DELETE FROM messaging.event_log; DELETE FROM messaging.server_state").await?;
    let mut file = Conn::Sqlite(open_alone(&input.staged)?);
    let total = copy_rows(&mut file, conn, &input.tables, &mut |_| ()).await?;
    let last_id = file.one("SELECT last_value FROM messaging.messaging_sequence", &[], |row| row.i64(0)).await?;
    conn.first(
        "SELECT setval('messaging.messaging_sequence', greatest($1::bigint, 1), $1::bigint > 0)::text",
        &[Value::I64(last_id)],
        |_| Ok(()),
    )
    .await?;
    for Table { name, .. } in input.tables.iter().filter(|table| table.is_numbered) {
        let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = $1";
        let last_id = file.one(sql, &[Value::Text(name)], |row| row.i64(0)).await?;
        let schema_table = format!("messaging.{name}");
        let sql = "SELECT setval(pg_get_serial_sequence($1, 'id')::regclass, $2::bigint + 1, false)::text";
        conn.first(sql, &[Value::Text(&schema_table), Value::I64(last_id)], |_| Ok(())).await?;
    }
    conn.script(
        "SELECT setval(pg_get_serial_sequence('messaging.users', 'id'),
                       greatest(nextval(pg_get_serial_sequence('messaging.users', 'id')),
                                (SELECT coalesce(max(user_id), 0) + 1 FROM messaging.erased_people)), false)",
    )
    .await?;
    search::rebuild(conn).await?;
    conn.script("ANALYZE messaging.users, messaging.conversations, messaging.members, messaging.messages").await?;
    Ok((had_data.then(|| format!("schema {kept}")), total))
}

/// A table, as it is described in the schema of a SQLite file. That schema uses the type names of PostgreSQL.
#[derive(Clone, Debug)]
struct Table {
    name: String,
    /// The names and types of the columns, in the order of the table.
    columns: Vec<(String, String)>,
    /// The columns of the primary key, in the order of the key.
    key: Vec<String>,
    /// Whether the database assigns the ids. No id is assigned twice, even after its row is deleted. So the last assigned
    /// id of the table is copied too.
    is_numbered: bool,
}

/// The tables that are copied row by row, from the schema of a SQLite file that has the newest version. They have no foreign
/// keys, so their order does not matter.
async fn tables(file: &mut Conn) -> Result<Vec<Table>> {
    // The condition excludes the search index, which is a virtual table with shadow tables.
    let sql = "SELECT l.name, m.sql LIKE '%AUTOINCREMENT%'
                 FROM pragma_table_list l JOIN sqlite_master m ON m.type = 'table' AND m.name = l.name
                WHERE l.schema = 'main' AND l.type = 'table' AND l.name NOT LIKE 'sqlite_%' ORDER BY l.name";
    let names: Vec<(String, bool)> = file.rows(sql, &[], read).await?;
    let mut tables = Vec::with_capacity(names.len());
    for (name, is_numbered) in names.into_iter().filter(|(name, _)| !NOT_COPIED.contains(&&**name)) {
        let sql = "SELECT name, type FROM pragma_table_info($1) ORDER BY cid";
        let columns = file.rows(sql, &[Value::Text(&name)], read).await?;
        let sql = "SELECT name FROM pragma_table_info($1) WHERE pk > 0 ORDER BY pk";
        let key = file.rows(sql, &[Value::Text(&name)], read).await?;
        tables.push(Table { name, columns, key, is_numbered });
    }
    Ok(tables)
}

/// Copies all tables in the order of their keys, and returns the number of rows. The source must read one snapshot, and the
/// target must be in one transaction.
async fn copy_rows(source: &mut Conn, target: &mut Conn, tables: &[Table], report: Report<'_>) -> Result<u64> {
    let mut total = 0;
    for Table { name, .. } in tables {
        let count = leak(format!("SELECT count(*) FROM messaging.{name}"));
        total += source.one(count, &[], |row| row.i64(0)).await?.unsigned_abs();
    }
    let mut done = 0;
    for table in tables {
        let copy = TableCopy::new(table);
        let mut after: Option<Vec<OwnedValue>> = None;
        loop {
            let rows = copy.read(source, after.as_deref()).await?;
            let Some(last) = rows.last() else { break };
            after = Some(copy.key_indexes.iter().map(|index| last[*index].clone()).collect());
            for row in &rows {
                let values: Vec<Value<'_>> = row.iter().map(OwnedValue::as_value).collect();
                target.execute(copy.insert, &values).await?;
            }
            done += rows.len() as u64;
            report(Progress { step: "copying rows", done, total });
        }
    }
    Ok(done)
}

/// The statements that copy one table in steps.
struct TableCopy {
    first: &'static str,
    next: &'static str,
    insert: &'static str,
    types: Vec<String>,
    key_indexes: Vec<usize>,
}

impl TableCopy {
    fn new(Table { name, columns, key, .. }: &Table) -> Self {
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let list = names.join(", ");
        let key_list = key.join(", ");
        let numbered = |count: usize| (1..=count).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ");
        let after = numbered(key.len());
        Self {
            first: leak(format!("SELECT {list} FROM messaging.{name} ORDER BY {key_list} LIMIT {ROWS_PER_STEP}")),
            next: leak(format!(
                "SELECT {list} FROM messaging.{name} WHERE ({key_list}) > ({after}) ORDER BY {key_list} LIMIT {ROWS_PER_STEP}"
            )),
            insert: leak(format!("INSERT INTO messaging.{name} ({list}) VALUES ({})", numbered(names.len()))),
            types: columns.iter().map(|(_, kind)| kind.clone()).collect(),
            key_indexes: key.iter().filter_map(|key| names.iter().position(|name| name == key)).collect(),
        }
    }

    async fn read(&self, source: &mut Conn, after: Option<&[OwnedValue]>) -> Result<Vec<Vec<OwnedValue>>> {
        let values: Vec<Value<'_>> = after.unwrap_or_default().iter().map(OwnedValue::as_value).collect();
        let sql = if after.is_some() { self.next } else { self.first };
        source
            .rows(sql, &values, |row| {
                self.types.iter().enumerate().map(|(index, kind)| row.owned(index, kind)).collect()
            })
            .await
    }
}

/// Makes a statement `'static`, because the drivers identify statements by their `'static` text. A copy creates only a few
/// dozen statements in the life of a process, so leaking them is harmless.
fn leak(sql: String) -> &'static str {
    Box::leak(sql.into_boxed_str())
}
