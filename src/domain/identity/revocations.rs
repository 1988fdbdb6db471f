//! Decides whether cached credentials are still valid.
//!
//! Invariant: cached credentials are used only while the last read of the database's revocations is at most `MAX_AGE`
//! old, and only if nothing about their subject was revoked after the credentials were read. So a revocation takes
//! effect on every server within `MAX_AGE`, whether this server, another server or the command line made it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::error::{Error, Result};
use crate::store;
use crate::store::db::Db;
use crate::store::identity::revocations::Revoked;

/// How old the last read of the revocations may be.
const MAX_AGE: Duration = Duration::from_millis(500);
/// From this age on, one caller reads the revocations again, while the others use the known revocations.
const REFRESH_AGE: Duration = Duration::from_millis(250);
/// Maximum number of subjects kept in memory. Beyond it, all cached credentials are looked up again once.
const SUBJECT_LIMIT: usize = 10_000;
/// Maximum number of revocations that one query reads. Beyond it, all cached credentials are looked up again once.
const READ_LIMIT: i64 = 1_000;
/// How many revocations the database keeps.
pub const KEPT: i64 = 10_000;

/// The revocations that this server knows.
pub struct Revocations {
    started: Instant,
    /// When the last successful read began: microseconds since `started`, plus one; 0 for never.
    refreshed_at: AtomicU64,
    /// When a read failed last, in the same unit.
    failed_at: AtomicU64,
    refresh_lock: tokio::sync::Mutex<()>,
    known: Mutex<KnownRevocations>,
}

#[derive(Default)]
struct KnownRevocations {
    mark: Mark,
    last_of: HashMap<Revoked, i64>,
}

/// The last revocation that this server has read. Data that is read from the database afterwards is cached with this
/// mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// A different generation means that revocations were missed, so everything cached before counts as revoked.
    generation: u64,
    position: i64,
}

impl Mark {
    /// The position of the last revocation that is known.
    pub const fn position(self) -> i64 {
        self.position
    }
}

impl Default for Revocations {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            refreshed_at: AtomicU64::new(0),
            failed_at: AtomicU64::new(0),
            refresh_lock: tokio::sync::Mutex::default(),
            known: Mutex::default(),
        }
    }
}

impl Revocations {
    /// Reads the revocations again if the last read is too old. Returns the current mark.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn current_mark(&self, db: &Db) -> Result<Mark> {
        let age = self.age();
        if age > REFRESH_AGE {
            if age <= MAX_AGE {
                if let Ok(_turn) = self.refresh_lock.try_lock() {
                    self.refresh_locked(db).await?;
                }
            } else {
                let asked_at = self.micros_now();
                let _turn = self.refresh_lock.lock().await;
                // If the read that these callers waited for has failed, they return an error. If each of them tried
                // again while the database does not answer, the last one would wait for all the others.
                if self.failed_at.load(Ordering::Acquire) > asked_at {
                    return Err(Error::unavailable("revocations could not be read"));
                }
                if self.age() > REFRESH_AGE {
                    self.refresh_locked(db).await?;
                }
            }
        }
        Ok(self.known().mark)
    }

    /// Reads the revocations now, because the caller has just added one.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn refresh(&self, db: &Db) -> Result<()> {
        let _turn = self.refresh_lock.lock().await;
        self.refresh_locked(db).await
    }

    /// Whether data about `subject` that was read under `mark` may still be used: no revocation of `subject` came after
    /// it.
    pub fn holds(&self, mark: Mark, subject: Revoked) -> bool {
        let known = self.known();
        mark.generation == known.mark.generation
            && known.last_of.get(&subject).is_none_or(|revoked| *revoked <= mark.position)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, KnownRevocations> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn age(&self) -> Duration {
        match self.refreshed_at.load(Ordering::Acquire) {
            0 => Duration::MAX,
            micros => self.started.elapsed().saturating_sub(Duration::from_micros(micros - 1)),
        }
    }

    /// Microseconds since `started`, plus one.
    fn micros_now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX - 1) + 1
    }

    async fn refresh_locked(&self, db: &Db) -> Result<()> {
        let outcome = self.read(db).await;
        if outcome.is_err() {
            self.failed_at.fetch_max(self.micros_now(), Ordering::AcqRel);
        }
        outcome
    }

    async fn read(&self, db: &Db) -> Result<()> {
        // Taken before the query, because a revocation that is made while the database answers may be missing from the
        // result.
        let asked_at = self.micros_now();
        let from = self.known().mark.position;
        let (last, rows) = db
            .read(from, |conn, from| {
                Box::pin(async move {
                    let last = store::identity::revocations::last_position(conn).await?;
                    let rows = if last > *from {
                        store::identity::revocations::after(conn, *from, READ_LIMIT).await?
                    } else {
                        Vec::new()
                    };
                    Ok((last, rows))
                })
            })
            .await?;
        let mut known = self.known();
        // After a restore, positions may jump forwards or backwards. Then revocations are missing from what was read.
        let whole = last >= from
            && rows.first().is_none_or(|(position, _)| *position == from + 1)
            && rows.last().map_or(from, |(position, _)| *position) >= last;
        if !whole || known.last_of.len() + rows.len() > SUBJECT_LIMIT {
            known.mark = Mark { generation: known.mark.generation + 1, position: last };
            known.last_of.clear();
        } else {
            for (position, revoked) in rows {
                known.mark.position = position;
                if let Some(revoked) = revoked {
                    known.last_of.insert(revoked, position);
                }
            }
        }
        drop(known);
        self.refreshed_at.fetch_max(asked_at, Ordering::AcqRel);
        Ok(())
    }
}
