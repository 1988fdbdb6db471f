//! The permission of an open stream, socket or long poll to go on.
//!
//! Invariants: while the database answers, a revocation ends the lease within a second. While it does not answer, the
//! lease is kept for `Timeouts::unconfirmed` and no longer. A caller that awaits [`Lease::lapse`] can do other work at the
//! same time: a check that waits for the database blocks nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::admission::{Pass, Standing};
use crate::domain::access::principal::Principal;
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;

/// Time between two checks of the caller's credentials.
const CHECK_INTERVAL: Duration = Duration::from_millis(400);

/// Why a lease is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lapse {
    /// The credentials are not valid any more.
    Ended,
    /// The database has not answered for so long that the credentials can no longer be trusted.
    Unconfirmed,
}

type Checking = Pin<Box<dyn Future<Output = Standing> + Send>>;

/// How long each check gets at least.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// What lets a caller go on listening.
pub struct Lease {
    state: HttpState,
    pass: Arc<Pass>,
    principal: Principal,
    tick: Interval,
    /// The check under way, and since when. It is kept here so that it survives when the future of `lapse` is dropped.
    checking: Option<(Checking, Instant)>,
    confirmed_at: Instant,
}

impl Lease {
    /// A lease for a request that was admitted as `principal`.
    ///
    /// # Errors
    /// None that admitting the request did not have.
    pub fn new(state: &HttpState, headers: &HeaderMap, principal: Principal) -> Result<Self, Problem> {
        let pass = Arc::new(Pass::new(headers, &principal)?);
        let mut tick = tokio::time::interval(CHECK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        Ok(Self { state: state.clone(), pass, principal, tick, checking: None, confirmed_at: Instant::now() })
    }

    /// The caller, as the last check found them.
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Waits until the lease is over. Can be dropped and called again.
    pub async fn lapse(&mut self) -> Lapse {
        loop {
            let Some((checking, since)) = &mut self.checking else {
                self.tick.tick().await;
                let (state, pass) = (self.state.clone(), Arc::clone(&self.pass));
                self.checking = Some((Box::pin(async move { pass.check(&state).await }), Instant::now()));
                continue;
            };
            // A reader that was not polled for long, or a machine that was paused, is no silent database.
            let limit = (self.confirmed_at + self.state.settings.timeouts.unconfirmed).max(*since + LEAST_PATIENCE);
            let Ok(standing) = tokio::time::timeout_at(limit, checking).await else { return Lapse::Unconfirmed };
            self.checking = None;
            match standing {
                Standing::Confirmed(principal) => {
                    self.confirmed_at = Instant::now();
                    if let Some(principal) = principal {
                        self.principal = *principal;
                    }
                }
                Standing::Unknown if Instant::now() >= limit => return Lapse::Unconfirmed,
                Standing::Unknown => {}
                Standing::Ended => return Lapse::Ended,
            }
        }
    }
}
