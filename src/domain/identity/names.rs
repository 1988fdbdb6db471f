//! Loads the user names that answers and events show in place of ids.

use std::collections::HashMap;

use crate::base::error::Result;
use crate::base::ids::UserId;
use crate::store;
use crate::store::db::Conn;

/// User names by id. Erased users are missing.
pub type Names = HashMap<UserId, String>;

/// Loads the names of these users. An id may occur several times.
///
/// # Errors
/// Errors of the database.
pub async fn load(conn: &mut Conn, people: Vec<UserId>) -> Result<Names> {
    let mut ids: Vec<i64> = people.into_iter().map(|id| id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(Names::new());
    }
    Ok(store::identity::users::names_by_ids(conn, &ids).await?.into_iter().collect())
}
