//! How often somebody may try to prove who they are.
//!
//! Invariants: an attempt is counted before the proof is looked at, so that many at once are not more than one after
//! another; names that are not there are counted like those that are; nobody waits inside a request.

use sha2::{Digest as _, Sha256};

use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::UserId;
use crate::base::time::{MAX_CLOCK_SKEW_MICROS, Timestamp};
use crate::store;
use crate::store::identity::login_attempts::Attempts;
pub use crate::store::identity::login_attempts::Subject;

/// Attempts without any delay.
const FREE_ATTEMPTS: i64 = 5;
/// The longest delay. A longer one would let a stranger lock a person out.
const MAX_DELAY_S: i64 = 60;
/// After so long without an attempt all is forgotten.
pub const FORGOTTEN_AFTER_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// The subject of a person.
pub fn subject_of(app: &App, user: UserId) -> Subject {
    subject(app, &format!("user {}", user.0))
}

/// The subject of a name or address that nobody has.
pub fn subject_of_nobody(app: &App, key: &str) -> Subject {
    subject(app, &format!("nobody {key}"))
}

fn subject(app: &App, about: &str) -> Subject {
    let mut hash = Sha256::new();
    hash.update(b"log-in\0");
    hash.update(app.name_key);
    hash.update(about);
    let mut subject = Subject::default();
    subject.copy_from_slice(&hash.finalize()[..16]);
    subject
}

/// An attempt that was counted; `None` where nothing is.
#[derive(Clone, Copy, Debug)]
pub struct Attempt(Option<Counted>);

#[derive(Clone, Copy, Debug)]
struct Counted {
    subject: Subject,
    at: Timestamp,
    /// When the one before was.
    before: Timestamp,
}

/// Counts an attempt, and then verifies its password.
///
/// # Errors
/// 429 `too_many_attempts`, [`Error::Unavailable`] when too many wait; then it was not counted.
pub async fn verify(app: &App, subject: Subject, password: String, hash: Option<String>) -> Result<(bool, Attempt)> {
    let attempt = begin(app, subject).await?;
    match app.passwords.verify(password, hash).await {
        Ok(right) => Ok((right, attempt)),
        Err(error) => {
            take_back(app, attempt).await?;
            Err(error)
        }
    }
}

async fn begin(app: &App, subject: Subject) -> Result<Attempt> {
    if !app.settings.rate_limits {
        return Ok(Attempt(None));
    }
    let outcome = app
        .db
        .write((subject, app.clock.now()), |conn, (subject, now)| {
            Box::pin(async move {
                let attempts = store::identity::login_attempts::lock(conn, subject, *now).await?;
                let wait_s = wait_s(attempts, *now);
                if wait_s > 0 && are_ahead(attempts, *now) {
                    // The delay counts from now on: otherwise nobody could log in until the clock shows the old time again.
                    store::identity::login_attempts::put(conn, subject, Attempts { last_at: *now, ..attempts }).await?;
                    return Ok(Err(too_many(wait_s)));
                }
                if wait_s > 0 {
                    return Err(too_many(wait_s));
                }
                let before = if are_forgotten(attempts, *now) { 0 } else { attempts.failures };
                store::identity::login_attempts::put(conn, subject, Attempts { failures: before + 1, last_at: *now })
                    .await?;
                Ok(Ok(Attempt(Some(Counted { subject: *subject, at: *now, before: attempts.last_at }))))
            })
        })
        .await;
    outcome?
}

fn too_many(wait_s: i64) -> Error {
    Error::RateLimited { code: "too_many_attempts", retry_after_s: u32::try_from(wait_s).unwrap_or(u32::MAX) }
}

/// Takes an attempt back that was no failure and no success either.
///
/// # Errors
/// Of the database.
pub async fn take_back(app: &App, attempt: Attempt) -> Result<()> {
    let Attempt(Some(counted)) = attempt else { return Ok(()) };
    app.db
        .write(counted, |conn, Counted { subject, at, before }| {
            Box::pin(store::identity::login_attempts::take_back(conn, subject, *at, *before))
        })
        .await
}

/// Whether the last attempt lies in the future because the clock was set back.
fn are_ahead(attempts: Attempts, now: Timestamp) -> bool {
    attempts.last_at > now.plus_micros(MAX_CLOCK_SKEW_MICROS)
}

fn are_forgotten(attempts: Attempts, now: Timestamp) -> bool {
    now >= attempts.last_at.plus_micros(FORGOTTEN_AFTER_MICROS)
}

/// Seconds until the next attempt: none for the first ones, then 1, 2, 4 … after each failure.
fn wait_s(attempts: Attempts, now: Timestamp) -> i64 {
    let beyond = attempts.failures - FREE_ATTEMPTS;
    if beyond < 0 || are_forgotten(attempts, now) {
        return 0;
    }
    let delay_s = if beyond >= 6 { MAX_DELAY_S } else { 1 << beyond };
    let left_micros = attempts.last_at.plus_micros(delay_s * 1_000_000).micros() - now.micros();
    // A clock that was set back must not make it longer.
    (left_micros.max(0) as u64).div_ceil(1_000_000).min(delay_s as u64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_minute_and_end() {
        let at = |failures, after_s: i64| {
            let last_at = Timestamp::from_micros(1_000_000_000);
            wait_s(Attempts { failures, last_at }, last_at.plus_micros(after_s * 1_000_000))
        };
        assert_eq!(
            [at(1, 0), at(4, 0), at(5, 0), at(6, 0), at(10, 0), at(11, 0), at(1_000, 0)],
            [0, 0, 1, 2, 32, 60, 60]
        );
        assert_eq!([at(5, 1), at(11, 59), at(11, 60), at(11, 86_400)], [0, 1, 0, 0]);
        assert_eq!(at(11, -1_000), 60);
    }
}
