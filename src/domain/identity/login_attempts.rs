//! Limits how often a password may be tried for one account.
//!
//! Invariants:
//! - An attempt is counted before the password is checked. So many attempts at the same time count as much as the same
//!   number of attempts one after another.
//! - Attempts for names that no user has are counted in the same way as for existing users.
//! - A request that comes too early is refused. The server never delays a request.

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
/// The longest delay, in seconds. With a longer one, a stranger could keep a user from logging in.
const MAX_DELAY_S: i64 = 60;
/// After this time without an attempt, the earlier attempts no longer count.
pub const FORGOTTEN_AFTER_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// The subject under which attempts for a user are counted.
pub fn subject_of(app: &App, user: UserId) -> Subject {
    subject(app, &format!("user {}", user.0))
}

/// The subject under which attempts for an unknown name or address are counted.
pub fn subject_of_unknown(app: &App, key: &str) -> Subject {
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

/// An attempt that was counted; `None` if rate limits are off.
#[derive(Clone, Copy, Debug)]
pub struct Attempt(Option<Counted>);

#[derive(Clone, Copy, Debug)]
struct Counted {
    subject: Subject,
    at: Timestamp,
    /// The time of the previous attempt.
    before: Timestamp,
}

/// Counts an attempt, then verifies the password.
///
/// # Errors
/// 429 `too_many_attempts`; [`Error::Unavailable`] if too many passwords wait to be verified. In both cases the attempt
/// does not count.
pub async fn verify(app: &App, subject: Subject, password: String, hash: Option<String>) -> Result<(bool, Attempt)> {
    let attempt = begin(app, subject).await?;
    match app.passwords.verify(password, hash).await {
        Ok(right) => Ok((right, attempt)),
        Err(error) => {
            uncount(app, attempt).await?;
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
                    // The delay counts from now. Otherwise nobody could log in until the clock reaches the old time
                    // again.
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

/// Removes an attempt from the count, because it has neither failed nor succeeded.
///
/// # Errors
/// Errors of the database.
pub async fn uncount(app: &App, attempt: Attempt) -> Result<()> {
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

/// Seconds until the next attempt is allowed: 0 for the first attempts, then 1, 2, 4 and so on, at most
/// [`MAX_DELAY_S`].
fn wait_s(attempts: Attempts, now: Timestamp) -> i64 {
    let beyond = attempts.failures - FREE_ATTEMPTS;
    if beyond < 0 || are_forgotten(attempts, now) {
        return 0;
    }
    let delay_s = if beyond >= 6 { MAX_DELAY_S } else { 1 << beyond };
    let left_micros = attempts.last_at.plus_micros(delay_s * 1_000_000).micros() - now.micros();
    // The wait is never longer than the delay, even if the clock was set back.
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
