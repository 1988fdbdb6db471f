//! Counts for administrators.
//!
//! Invariant: the result contains numbers only, and identifies no user.

use crate::app::App;
use crate::base::error::Result;
use crate::store;
pub use crate::store::operations::stats::Stats;

/// Counts users, conversations, messages and other objects.
///
/// # Errors
/// Errors of the database.
pub async fn get(app: &App) -> Result<Stats> {
    let now = app.clock.now();
    app.db.read(now, |conn, now| Box::pin(store::operations::stats::get(conn, *now))).await
}
