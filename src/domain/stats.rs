//! How much there is, for administrators.
//!
//! Invariant: it counts; it names nobody.

use crate::app::App;
use crate::error::Result;
use crate::store;
pub use crate::store::stats::Stats;

/// How much there is.
///
/// # Errors
/// Of the database.
pub async fn get(app: &App) -> Result<Stats> {
    let now = app.clock.now();
    app.db.read(now, |conn, now| Box::pin(store::stats::get(conn, *now))).await
}
