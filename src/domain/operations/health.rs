//! Whether the server can read and write its database.

use crate::app::App;
use crate::base::error::Result;
use crate::store;

/// Reads one row from the database, and checks whether writing works.
///
/// # Errors
/// [`Error::Unavailable`](crate::base::error::Error::Unavailable) if the database does not answer or cannot be written.
pub async fn check(app: &App) -> Result<()> {
    app.db.read((), |conn, ()| Box::pin(store::events::events::last_position(conn))).await?;
    app.write_probe.check(&app.db, &app.clock).await
}
