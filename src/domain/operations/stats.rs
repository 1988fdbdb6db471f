//! How much there is, for administrators.
//!
//! Invariant: it counts; it names nobody.

use crate::app::App;
use crate::base::error::Result;
use crate::store;
pub use crate::store::operations::stats::Stats;

/// How much there is.
///
/// # Errors
/// Of the database.
pub async fn get(app: &App) -> Result<Stats> {
    let now = app.clock.now();
    app.db.read(now, |conn, now| Box::pin(store::operations::stats::get(conn, *now))).await
}
