//! The writer thread: group commit, and the size of the write-ahead log.
//!
//! Invariants: up to `COMMIT_BATCH_LIMIT` waiting units of work go into one transaction, and no caller is answered before
//! the COMMIT. Each unit after the first successful one runs in its own savepoint. A unit that fails does not affect the
//! others. If the COMMIT fails, all units in it fail. Before callers are answered, the commit is recorded in the state
//! file, and the files must still be the ones that were opened. After a fatal fault all work is refused. While the server
//! runs, another thread copies most of the log in a checkpoint, and the writer only the rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::checkpoint::{LogProgress, checkpoint_passively};
use super::driver::{Conn, is_failed_sync};
use super::guard::FileGuard;
use super::job::Job;
use crate::base::error::{Error, Result};
use crate::store::driver::environment::{Environment, WorkConn};
use crate::store::driver::write_status::WriteAttempt;

/// The maximum number of units of work in one commit.
const COMMIT_BATCH_LIMIT: usize = 256;
/// SQLite's page size for a new file, in bytes. The size of the write-ahead log is reported with it. A file keeps the page
/// size that it was created with.
const PAGE_SIZE_BYTES: i64 = 4_096;
/// The length of the write-ahead log, in pages (64 MiB), at which it is copied into the file and restarted. With a smaller
/// value, the file is synced so often that commits wait for the syncs. With a larger value, a start after a crash has more
/// to read.
pub const WAL_CHECKPOINT_PAGES: i64 = 16_384;

pub struct Writer<C> {
    pub conn: C,
    pub environment: Environment,
    /// Checks the files.
    pub guard: Arc<FileGuard>,
    /// Wakes the checkpoint thread.
    pub checkpoint: Sender<()>,
    pub log: Arc<LogProgress>,
    /// The length of the write-ahead log at which the checkpoint thread is woken next, in pages.
    pub checkpoint_at_pages: i64,
}

impl<C: WorkConn<Conn>> Writer<C> {
    /// Runs until every sender of the channel is dropped.
    pub fn run(mut self, jobs: &Receiver<Job<C>>) {
        while let Ok(first) = jobs.recv() {
            let mut batch = vec![first];
            self.environment.metrics.pool_in_use.inc();
            self.commit(&mut batch, jobs);
            self.environment.metrics.pool_in_use.dec();
            for job in batch {
                job.answer();
            }
            self.check_log_size();
        }
        // SQLite empties the write-ahead log when the last connection closes. A checkpoint before that keeps it short.
        if self.guard.refuse_after_fault().is_ok() {
            self.copy_rest();
        }
        self.guard.prepare_close(&self.conn.as_mut().connection);
    }

    /// Runs `batch`, and other units that arrive meanwhile, in one transaction.
    fn commit(&mut self, batch: &mut Vec<Job<C>>, jobs: &Receiver<Job<C>>) {
        let status = Arc::clone(&self.environment.writing);
        let write = status.begin();
        let begun = self.guard.refuse_after_fault();
        if let Err(error) = begun.and_then(|()| self.conn.as_mut().execute("BEGIN IMMEDIATE", &[])) {
            write.failed(&error);
            return fail_all(batch, &error);
        }
        let mut done = 0;
        let mut kept = false;
        while done < batch.len() {
            // As long as no unit has succeeded in the transaction, no savepoint is needed: after a failure the whole
            // transaction is rolled back. A savepoint has a cost: SQLite copies every page that the unit changes.
            let ran = if kept { self.run_in_savepoint(&mut batch[done]) } else { self.run_first(&mut batch[done]) };
            match ran {
                UnitOutcome::Kept => kept = true,
                UnitOutcome::RolledBack => {}
                UnitOutcome::TransactionLost => return self.rerun_others(batch, done),
            }
            done += 1;
            if done == batch.len() {
                batch.extend(jobs.try_iter().take(COMMIT_BATCH_LIMIT - batch.len()));
            }
        }
        if !kept {
            self.conn.as_mut().leave_transaction();
            return;
        }
        match self.make_durable(write) {
            Ok(()) => self.environment.metrics.commit_batch_size.observe(batch.len() as f64),
            Err(error) => fail_all(batch, &error),
        }
    }

    /// Commits the transaction and checks everything that must hold before callers are answered.
    fn make_durable(&mut self, write: WriteAttempt<'_>) -> Result<()> {
        let committed = self.commit_and_check();
        match &committed {
            Ok(true) => write.succeeded(),
            // Nothing was changed, so nothing was written. The outcome does not show whether writing works.
            Ok(false) => {}
            Err(error) => write.failed(error),
        }
        committed.map(drop)
    }

    /// Commits the transaction and returns whether anything was written.
    fn commit_and_check(&mut self) -> Result<bool> {
        let started = Instant::now();
        if let Err(error) = self.conn.as_mut().execute("COMMIT", &[]) {
            self.conn.as_mut().leave_transaction();
            let failed = Err(error);
            self.guard.declare_if_sync_failed(&failed);
            return failed;
        }
        let pages = self.log.unmarked_pages.swap(0, Ordering::Relaxed);
        if pages != 0 {
            self.guard.mark(pages.unsigned_abs())?;
        }
        self.guard.check()?;
        self.environment.metrics.commit_duration_seconds.observe(started.elapsed().as_secs_f64());
        self.environment.commits.note();
        Ok(pages != 0)
    }

    /// Runs a unit in an empty transaction. If the unit fails, a new transaction is begun.
    fn run_first(&mut self, job: &mut Job<C>) -> UnitOutcome {
        if job.run(&mut self.conn) {
            return UnitOutcome::Kept;
        }
        self.note_failure(job);
        let connection = self.conn.as_mut();
        connection.leave_transaction();
        match connection.execute("BEGIN IMMEDIATE", &[]) {
            Ok(_) => UnitOutcome::RolledBack,
            Err(_) => UnitOutcome::TransactionLost,
        }
    }

    /// Declares the fatal fault if the unit failed because of a sync. A unit can cause a sync before its COMMIT: if its
    /// changes do not fit into the page cache, SQLite writes to the write-ahead log early, and syncs the header of a new log.
    fn note_failure(&self, job: &Job<C>) {
        if let Some(error) = job.error().filter(|error| is_failed_sync(error)) {
            self.guard.declare_failed_sync(error);
        }
    }

    fn run_in_savepoint(&mut self, job: &mut Job<C>) -> UnitOutcome {
        if let Err(error) = self.conn.as_mut().execute("SAVEPOINT unit", &[]) {
            job.fail(error);
            return if self.conn.as_mut().is_in_transaction() {
                UnitOutcome::RolledBack
            } else {
                UnitOutcome::TransactionLost
            };
        }
        let succeeded = job.run(&mut self.conn);
        if !succeeded {
            self.note_failure(job);
        }
        let connection = self.conn.as_mut();
        if !connection.is_in_transaction() {
            return UnitOutcome::TransactionLost;
        }
        let undone = if succeeded { Ok(0) } else { connection.execute("ROLLBACK TO unit", &[]) };
        match undone.and_then(|_| connection.execute("RELEASE unit", &[])) {
            Ok(_) if succeeded => UnitOutcome::Kept,
            Ok(_) => UnitOutcome::RolledBack,
            Err(error) => {
                job.fail(error);
                connection.leave_transaction();
                UnitOutcome::TransactionLost
            }
        }
    }

    /// Runs all units of the batch except `culprit` again, each in its own transaction, because the error of `culprit`
    /// (SQLITE_FULL, for example) ended the whole transaction.
    fn rerun_others(&mut self, batch: &mut [Job<C>], culprit: usize) {
        for (index, job) in batch.iter_mut().enumerate() {
            if index == culprit {
                continue;
            }
            let status = Arc::clone(&self.environment.writing);
            let write = status.begin();
            let begun = self.guard.refuse_after_fault();
            if let Err(error) = begun.and_then(|()| self.conn.as_mut().execute("BEGIN IMMEDIATE", &[])) {
                write.failed(&error);
                job.fail(error);
                continue;
            }
            if job.run(&mut self.conn)
                && let Err(error) = self.make_durable(write)
            {
                job.fail(error);
            }
            self.conn.as_mut().leave_transaction();
        }
    }

    /// Copies the rest of the write-ahead log. If the whole log is in the file afterwards, this is recorded in the state file.
    fn copy_rest(&mut self) {
        let copied = checkpoint_passively(&self.conn.as_mut().connection)
            .and_then(|complete| if complete { self.guard.mark_copied() } else { Ok(()) });
        self.guard.declare_if_sync_failed(&copied);
        if let Err(error) = copied {
            tracing::warn!(%error, "the write-ahead log could not be copied into the database's file");
        }
    }

    /// Requests a checkpoint when the write-ahead log is long, and finishes one so that the log can restart. A log that
    /// never restarts grows without limit.
    fn check_log_size(&mut self) {
        let pages = self.log.pages.load(Ordering::Relaxed);
        self.environment.metrics.wal_size_bytes.set(pages * PAGE_SIZE_BYTES);
        if self.log.copied.swap(false, Ordering::Relaxed) {
            // The checkpoint thread has copied all commits except the last ones. The writer copies those now, while nothing
            // is written, so that the next commit can restart the log. If a reader still uses the log, it restarts after a
            // later checkpoint.
            self.copy_rest();
            self.checkpoint_at_pages = pages + WAL_CHECKPOINT_PAGES;
        } else if pages < WAL_CHECKPOINT_PAGES {
            self.checkpoint_at_pages = WAL_CHECKPOINT_PAGES;
        } else if pages >= self.checkpoint_at_pages {
            self.checkpoint_at_pages = i64::MAX;
            // The channel is full only when a request already waits.
            let _already_wanted = self.checkpoint.try_send(());
        }
    }
}

enum UnitOutcome {
    Kept,
    RolledBack,
    TransactionLost,
}

fn fail_all<C>(batch: &mut [Job<C>], error: &Error) {
    let full = matches!(error, Error::StorageFull);
    let reason = error.to_string();
    for job in batch {
        job.fail(if full { Error::StorageFull } else { Error::unavailable(reason.clone()) });
    }
}
