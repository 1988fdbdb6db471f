//! Rows of `messaging.users`.
//!
//! Invariant: the `_key` columns hold what the domain folded; they alone decide equality and prefixes.

use super::{Conn, Row, Value};
use crate::error::Result;
use crate::ids::UserId;
use crate::time::Timestamp;

/// A person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Given by the database.
    pub id: UserId,
    /// 0..32 characters.
    pub first_name: String,
    /// 0..32 characters.
    pub last_name: String,
    /// 1..32 of `A-Za-z0-9._-`; what the seed stored may be freer.
    pub user_name: String,
    /// At most 254 ASCII characters.
    pub email: Option<String>,
    /// Whether a second factor is on.
    pub mfa: bool,
    /// When the account was made.
    pub created_at: Timestamp,
    /// When it changed last.
    pub modified_at: Timestamp,
}

/// A user to be inserted, folded keys included.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// As written.
    pub first_name: String,
    /// As written.
    pub last_name: String,
    /// As written.
    pub user_name: String,
    /// As written.
    pub email: Option<String>,
    /// The user name, ASCII case folded.
    pub user_name_key: String,
    /// The address, ASCII case folded.
    pub email_key: Option<String>,
    /// First and last name, case and accents folded.
    pub full_name_key: String,
    /// Last name, case and accents folded.
    pub last_name_key: String,
    /// Now.
    pub created_at: Timestamp,
}

/// What a send needs to know of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName {
    /// The person.
    pub id: UserId,
    /// As written.
    pub user_name: String,
    /// Folded.
    pub user_name_key: String,
}

fn user(row: &Row<'_>) -> Result<User> {
    Ok(User {
        id: UserId(row.i64(0)?),
        first_name: row.text(1)?.to_owned(),
        last_name: row.text(2)?.to_owned(),
        user_name: row.text(3)?.to_owned(),
        email: row.option_text(4)?.map(str::to_owned),
        mfa: row.bool(5)?,
        created_at: row.time(6)?,
        modified_at: row.time(7)?,
    })
}

/// One user by folded name.
pub async fn by_key(conn: &mut Conn, user_name_key: &str) -> Result<Option<User>> {
    conn.first(
        "SELECT id, first_name, last_name, user_name, email, mfa, created_at, modified_at
           FROM messaging.users WHERE user_name_key = $1",
        &[Value::Text(user_name_key)],
        user,
    )
    .await
}

/// Those of the folded names that exist.
pub async fn names_by_keys(conn: &mut Conn, user_name_keys: &[&str]) -> Result<Vec<UserName>> {
    conn.rows(
        "SELECT id, user_name, user_name_key FROM messaging.users WHERE user_name_key = ANY($1)",
        &[Value::Texts(user_name_keys)],
        |row| {
            Ok(UserName {
                id: UserId(row.i64(0)?),
                user_name: row.text(1)?.to_owned(),
                user_name_key: row.text(2)?.to_owned(),
            })
        },
    )
    .await
}

/// The names of people by id.
pub async fn names_by_ids(conn: &mut Conn, ids: &[i64]) -> Result<Vec<(UserId, String)>> {
    conn.rows("SELECT id, user_name FROM messaging.users WHERE id = ANY($1)", &[Value::I64s(ids)], |row| {
        Ok((UserId(row.i64(0)?), row.text(1)?.to_owned()))
    })
    .await
}

/// Users by id, after `after`.
pub async fn list(conn: &mut Conn, after: UserId, limit: i64) -> Result<Vec<User>> {
    conn.rows(
        "SELECT id, first_name, last_name, user_name, email, mfa, created_at, modified_at
           FROM messaging.users WHERE id > $1 ORDER BY id LIMIT $2",
        &[Value::I64(after.0), Value::I64(limit)],
        user,
    )
    .await
}

/// Users of whom a name begins with a folded prefix, by id, after `after`. `name` is folded like full names, `user_name`
/// like user names; each comes with the first text that is past its prefix.
pub async fn with_prefix(
    conn: &mut Conn,
    user_name: (&str, &str),
    name: (&str, &str),
    after: UserId,
    limit: i64,
) -> Result<Vec<User>> {
    conn.rows(
        "SELECT id, first_name, last_name, user_name, email, mfa, created_at, modified_at
           FROM messaging.users
          WHERE id > $5 AND id IN (
                SELECT id FROM messaging.users WHERE user_name_key >= $1 AND user_name_key < $2
                UNION SELECT id FROM messaging.users WHERE full_name_key >= $3 AND full_name_key < $4
                UNION SELECT id FROM messaging.users WHERE last_name_key >= $3 AND last_name_key < $4)
          ORDER BY id LIMIT $6",
        &[
            Value::Text(user_name.0),
            Value::Text(user_name.1),
            Value::Text(name.0),
            Value::Text(name.1),
            Value::I64(after.0),
            Value::I64(limit),
        ],
        user,
    )
    .await
}

/// How many there are: 0 or 1 is told from more, nothing else.
pub async fn any(conn: &mut Conn) -> Result<bool> {
    Ok(conn.first("SELECT id FROM messaging.users LIMIT 1", &[], |row| row.i64(0)).await?.is_some())
}

/// A new user.
///
/// # Errors
/// [`crate::error::Error::Duplicate`] with `users_user_name_key` or `users_email_key`.
pub async fn insert(conn: &mut Conn, user: &NewUser) -> Result<UserId> {
    conn.one(
        "INSERT INTO messaging.users (first_name, last_name, user_name, email, mfa, created_at, modified_at,
                                      user_name_key, email_key, full_name_key, last_name_key)
         VALUES ($1, $2, $3, $4, FALSE, $5, $5, $6, $7, $8, $9) RETURNING id",
        &[
            Value::Text(&user.first_name),
            Value::Text(&user.last_name),
            Value::Text(&user.user_name),
            Value::OptionText(user.email.as_deref()),
            Value::Time(user.created_at),
            Value::Text(&user.user_name_key),
            Value::OptionText(user.email_key.as_deref()),
            Value::Text(&user.full_name_key),
            Value::Text(&user.last_name_key),
        ],
        |row| row.i64(0).map(UserId),
    )
    .await
}

/// How many there are.
pub async fn count(conn: &mut Conn) -> Result<i64> {
    conn.one("SELECT count(*) FROM messaging.users", &[], |row| row.i64(0)).await
}
