//! `posthaste doctor`.
//!
//! Invariant: it changes nothing but a small file that it writes into the data folder and removes again.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{block_on, environment, explain};
use crate::config::{self, DataConfig, DataOptions};
use crate::store::{self, Db, Location, migrations};

/// Free bytes below which the doctor warns.
const FREE_BYTES_WANTED: u64 = 1 << 30;
/// File descriptors below which the doctor warns: one a connection.
const FILES_WANTED: u64 = 4_096;
/// A commit waits for one of these.
const SLOW_SYNC: Duration = Duration::from_millis(20);
const SYNC_ROUNDS: u32 = 16;

enum Finding {
    Good(String),
    Poor(String),
    Bad(String),
}

/// Looks at everything, says what it saw, and fails when something is wrong.
pub fn run(options: &DataOptions) -> Result<ExitCode, String> {
    let data = config::data(options)?;
    let mut findings =
        vec![Finding::Good(format!("posthaste {}, schema {}", env!("CARGO_PKG_VERSION"), migrations::NEWEST))];
    findings.push(open_files());
    if let Location::Sqlite(file) = &data.location {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        findings.push(free_space(folder));
        findings.push(sync_time(folder));
    }
    findings.extend(block_on(database(&data))?);
    let mut healthy = true;
    for finding in findings {
        match finding {
            Finding::Good(text) => println!("ok    {text}"),
            Finding::Poor(text) => println!("note  {text}"),
            Finding::Bad(text) => {
                healthy = false;
                println!("wrong {text}");
            }
        }
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open_files() -> Finding {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    match soft {
        Some(count) if count >= FILES_WANTED => Finding::Good(format!("{count} open files allowed")),
        Some(count) => Finding::Poor(format!(
            "{count} open files allowed: each connection takes one; raise it (LimitNOFILE in systemd, ulimit -n in a shell)"
        )),
        None => Finding::Poor("the limit of open files cannot be read here".into()),
    }
}

fn free_space(folder: &Path) -> Finding {
    // df, because the standard library has no statvfs.
    let output = std::process::Command::new("df").arg("-Pk").arg(folder).output();
    let free = output.ok().and_then(|output| {
        let text = String::from_utf8(output.stdout).ok()?;
        text.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()
    });
    match free.map(|kib| kib * 1_024) {
        Some(bytes) if bytes >= FREE_BYTES_WANTED => {
            Finding::Good(format!("{} GiB free in {}", bytes >> 30, folder.display()))
        }
        Some(bytes) => Finding::Bad(format!("only {} MiB free in {}: make room", bytes >> 20, folder.display())),
        None => Finding::Poor(format!(
            "free space in {} cannot be read: start the server once, or make the folder",
            folder.display()
        )),
    }
}

fn sync_time(folder: &Path) -> Finding {
    let file = folder.join(".posthaste-doctor");
    let measured = (|| {
        let handle = std::fs::File::create(&file)?;
        let started = Instant::now();
        for round in 0..SYNC_ROUNDS {
            std::os::unix::fs::FileExt::write_all_at(&handle, &[1; 4_096], u64::from(round) * 4_096)?;
            handle.sync_data()?;
        }
        Ok::<_, std::io::Error>(started.elapsed() / SYNC_ROUNDS)
    })();
    // It may never have been made: then there is nothing to remove.
    drop(std::fs::remove_file(&file));
    match measured {
        Ok(time) if time <= SLOW_SYNC => Finding::Good(format!("a write reaches the disk in {} µs", time.as_micros())),
        Ok(time) => {
            Finding::Poor(format!("a write takes {} ms to reach the disk: every send waits for one", time.as_millis()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::Poor(format!("{} does not exist yet: the server makes it at its first start", folder.display()))
        }
        Err(error) => Finding::Bad(format!("{} cannot be written: {error}", folder.display())),
    }
}

async fn database(data: &DataConfig) -> Vec<Finding> {
    let place = data.location.describe();
    if let Location::Sqlite(file) = &data.location
        && !file.exists()
    {
        return vec![Finding::Poor(format!("{place} does not exist yet: the server makes it at its first start"))];
    }
    let db = match Db::open(&data.location, environment(true)).await {
        Ok(db) => db,
        Err(error) => return vec![Finding::Bad(explain(&place, &error))],
    };
    let mut findings = vec![Finding::Good(format!("{place} answers"))];
    match db.unsafe_settings().await {
        Ok(unsafe_settings) => findings.extend(unsafe_settings.into_iter().map(Finding::Bad)),
        Err(error) => findings.push(Finding::Bad(explain(&place, &error))),
    }
    match db.read((), |conn, ()| Box::pin(migrations::version(conn))).await {
        Ok(Some(version)) if version == migrations::NEWEST => findings.extend(contents(&db, &place).await),
        Ok(Some(version)) if version < migrations::NEWEST => {
            findings
                .push(Finding::Poor(format!("schema version {version}: the server brings it up to date at its start")));
        }
        Ok(Some(version)) => findings.push(Finding::Bad(format!(
            "schema version {version} is newer than this program: use the newer Posthaste"
        ))),
        Ok(None) => findings
            .push(Finding::Poor("no schema yet: the server makes it, or upgrades a seed's, at its first start".into())),
        Err(error) => findings.push(Finding::Bad(explain(&place, &error))),
    }
    db.close().await;
    findings
}

async fn contents(db: &Db, place: &str) -> Vec<Finding> {
    let looked = db
        .read_at_length((), |conn, ()| {
            Box::pin(async move {
                let intact = store::health::is_intact(conn).await?;
                let broken = store::health::count_broken_conversations(conn).await?;
                let miscounted = store::health::count_miscounted_messages(conn).await?;
                Ok((intact, broken, miscounted, store::users::count(conn).await?))
            })
        })
        .await;
    match looked {
        Ok((true, 0, 0, users)) => {
            vec![Finding::Good(format!("schema {}, {users} users, all conversations whole", migrations::NEWEST))]
        }
        Ok((false, ..)) => vec![Finding::Bad(format!("{place} is damaged: restore a backup"))],
        Ok((true, broken, miscounted, _)) => {
            let disagree =
                [(broken, "conversations", "their messages"), (miscounted, "messages", "the reactions under them")];
            let found = disagree.into_iter().filter(|(count, ..)| *count > 0);
            found
                .map(|(count, of, with)| Finding::Bad(format!("{count} {of} disagree with {with}: restore a backup")))
                .collect()
        }
        Err(error) => vec![Finding::Bad(explain(place, &error))],
    }
}
