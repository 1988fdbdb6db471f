//! Whether the database is there.

use crate::app::App;
use crate::error::Result;
use crate::store;

/// Asks the database for a row.
///
/// # Errors
/// [`crate::error::Error::Unavailable`] when it does not answer.
pub async fn check(app: &App) -> Result<()> {
    app.db.read((), |conn, ()| Box::pin(store::events::last_position(conn))).await.map(drop)
}
