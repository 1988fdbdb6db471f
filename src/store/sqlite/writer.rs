//! The one thread that writes: group commit, and the write-ahead log's size.
//!
//! Invariants: what is waiting goes into one transaction, each unit of work in a savepoint of its own, and nobody is answered
//! before its COMMIT. A unit that fails takes nobody with it; a COMMIT that fails fails everyone in it. Checkpoints never run
//! in the writer's way, until the log has grown past [`WAL_LIMIT_PAGES`].

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::driver::translate;
use super::job::Job;
use super::{BUSY_TIMEOUT, checkpoint_passively};
use crate::error::{Error, Result};
use crate::store::{Conn as AnyConn, Environment};

/// Units of work that one commit may carry.
const COMMIT_BATCH_LIMIT: usize = 256;
/// Bytes of a page; the file's own after the first start.
pub const PAGE_SIZE_BYTES: i64 = 4_096;
/// Pages of write-ahead log (16 MiB) after which the checkpoint thread copies them into the file once more.
pub const WAL_CHECKPOINT_PAGES: i64 = 4_096;
/// Pages of write-ahead log (256 MiB) at which the writer itself waits until it is empty.
pub const WAL_LIMIT_PAGES: i64 = 65_536;
/// How long the writer waits then for a reader that is still in the log; a backup may be, for minutes.
const WAL_LIMIT_WAIT: Duration = Duration::from_millis(50);

pub struct Writer {
    pub conn: AnyConn,
    pub environment: Environment,
    pub checkpoint: Sender<()>,
    pub wal_pages: Arc<AtomicI64>,
    pub checkpointed_pages: i64,
    /// Pages at which the writer waits: the limit, or more while a reader keeps the log from being emptied.
    pub limit_pages: i64,
}

impl Writer {
    /// Serves until every sender is gone.
    pub fn run(mut self, jobs: &Receiver<Box<dyn Job>>) {
        while let Ok(first) = jobs.recv() {
            let mut batch = vec![first];
            self.environment.metrics.pool_in_use.inc();
            self.commit(&mut batch, jobs);
            self.environment.metrics.pool_in_use.dec();
            for job in batch {
                job.answer();
            }
            self.look_at_log();
        }
        // The last connection to close empties the log; a checkpoint first keeps that short.
        if let Err(error) = checkpoint_passively(&self.conn.sqlite().connection) {
            tracing::warn!(%error, "the last checkpoint failed");
        }
    }

    /// One transaction over `batch` and whatever else is waiting by the time its turn comes.
    fn commit(&mut self, batch: &mut Vec<Box<dyn Job>>, jobs: &Receiver<Box<dyn Job>>) {
        if let Err(error) = self.conn.sqlite().execute("BEGIN IMMEDIATE", &[]) {
            return fail_all(batch, error);
        }
        let mut done = 0;
        let mut kept = false;
        loop {
            while done < batch.len() {
                match self.run_one(&mut *batch[done]) {
                    Ran::Kept => kept = true,
                    Ran::RolledBack => {}
                    Ran::TransactionLost => return self.rerun_others(batch, done),
                }
                done += 1;
            }
            if batch.len() >= COMMIT_BATCH_LIMIT {
                break;
            }
            batch.extend(jobs.try_iter().take(COMMIT_BATCH_LIMIT - batch.len()));
            if done == batch.len() {
                break;
            }
        }
        if !kept {
            self.conn.sqlite().leave_transaction();
            return;
        }
        let started = Instant::now();
        match self.conn.sqlite().execute("COMMIT", &[]) {
            Ok(_) => {
                self.environment.metrics.commit_duration_seconds.observe(started.elapsed().as_secs_f64());
                self.environment.metrics.commit_batch_size.observe(batch.len() as f64);
            }
            Err(error) => {
                self.conn.sqlite().leave_transaction();
                fail_all(batch, error);
            }
        }
    }

    fn run_one(&mut self, job: &mut dyn Job) -> Ran {
        if let Err(error) = self.conn.sqlite().execute("SAVEPOINT unit", &[]) {
            job.fail(error);
            return self.lost_or_rolled_back();
        }
        if job.run(&mut self.conn) {
            return match self.conn.sqlite().execute("RELEASE unit", &[]) {
                Ok(_) => Ran::Kept,
                Err(error) => {
                    job.fail(error);
                    self.conn.sqlite().leave_transaction();
                    Ran::TransactionLost
                }
            };
        }
        let connection = self.conn.sqlite();
        if connection.connection.is_autocommit() {
            return Ran::TransactionLost;
        }
        let undone = connection.execute("ROLLBACK TO unit", &[]).and_then(|_| connection.execute("RELEASE unit", &[]));
        match undone {
            Ok(_) => Ran::RolledBack,
            Err(_) => {
                connection.leave_transaction();
                Ran::TransactionLost
            }
        }
    }

    fn lost_or_rolled_back(&mut self) -> Ran {
        if self.conn.sqlite().connection.is_autocommit() { Ran::TransactionLost } else { Ran::RolledBack }
    }

    /// An error such as SQLITE_FULL took the whole transaction: everyone but its culprit is run again, each alone.
    fn rerun_others(&mut self, batch: &mut [Box<dyn Job>], culprit: usize) {
        for (index, job) in batch.iter_mut().enumerate() {
            if index == culprit {
                continue;
            }
            if let Err(error) = self.conn.sqlite().execute("BEGIN IMMEDIATE", &[]) {
                job.fail(error);
                continue;
            }
            if job.run(&mut self.conn)
                && let Err(error) = self.conn.sqlite().execute("COMMIT", &[])
            {
                job.fail(error);
            }
            self.conn.sqlite().leave_transaction();
        }
    }

    fn look_at_log(&mut self) {
        let pages = self.wal_pages.load(Ordering::Relaxed);
        self.environment.metrics.wal_size_bytes.set(pages * PAGE_SIZE_BYTES);
        if pages < self.checkpointed_pages {
            // The log started over.
            self.checkpointed_pages = 0;
        }
        if pages >= self.limit_pages {
            // Writers that never pause keep the log from starting over: here, for once, they do.
            let emptied = self.empty_log();
            match emptied {
                Ok(true) => {
                    self.limit_pages = WAL_LIMIT_PAGES;
                    self.checkpointed_pages = 0;
                    self.wal_pages.store(0, Ordering::Relaxed);
                }
                Ok(false) => self.limit_pages = pages + WAL_CHECKPOINT_PAGES,
                Err(error) => {
                    self.limit_pages = pages + WAL_CHECKPOINT_PAGES;
                    tracing::warn!(%error, "the write-ahead log could not be emptied");
                }
            }
        } else if pages - self.checkpointed_pages >= WAL_CHECKPOINT_PAGES {
            self.checkpointed_pages = pages;
            // Full means that one is wanted already.
            let _already_wanted = self.checkpoint.try_send(());
        }
    }
}

impl Writer {
    fn empty_log(&mut self) -> Result<bool> {
        let connection = &self.conn.sqlite().connection;
        connection.busy_timeout(WAL_LIMIT_WAIT).map_err(translate)?;
        let outcome = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        connection.busy_timeout(BUSY_TIMEOUT).map_err(translate)?;
        outcome.map(|busy| busy == 0).map_err(translate)
    }
}

enum Ran {
    Kept,
    RolledBack,
    TransactionLost,
}

fn fail_all(batch: &mut [Box<dyn Job>], error: Error) {
    let full = matches!(error, Error::StorageFull);
    let reason = error.to_string();
    for job in batch {
        job.fail(if full { Error::StorageFull } else { Error::unavailable(reason.clone()) });
    }
}
