//! Whether the server can serve: read and write.

use crate::app::App;
use crate::base::error::Result;
use crate::store;

/// Asks the database for a row, and looks at how the last writes ended.
///
/// # Errors
/// [`Error::Unavailable`](crate::base::error::Error::Unavailable) when it does not answer, or cannot be written.
pub async fn check(app: &App) -> Result<()> {
    app.db.read((), |conn, ()| Box::pin(store::events::events::last_position(conn))).await?;
    app.write_probe.check(&app.db, &app.clock).await
}
