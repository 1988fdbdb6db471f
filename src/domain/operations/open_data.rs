//! Open access gives everybody the rights of all users. So it must not be switched on by mistake for accounts that were
//! protected.
//!
//! Invariant: a database is marked only if it had no users when a server with open access started on it. The mark is removed by
//! the first server that starts on it with secured access, so the users of a marked database were never protected.

use crate::app::App;
use crate::base::error::Result;
use crate::store;

/// The users of the database, as a server finds them at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// There are none.
    Empty,
    /// They were created under open access, such as those of the demo.
    Open,
    /// They were created under secured access, or were used under it.
    Protected,
}

/// Finds out whether the users were ever protected, and marks the database for the access of this start. `is_open` is true under
/// open access.
///
/// # Errors
/// Errors of the database.
pub async fn prepare(app: &App, is_open: bool) -> Result<Data> {
    let before = app.db.read((), |conn, ()| {
        Box::pin(async move {
            let any = store::identity::users::any(conn).await?;
            Ok((any, store::operations::open_data::is_marked(conn).await?))
        })
    });
    let (has_users, is_marked) = before.await?;
    if is_open && !has_users && !is_marked {
        app.db.write((), |conn, ()| Box::pin(store::operations::open_data::mark(conn))).await?;
    }
    if !is_open && is_marked {
        app.db.write((), |conn, ()| Box::pin(store::operations::open_data::remove_mark(conn))).await?;
    }
    Ok(match (has_users, is_marked) {
        (false, _) => Data::Empty,
        (true, true) => Data::Open,
        (true, false) => Data::Protected,
    })
}
