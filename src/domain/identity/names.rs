//! Names of the people in what is shown.

use std::collections::HashMap;

use crate::base::error::Result;
use crate::base::ids::UserId;
use crate::store;
use crate::store::db::Conn;

/// User names by id. A user who was erased is missing.
pub type Names = HashMap<UserId, String>;

/// Loads the names of some people; ids may repeat.
///
/// # Errors
/// Of the database.
pub async fn load(conn: &mut Conn, people: Vec<UserId>) -> Result<Names> {
    let mut ids: Vec<i64> = people.into_iter().map(|id| id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(Names::new());
    }
    Ok(store::identity::users::names_by_ids(conn, &ids).await?.into_iter().collect())
}
