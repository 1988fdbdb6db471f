//! What the server is made of, handed to everyone who needs it.
//!
//! Invariant: time and randomness come from here and nowhere else.

use std::sync::Arc;

use crate::domain::auth::Access;
use crate::domain::send_queue::SendQueue;
use crate::domain::tails::Tails;
use crate::error::{Error, Result};
use crate::ids::{RequestIds, Rng, hex};
use crate::metrics::Metrics;
use crate::store::migrations::{self, Report};
use crate::store::{Db, Environment, Location};
use crate::time::Clock;

/// What the operator chose, as far as the rules need to know it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who is let in.
    pub access: Access,
    /// Whether the demo's data is there.
    pub demo: bool,
}

/// The server's parts. Shared by `Arc`.
pub struct App {
    /// The data.
    pub db: Db,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Ids for requests that bring none.
    pub request_ids: RequestIds,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the operator chose.
    pub settings: Settings,
    /// Where sends wait for each other.
    pub sends: SendQueue,
    /// What was rendered of the newest messages.
    pub tails: Tails,
}

impl App {
    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    /// When the database cannot be reached or its schema cannot be used.
    pub async fn open(location: &Location, settings: Settings, clock: Clock, rng: Rng) -> Result<(Self, Report)> {
        let metrics = Arc::new(Metrics::new());
        let environment = Environment { clock: clock.clone(), metrics: Arc::clone(&metrics) };
        let db = Db::open(location, environment).await?;
        let context = migrations::Context { now: clock.now(), epoch: epoch(&rng)? };
        let report = migrations::migrate(&db, context).await?;
        let sends = SendQueue::start(db.clone(), clock.clone(), Arc::clone(&metrics));
        let request_ids = RequestIds::new(&rng).map_err(Error::internal)?;
        Ok((Self { db, clock, rng, request_ids, metrics, settings, sends, tails: Tails::default() }, report))
    }
}

/// A new name for an event log, so that cursors of another one are told apart.
///
/// # Errors
/// When there is no randomness to be had.
pub fn epoch(rng: &Rng) -> Result<String> {
    Ok(hex(&rng.bytes::<8>().map_err(Error::internal)?))
}
