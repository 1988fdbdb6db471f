//! The lease of a stream, a WebSocket or a long poll: its permission to continue while the caller's credentials are valid.
//!
//! Invariants: while the database answers, a revocation ends the lease within a second. While the database does not answer, the
//! lease continues for `Timeouts::unconfirmed`. It continues longer only until the running check has had `LEAST_CHECK_TIME`. A task
//! that awaits [`StreamLease::expired`] can do other work at the same time, because a check that waits for the database blocks
//! nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::admission::{CredentialCheck, ShownCredentials};
use crate::domain::access::principal::Principal;
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// Time between two checks of the caller's credentials.
const CHECK_INTERVAL: Duration = Duration::from_millis(400);

/// Why a lease has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEnd {
    /// The credentials are no longer valid.
    Invalid,
    /// The database has not answered for too long, so the credentials can no longer be trusted.
    Unconfirmed,
}

type Checking = Pin<Box<dyn Future<Output = CredentialCheck> + Send>>;

/// Each check gets at least this time.
const LEAST_CHECK_TIME: Duration = Duration::from_secs(1);

/// The permission of one caller to continue receiving events.
pub struct StreamLease {
    state: HttpState,
    shown: Arc<ShownCredentials>,
    principal: Principal,
    tick: Interval,
    /// The running check and the time of its start. It is kept here so that it continues if the future of `expired` is dropped.
    checking: Option<(Checking, Instant)>,
    confirmed_at: Instant,
}

impl StreamLease {
    /// Creates the lease of a request that was admitted as `principal`.
    ///
    /// # Errors
    /// Those of [`ShownCredentials::new`].
    pub fn new(state: &HttpState, headers: &HeaderMap, principal: Principal) -> Result<Self, Problem> {
        let shown = Arc::new(ShownCredentials::new(headers, &principal)?);
        let mut tick = tokio::time::interval(CHECK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        Ok(Self { state: state.clone(), shown, principal, tick, checking: None, confirmed_at: Instant::now() })
    }

    /// The caller as of the last check.
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Waits until the lease ends. The future can be dropped and created again.
    pub async fn expired(&mut self) -> LeaseEnd {
        loop {
            let Some((checking, since)) = &mut self.checking else {
                self.tick.tick().await;
                let (state, shown) = (self.state.clone(), Arc::clone(&self.shown));
                self.checking = Some((Box::pin(async move { shown.check(&state).await }), Instant::now()));
                continue;
            };
            // The limit may have passed because this future was not polled for a long time, or because the machine was paused. The
            // database may still answer, so each check gets at least LEAST_CHECK_TIME.
            let limit = (self.confirmed_at + self.state.settings.timeouts.unconfirmed).max(*since + LEAST_CHECK_TIME);
            let Ok(outcome) = tokio::time::timeout_at(limit, checking).await else { return LeaseEnd::Unconfirmed };
            self.checking = None;
            match outcome {
                CredentialCheck::Valid(principal) => {
                    self.confirmed_at = Instant::now();
                    if let Some(principal) = principal {
                        self.principal = *principal;
                    }
                }
                CredentialCheck::Unknown if Instant::now() >= limit => return LeaseEnd::Unconfirmed,
                CredentialCheck::Unknown => {}
                CredentialCheck::Invalid => return LeaseEnd::Invalid,
            }
        }
    }
}
