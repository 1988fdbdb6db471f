//! Rows of `messaging.users`.
//!
//! Invariant: the `_key` columns hold what the domain folded; they alone decide equality and prefixes.

use std::collections::BTreeSet;

use crate::base::error::Result;
use crate::base::ids::UserId;
use crate::base::time::Timestamp;
use crate::store::db::columns::{columns, read, sql, word_column};
use crate::store::db::{Conn, words};
use crate::store::driver::values::Value;

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
    /// What they may do on the whole server.
    pub role: Role,
    /// Whether a program writes under this name.
    pub is_bot: bool,
    /// From whom they take direct messages; `None` for what the server says.
    pub direct_messages_from: Option<DirectMessagesFrom>,
    /// When they proved that the address is theirs.
    pub email_confirmed_at: Option<Timestamp>,
    /// Since when they are kept out.
    pub banned_at: Option<Timestamp>,
}

/// What a person may do on the whole server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What everyone may.
    User,
    /// Administration too.
    Admin,
}

impl Role {
    /// As it stands in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }

    /// The role of a word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`](crate::base::error::Error::UnknownValue).
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("users.role", &[Self::User, Self::Admin], Self::as_str, word)
    }
}

/// From whom direct messages are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectMessagesFrom {
    /// From everyone.
    Everyone,
    /// From friends alone.
    Friends,
}

impl DirectMessagesFrom {
    /// As it stands in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Everyone => "everyone",
            Self::Friends => "friends",
        }
    }

    pub(in crate::store) fn parse(word: &str) -> Result<Self> {
        words::parse("users.direct_messages_from", &[Self::Everyone, Self::Friends], Self::as_str, word)
    }
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
    /// What they may do on the whole server.
    pub role: Role,
}

/// What may change about a person, folded keys included.
#[derive(Clone, Debug)]
pub struct Profile {
    /// As written.
    pub first_name: String,
    /// As written.
    pub last_name: String,
    /// As written.
    pub email: Option<String>,
    /// The address, ASCII case folded.
    pub email_key: Option<String>,
    /// First and last name, case and accents folded.
    pub full_name_key: String,
    /// Last name, case and accents folded.
    pub last_name_key: String,
    /// From whom they take direct messages.
    pub direct_messages_from: Option<DirectMessagesFrom>,
    /// When they proved that the address is theirs.
    pub email_confirmed_at: Option<Timestamp>,
}

/// A person who may call, as far as every request needs to know.
#[derive(Clone, Debug)]
pub struct Account {
    /// Who.
    pub name: UserName,
    /// What they may do on the whole server.
    pub role: Role,
    /// Since when they are kept out.
    pub banned_at: Option<Timestamp>,
}

impl Account {
    /// Whether anything lets them in: nobody stands for a bot.
    pub const fn may_call(&self) -> bool {
        self.banned_at.is_none() && !self.name.is_bot
    }
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
    /// From whom they take direct messages; `None` for what the server says.
    pub direct_messages_from: Option<DirectMessagesFrom>,
    /// Whether they block anyone.
    pub blocks_someone: bool,
    /// Whether they are kept out.
    pub is_banned: bool,
    /// Whether a program writes under this name, and nobody else.
    pub is_bot: bool,
}

word_column!(Role);
word_column!(DirectMessagesFrom);

columns! {
    User {
        id: "u.id",
        first_name: "u.first_name",
        last_name: "u.last_name",
        user_name: "u.user_name",
        email: "u.email",
        mfa: "u.mfa",
        created_at: "u.created_at",
        modified_at: "u.modified_at",
        role: "u.role",
        is_bot: "u.is_bot",
        direct_messages_from: "u.direct_messages_from",
        email_confirmed_at: "u.email_confirmed_at",
        banned_at: "u.banned_at",
    }
}

columns! {
    UserName {
        id: "u.id",
        user_name: "u.user_name",
        user_name_key: "u.user_name_key",
        direct_messages_from: "u.direct_messages_from",
        blocks_someone: "u.block_count > 0",
        is_banned: "u.banned_at IS NOT NULL",
        is_bot: "u.is_bot",
    }
}

columns! {
    Account {
        name: UserName::COLUMNS,
        role: "u.role",
        banned_at: "u.banned_at",
    }
}

/// One user by folded name.
pub async fn by_key(conn: &mut Conn, user_name_key: &str) -> Result<Option<User>> {
    let sql = sql!("SELECT ", User::COLUMNS, " FROM messaging.users u WHERE u.user_name_key = $1");
    conn.first(sql, &[Value::Text(user_name_key)], read).await
}

/// Those of the folded names that exist.
pub async fn names_by_keys(conn: &mut Conn, user_name_keys: &[&str]) -> Result<Vec<UserName>> {
    let sql = sql!("SELECT ", UserName::COLUMNS, " FROM messaging.users u WHERE u.user_name_key = ANY($1)");
    conn.rows(sql, &[Value::Texts(user_name_keys)], read).await
}

/// Those of the ids that exist.
pub async fn people_by_ids(conn: &mut Conn, ids: &[i64]) -> Result<Vec<UserName>> {
    let sql = sql!("SELECT ", UserName::COLUMNS, " FROM messaging.users u WHERE u.id = ANY($1)");
    conn.rows(sql, &[Value::I64s(ids)], read).await
}

/// The names of people by id.
pub async fn names_by_ids(conn: &mut Conn, ids: &[i64]) -> Result<Vec<(UserId, String)>> {
    conn.rows("SELECT id, user_name FROM messaging.users WHERE id = ANY($1)", &[Value::I64s(ids)], read).await
}

/// Users by id, after `after`.
pub async fn list(conn: &mut Conn, after: UserId, limit: i64) -> Result<Vec<User>> {
    let sql = sql!("SELECT ", User::COLUMNS, " FROM messaging.users u WHERE u.id > $1 ORDER BY u.id LIMIT $2");
    conn.rows(sql, &[Value::I64(after.0), Value::I64(limit)], read).await
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
        sql!(
            "SELECT ",
            User::COLUMNS,
            " FROM messaging.users u
              WHERE u.id > $5 AND u.id IN (
                    SELECT id FROM messaging.users WHERE user_name_key >= $1 AND user_name_key < $2
                    UNION SELECT id FROM messaging.users WHERE full_name_key >= $3 AND full_name_key < $4
                    UNION SELECT id FROM messaging.users WHERE last_name_key >= $3 AND last_name_key < $4)
              ORDER BY u.id LIMIT $6"
        ),
        &[
            Value::Text(user_name.0),
            Value::Text(user_name.1),
            Value::Text(name.0),
            Value::Text(name.1),
            Value::I64(after.0),
            Value::I64(limit),
        ],
        read,
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
/// [`crate::base::error::Error::Duplicate`] with `users_user_name_key` or `users_email_key`.
pub async fn insert(conn: &mut Conn, user: &NewUser) -> Result<UserId> {
    conn.one(
        "INSERT INTO messaging.users (first_name, last_name, user_name, email, mfa, created_at, modified_at,
                                      user_name_key, email_key, full_name_key, last_name_key, role)
         VALUES ($1, $2, $3, $4, FALSE, $5, $5, $6, $7, $8, $9, $10) RETURNING id",
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
            Value::Text(user.role.as_str()),
        ],
        |row| row.i64(0).map(UserId),
    )
    .await
}

/// A new user under whose name a program writes, and who takes no direct messages.
///
/// # Errors
/// [`crate::base::error::Error::Duplicate`] with `users_user_name_key`.
pub async fn insert_bot(conn: &mut Conn, user: &NewUser) -> Result<UserId> {
    let id = insert(conn, user).await?;
    conn.execute(
        "UPDATE messaging.users SET is_bot = TRUE, direct_messages_from = $2 WHERE id = $1",
        &[Value::I64(id.0), Value::Text(DirectMessagesFrom::Friends.as_str())],
    )
    .await?;
    Ok(id)
}

/// How many there are.
pub async fn count(conn: &mut Conn) -> Result<i64> {
    conn.one("SELECT count(*) FROM messaging.users", &[], |row| row.i64(0)).await
}

/// A person who may call, by id.
pub async fn account_by_id(conn: &mut Conn, id: UserId) -> Result<Option<Account>> {
    let sql = sql!("SELECT ", Account::COLUMNS, " FROM messaging.users u WHERE u.id = $1");
    conn.first(sql, &[Value::I64(id.0)], read).await
}

/// A person who may call, by folded name.
pub async fn account_by_key(conn: &mut Conn, user_name_key: &str) -> Result<Option<Account>> {
    let sql = sql!("SELECT ", Account::COLUMNS, " FROM messaging.users u WHERE u.user_name_key = $1");
    conn.first(sql, &[Value::Text(user_name_key)], read).await
}

/// One user by folded address.
pub async fn by_email(conn: &mut Conn, email_key: &str) -> Result<Option<User>> {
    let sql = sql!("SELECT ", User::COLUMNS, " FROM messaging.users u WHERE u.email_key = $1");
    conn.first(sql, &[Value::Text(email_key)], read).await
}

/// Those of the ids that exist, whole.
pub async fn by_ids(conn: &mut Conn, ids: &[i64]) -> Result<Vec<User>> {
    let sql = sql!("SELECT ", User::COLUMNS, " FROM messaging.users u WHERE u.id = ANY($1)");
    conn.rows(sql, &[Value::I64s(ids)], read).await
}

/// One user by id.
pub async fn by_id(conn: &mut Conn, id: UserId) -> Result<Option<User>> {
    let sql = sql!("SELECT ", User::COLUMNS, " FROM messaging.users u WHERE u.id = $1");
    conn.first(sql, &[Value::I64(id.0)], read).await
}

/// Changes what may change.
///
/// # Errors
/// [`crate::base::error::Error::Duplicate`] with `users_email_key`.
pub async fn update(conn: &mut Conn, id: UserId, profile: &Profile, now: Timestamp) -> Result<()> {
    conn.execute(
        "UPDATE messaging.users SET first_name = $2, last_name = $3, email = $4, email_key = $5, full_name_key = $6,
                last_name_key = $7, direct_messages_from = $8, email_confirmed_at = $9, modified_at = $10
          WHERE id = $1",
        &[
            Value::I64(id.0),
            Value::Text(&profile.first_name),
            Value::Text(&profile.last_name),
            Value::OptionText(profile.email.as_deref()),
            Value::OptionText(profile.email_key.as_deref()),
            Value::Text(&profile.full_name_key),
            Value::Text(&profile.last_name_key),
            Value::OptionText(profile.direct_messages_from.map(DirectMessagesFrom::as_str)),
            Value::OptionTime(profile.email_confirmed_at),
            Value::Time(now),
        ],
    )
    .await?;
    Ok(())
}

/// Notes that a person proved an address to be theirs, if it still is the one they have.
pub async fn confirm_email(conn: &mut Conn, id: UserId, email_key: &str, now: Timestamp) -> Result<bool> {
    let count = conn
        .execute(
            "UPDATE messaging.users SET email_confirmed_at = $3, modified_at = $3 WHERE id = $1 AND email_key = $2",
            &[Value::I64(id.0), Value::Text(email_key), Value::Time(now)],
        )
        .await?;
    Ok(count > 0)
}

/// Says whether a person has a second factor.
pub async fn set_mfa(conn: &mut Conn, id: UserId, mfa: bool, now: Timestamp) -> Result<()> {
    let values = [Value::I64(id.0), Value::Bool(mfa), Value::Time(now)];
    conn.execute("UPDATE messaging.users SET mfa = $2, modified_at = $3 WHERE id = $1", &values).await?;
    Ok(())
}

/// Gives a person a role.
pub async fn set_role(conn: &mut Conn, id: UserId, role: Role, now: Timestamp) -> Result<()> {
    let values = [Value::I64(id.0), Value::Text(role.as_str()), Value::Time(now)];
    conn.execute("UPDATE messaging.users SET role = $2, modified_at = $3 WHERE id = $1", &values).await?;
    Ok(())
}

/// Keeps a person out, or lets them in again.
pub async fn set_banned(conn: &mut Conn, id: UserId, banned_at: Option<Timestamp>) -> Result<()> {
    let values = [Value::I64(id.0), Value::OptionTime(banned_at)];
    conn.execute("UPDATE messaging.users SET banned_at = $2 WHERE id = $1", &values).await?;
    Ok(())
}

/// Locks a person's row until the transaction ends; whether there is one. SQLite's writer is alone anyway.
pub async fn lock(conn: &mut Conn, id: UserId) -> Result<bool> {
    let sql = "SELECT id FROM messaging.users WHERE id = $1 FOR UPDATE";
    Ok(conn.first(sql, &[Value::I64(id.0)], |row| row.i64(0)).await?.is_some())
}

/// Keeps people from being erased until the transaction ends; who is there.
pub async fn lock_shared(conn: &mut Conn, ids: &[i64]) -> Result<BTreeSet<i64>> {
    let sql = "SELECT id FROM messaging.users WHERE id = ANY($1) ORDER BY id FOR SHARE";
    Ok(conn.rows(sql, &[Value::I64s(ids)], |row| row.i64(0)).await?.into_iter().collect())
}
