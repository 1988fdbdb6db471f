//! Whether what is remembered of a caller still holds.
//!
//! Invariant: what was remembered is trusted only while the last look at the database's revocations is at most
//! `MAX_AGE` old, and nothing about its subject was revoked after it was read. So a revocation reaches every server within
//! that time, whoever made it: this server, another one, or the command line.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::error::{Error, Result};
use crate::store;
use crate::store::db::Db;
use crate::store::identity::revocations::Revoked;

/// How old the last look may be.
const MAX_AGE: Duration = Duration::from_millis(500);
/// From this age on one caller looks again, while the others go on.
const REFRESH_AGE: Duration = Duration::from_millis(250);
/// Subjects remembered; beyond it everything is looked up again once.
const SUBJECT_LIMIT: usize = 10_000;
/// Revocations read at once; beyond it everything is looked up again once.
const READ_LIMIT: i64 = 1_000;
/// Revocations kept in the database.
pub const KEPT: i64 = 10_000;

/// The revocations that this server knows of.
pub struct Revocations {
    started: Instant,
    /// When the database was looked at last: microseconds since `started`, plus one; 0 for never.
    looked_at: AtomicU64,
    /// When a look failed last, likewise.
    failed_at: AtomicU64,
    looking: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    mark: Mark,
    last_of: HashMap<Revoked, i64>,
}

/// Up to where revocations are known. What is read from the database afterwards is remembered with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Another one means that revocations were missed: whatever was read before counts as revoked.
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
            looked_at: AtomicU64::new(0),
            failed_at: AtomicU64::new(0),
            looking: tokio::sync::Mutex::default(),
            known: Mutex::default(),
        }
    }
}

impl Revocations {
    /// Sees to it that the last look is recent, and says up to where it went.
    ///
    /// # Errors
    /// Of the database.
    pub async fn look(&self, db: &Db) -> Result<Mark> {
        let age = self.age();
        if age > REFRESH_AGE {
            if age <= MAX_AGE {
                if let Ok(_turn) = self.looking.try_lock() {
                    self.look_now(db).await?;
                }
            } else {
                let asked_at = self.micros_now();
                let _turn = self.looking.lock().await;
                // Callers who waited for a look that failed fail with it. If each tried in turn while the database is
                // silent, the last of them would wait for all the others.
                if self.failed_at.load(Ordering::Acquire) > asked_at {
                    return Err(Error::unavailable("revocations could not be read"));
                }
                if self.age() > REFRESH_AGE {
                    self.look_now(db).await?;
                }
            }
        }
        Ok(self.known().mark)
    }

    /// Looks at once: the caller has just revoked something.
    ///
    /// # Errors
    /// Of the database.
    pub async fn look_again(&self, db: &Db) -> Result<()> {
        let _turn = self.looking.lock().await;
        self.look_now(db).await
    }

    /// Whether what was read about a subject after a look still holds.
    pub fn holds(&self, mark: Mark, subject: Revoked) -> bool {
        let known = self.known();
        mark.generation == known.mark.generation
            && known.last_of.get(&subject).is_none_or(|revoked| *revoked <= mark.position)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn age(&self) -> Duration {
        match self.looked_at.load(Ordering::Acquire) {
            0 => Duration::MAX,
            micros => self.started.elapsed().saturating_sub(Duration::from_micros(micros - 1)),
        }
    }

    /// Microseconds since `started`, plus one.
    fn micros_now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX - 1) + 1
    }

    async fn look_now(&self, db: &Db) -> Result<()> {
        let looked = self.read(db).await;
        if looked.is_err() {
            self.failed_at.fetch_max(self.micros_now(), Ordering::AcqRel);
        }
        looked
    }

    async fn read(&self, db: &Db) -> Result<()> {
        // Before the database is asked: what is revoked while it answers is for the next look.
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
        // A restore lets positions jump, in either direction.
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
        self.looked_at.fetch_max(asked_at, Ordering::AcqRel);
        Ok(())
    }
}
