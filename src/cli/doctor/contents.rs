//! The checks of `posthaste doctor` on the data or on a backup.
//!
//! Invariant: each result says what was checked and how, and claims nothing about data that was not checked.

use std::path::Path;
use std::sync::Arc;

use super::{Finding, stored_files};
use crate::base::error::Result;
use crate::base::time::Clock;
use crate::cli::progress::ProgressLine;
use crate::cli::{environment, explain};
use crate::config::DataConfig;
use crate::domain::operations::database_clock;
use crate::store;
use crate::store::db::backup_digest::Found;
use crate::store::db::progress::Progress;
use crate::store::db::{Conn, Db, copy, migrations};
use crate::store::driver::environment::Location;
use crate::store::operations::health::{self, Comparison, Source};

/// Checks the data.
pub async fn of_database(data: &DataConfig, deep: bool) -> Vec<Finding> {
    let place = data.location.describe();
    if let Location::Sqlite(file) = &data.location
        && store::sqlite::is_absent(file)
    {
        return vec![Finding::Warning(format!("{place} does not exist yet; the server creates it at its first start"))];
    }
    let db = match Db::open(&data.location, environment(true)).await {
        Ok(db) => db,
        Err(error) => return vec![Finding::Fault(explain(&place, &error))],
    };
    let mut findings = vec![Finding::Sound(format!("{place} answers"))];
    findings.extend(clock(&db, &place).await);
    match db.unsafe_settings().await {
        Ok(unsafe_settings) => findings.extend(unsafe_settings.into_iter().map(Finding::Fault)),
        Err(error) => findings.push(Finding::Fault(explain(&place, &error))),
    }
    match db.read((), |conn, ()| Box::pin(migrations::version(conn))).await {
        Ok(Some(version)) if version == migrations::NEWEST => {
            findings.extend(contents(&db, &place, deep).await);
            findings.extend(stored_files::of_server(&db, &data.blobs, deep).await);
        }
        Ok(Some(version)) if version < migrations::NEWEST => {
            findings.push(Finding::Warning(format!("schema version {version}; the server upgrades it when it starts")));
        }
        Ok(Some(version)) => findings.push(Finding::Fault(format!(
            "schema version {version} is newer than this program; use the newer Posthaste"
        ))),
        Ok(None) => findings.push(Finding::Warning(
            "no schema yet; the server creates it, or upgrades the one of a seed, at its first start".into(),
        )),
        Err(error) => findings.push(Finding::Fault(explain(&place, &error))),
    }
    db.close().await;
    findings
}

/// Compares the clocks of this machine and of the database. `None` on SQLite, which has no clock of its own.
async fn clock(db: &Db, place: &str) -> Option<Finding> {
    let Db::Postgres(_) = db else { return None };
    let clock = Clock::Database(Arc::default());
    if let Err(error) = database_clock::read(db, &clock).await {
        return Some(Finding::Fault(explain(place, &error)));
    }
    // Rounded to the nearest second.
    let skew_s = (clock.skew_micros() + clock.skew_micros().signum() * 500_000) / 1_000_000;
    let way = if skew_s < 0 { "behind" } else { "ahead of" };
    let difference = format!("{} s {way} the database's", skew_s.abs());
    Some(if clock.is_trusted() {
        Finding::Sound(format!("this machine's clock agrees with the database's: {difference}"))
    } else {
        Finding::Fault(format!(
            "this machine's clock is {difference}, so a server here does not delete expired data and does not send scheduled \
             messages; set both clocks with NTP"
        ))
    })
}

/// The result of counting.
struct Counts {
    users: i64,
    conversations: i64,
    /// The number of wrong rows for each check, with a phrase that says what is wrong.
    disagreeing: Vec<(i64, &'static str)>,
}

async fn contents(db: &Db, place: &str, deep: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let fault = db.read(deep, |conn, deep| Box::pin(health::structure_fault(conn, *deep))).await;
    let structure = match (fault, db) {
        (Ok(None), Db::Sqlite(_)) if deep => "structure sound (integrity_check), ",
        (Ok(None), Db::Sqlite(_)) => "structure sound (quick_check), ",
        (Ok(None), Db::Postgres(_)) => "",
        (Ok(Some(fault)), _) => {
            findings.push(Finding::Fault(format!("{place} is damaged: {fault}; restore a backup")));
            ""
        }
        (Err(error), _) => {
            findings.push(Finding::Fault(explain(place, &error)));
            ""
        }
    };
    match count(db, deep).await {
        Ok(Counts { users, conversations, disagreeing }) => {
            let not_compared = if deep { "" } else { "; message texts not compared (use --deep)" };
            let wrong = disagreeing.into_iter().filter(|(count, _)| *count > 0);
            let wrong: Vec<Finding> =
                wrong.map(|(count, what)| Finding::Fault(format!("{count} {what}; restore a backup"))).collect();
            if wrong.is_empty() && findings.is_empty() {
                findings.push(Finding::Sound(format!(
                    "schema {}, {users} users, {structure}{conversations} conversations counted{not_compared}",
                    migrations::NEWEST
                )));
            }
            findings.extend(wrong);
        }
        Err(error) => findings.push(Finding::Fault(explain(place, &error))),
    }
    if deep {
        findings.extend(compare(Source::Db(db), place).await);
    }
    findings
}

async fn count(db: &Db, deep: bool) -> Result<Counts> {
    // Other reads must end within seconds. Counting all rows can take longer.
    db.read_without_limit(deep, |conn, deep| Box::pin(counts(conn, *deep))).await
}

async fn counts(conn: &mut Conn, deep: bool) -> Result<Counts> {
    let mut disagreeing = vec![
        (health::count_broken_conversations(conn).await?, "conversations disagree with their messages"),
        (health::count_miscounted_messages(conn).await?, "messages disagree with the reactions under them"),
    ];
    if deep {
        disagreeing.push((health::count_incomplete_conversations(conn).await?, "conversations lack messages"));
        disagreeing.push((health::count_stray_messages(conn).await?, "messages are in no conversation"));
    }
    let (users, conversations) = (store::identity::users::count(conn).await?, health::count_conversations(conn).await?);
    Ok(Counts { users, conversations, disagreeing })
}

/// Compares every text with its stored digest.
async fn compare(source: Source<'_>, place: &str) -> Vec<Finding> {
    let mut line = ProgressLine::new("comparing messages");
    let compared = health::compare(source, &mut |rows| line.count(rows)).await;
    line.end();
    let Comparison { messages, earlier_bodies, without_digest, damaged, named } = match compared {
        Ok(compared) => compared,
        Err(error) => {
            return vec![Finding::Fault(format!("not every message can be read: {}", explain(place, &error)))];
        }
    };
    let mut findings =
        vec![Finding::Sound(format!("{messages} messages and {earlier_bodies} earlier texts match their digests"))];
    if without_digest > 0 {
        findings.push(Finding::Warning(format!(
            "{without_digest} messages and earlier texts have no digest, because an earlier version wrote them; damage to \
             them cannot be found"
        )));
    }
    if damaged > 0 {
        let more = if damaged > named.len() as u64 { "; …" } else { "" };
        findings.push(Finding::Fault(format!(
            "{damaged} messages or earlier texts are damaged: {}{more}; restore a backup",
            named.join("; ")
        )));
    }
    findings
}

/// Checks a backup.
pub async fn of_backup(file: &Path, deep: bool) -> Vec<Finding> {
    let mut line = ProgressLine::new("checking the backup");
    let inspected = copy::inspect(file, deep, &mut |progress: Progress| line.show(progress));
    line.end();
    let name = file.display().to_string();
    let inspected = match inspected {
        Ok(inspected) => inspected,
        Err(error) => return vec![Finding::Fault(explain(&name, &error))],
    };
    let mut findings = Vec::new();
    findings.push(match inspected.digest {
        Found::Matches { bytes } => Finding::Sound(format!("{name}: the SHA-256 over its {bytes} bytes matches")),
        Found::NoDigest => Finding::Warning(format!(
            "{name} has no digest, because an earlier version wrote it; damage to a text in it cannot be found"
        )),
    });
    let pragma = if deep { "integrity_check" } else { "quick_check" };
    findings.push(Finding::Sound(format!("structure sound ({pragma})")));
    findings.extend(stored_files::of_backup(file, deep).await);
    let version = inspected.schema_version;
    findings.push(Finding::Sound(format!("schema version {version}, which this program can restore")));
    if !deep {
        return findings;
    }
    if version < migrations::NEWEST {
        findings
            .push(Finding::Warning("messages not compared, because this schema version has no digests of them".into()));
        return findings;
    }
    findings.extend(compare(Source::File(file), &name).await);
    findings
}
