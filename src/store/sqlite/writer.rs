//! The one thread that writes: group commit, and the write-ahead log's size.
//!
//! Invariants: what is waiting goes into one transaction, each unit of work in a savepoint of its own, and nobody is answered
//! before its COMMIT. A unit that fails takes nobody with it; a COMMIT that fails fails everyone in it. Before anyone is
//! answered the commit is marked in the state, and the files must be the ones that were opened. After a fatal fault everything
//! is refused. The bulk of a checkpoint is never in the writer's way: another thread does it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::checkpoint::{Log, checkpoint_passively};
use super::driver::{Conn, is_failed_sync};
use super::guard::Guard;
use super::job::Job;
use crate::base::error::{Error, Result};
use crate::store::driver::environment::{Environment, WorkConn};
use crate::store::driver::write_status::Write;

/// Units of work that one commit may carry.
const COMMIT_BATCH_LIMIT: usize = 256;
/// Bytes of a page; the file's own after the first start.
const PAGE_SIZE_BYTES: i64 = 4_096;
/// Pages of write-ahead log (64 MiB) after which it is copied into the file and started over. Smaller, and the file is synced
/// so often that commits wait for it; larger, and a restart after a crash has more to read.
pub const WAL_CHECKPOINT_PAGES: i64 = 16_384;

pub struct Writer<C> {
    pub conn: C,
    pub environment: Environment,
    /// Watches over the files.
    pub guard: Arc<Guard>,
    /// Asks the checkpoint thread.
    pub checkpoint: Sender<()>,
    pub log: Arc<Log>,
    /// Pages at which to ask next.
    pub checkpoint_at_pages: i64,
}

impl<C: WorkConn<Conn>> Writer<C> {
    /// Serves until every sender is gone.
    pub fn run(mut self, jobs: &Receiver<Job<C>>) {
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
        if self.guard.refuse_after_fault().is_ok() {
            self.copy_rest();
        }
        self.guard.retire(&self.conn.as_mut().connection);
    }

    /// One transaction over `batch` and whatever else is waiting by the time its turn comes.
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
            // Until something is kept there is nothing to protect: the first unit is spared a savepoint, which would copy
            // every page that it touches.
            let ran = if kept { self.run_in_savepoint(&mut batch[done]) } else { self.run_first(&mut batch[done]) };
            match ran {
                Ran::Kept => kept = true,
                Ran::RolledBack => {}
                Ran::TransactionLost => return self.rerun_others(batch, done),
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

    /// The COMMIT, and what must hold before anyone may be answered.
    fn make_durable(&mut self, write: Write<'_>) -> Result<()> {
        let committed = self.commit_and_check();
        match &committed {
            Ok(true) => write.succeeded(),
            // Nothing was changed, so nothing was written: that says nothing about the next write.
            Ok(false) => {}
            Err(error) => write.failed(error),
        }
        committed.map(drop)
    }

    /// Commits; whether anything was written.
    fn commit_and_check(&mut self) -> Result<bool> {
        let started = Instant::now();
        if let Err(error) = self.conn.as_mut().execute("COMMIT", &[]) {
            self.conn.as_mut().leave_transaction();
            let failed = Err(error);
            self.guard.note(&failed);
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

    /// Runs a unit in a transaction that holds nothing yet; a new one is begun if it fails.
    fn run_first(&mut self, job: &mut Job<C>) -> Ran {
        if job.run(&mut self.conn) {
            return Ran::Kept;
        }
        self.note_failure(job);
        let connection = self.conn.as_mut();
        connection.leave_transaction();
        match connection.execute("BEGIN IMMEDIATE", &[]) {
            Ok(_) => Ran::RolledBack,
            Err(_) => Ran::TransactionLost,
        }
    }

    /// A unit that outgrows the cache writes to the log before its COMMIT, and a new log's header is synced then.
    fn note_failure(&self, job: &Job<C>) {
        if let Some(error) = job.error().filter(|error| is_failed_sync(error)) {
            self.guard.sync_failed(error);
        }
    }

    fn run_in_savepoint(&mut self, job: &mut Job<C>) -> Ran {
        if let Err(error) = self.conn.as_mut().execute("SAVEPOINT unit", &[]) {
            job.fail(error);
            return if self.conn.as_mut().is_in_transaction() { Ran::RolledBack } else { Ran::TransactionLost };
        }
        let succeeded = job.run(&mut self.conn);
        if !succeeded {
            self.note_failure(job);
        }
        let connection = self.conn.as_mut();
        if !connection.is_in_transaction() {
            return Ran::TransactionLost;
        }
        let undone = if succeeded { Ok(0) } else { connection.execute("ROLLBACK TO unit", &[]) };
        match undone.and_then(|_| connection.execute("RELEASE unit", &[])) {
            Ok(_) if succeeded => Ran::Kept,
            Ok(_) => Ran::RolledBack,
            Err(error) => {
                job.fail(error);
                connection.leave_transaction();
                Ran::TransactionLost
            }
        }
    }

    /// An error such as SQLITE_FULL took the whole transaction: everyone but its culprit is run again, each alone.
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

    /// Copies what is left in the log. When all of it is in the file, that is marked.
    fn copy_rest(&mut self) {
        let copied = checkpoint_passively(&self.conn.as_mut().connection)
            .and_then(|complete| if complete { self.guard.mark_copied() } else { Ok(()) });
        self.guard.note(&copied);
        if let Err(error) = copied {
            tracing::warn!(%error, "the write-ahead log could not be copied into the database's file");
        }
    }

    /// Has the log start over when it is long: one that never does grows without end.
    fn look_at_log(&mut self) {
        let pages = self.log.pages.load(Ordering::Relaxed);
        self.environment.metrics.wal_size_bytes.set(pages * PAGE_SIZE_BYTES);
        if self.log.copied.swap(false, Ordering::Relaxed) {
            // The checkpoint thread has copied all but the last commits. Copying those while nobody writes leaves a log that
            // the next commit begins anew, unless a reader is still in it: then there is another chance later.
            self.copy_rest();
            self.checkpoint_at_pages = pages + WAL_CHECKPOINT_PAGES;
        } else if pages < WAL_CHECKPOINT_PAGES {
            self.checkpoint_at_pages = WAL_CHECKPOINT_PAGES;
        } else if pages >= self.checkpoint_at_pages {
            self.checkpoint_at_pages = i64::MAX;
            // Full means that one is wanted already.
            let _already_wanted = self.checkpoint.try_send(());
        }
    }
}

enum Ran {
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
