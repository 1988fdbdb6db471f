//! Rows of `messaging.users`.
//!
//! Invariant: the `_key` columns hold text that the domain has folded. Only they are compared for equality and prefixes.

use std::collections::BTreeSet;

use crate::base::error::Result;
use crate::base::ids::{AttachmentId, UserId};
use crate::base::time::Timestamp;
use crate::store::db::columns::{columns, read, sql, word_column};
use crate::store::db::{Conn, words};
use crate::store::driver::values::Value;

/// A user, with all columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Assigned by the database.
    pub id: UserId,
    /// 0..32 characters.
    pub first_name: String,
    /// 0..32 characters.
    pub last_name: String,
    /// 1..32 of `A-Za-z0-9._-`. Names that come from the seed may have other characters.
    pub user_name: String,
    /// At most 254 ASCII characters.
    pub email: Option<String>,
    /// Whether a second factor is enabled.
    pub mfa: bool,
    /// When the account was created.
    pub created_at: Timestamp,
    /// When the account was last changed.
    pub modified_at: Timestamp,
    /// The role on the whole server.
    pub role: Role,
    /// Whether the user is a bot.
    pub is_bot: bool,
    /// Who may send direct messages to the user. `None` for the default of the server.
    pub direct_messages_from: Option<DirectMessagesFrom>,
    /// When the user confirmed the e-mail address.
    pub email_confirmed_at: Option<Timestamp>,
    /// When the user was banned. `None` for a user who is not banned.
    pub banned_at: Option<Timestamp>,
    /// The attachment that is the user's picture. `None` without a picture.
    pub avatar_id: Option<AttachmentId>,
}

/// The role of a user on the whole server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A user without administrative rights.
    User,
    /// An administrator.
    Admin,
}

impl Role {
    /// The word in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }

    /// The role with this word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`](crate::base::error::Error::UnknownValue).
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("users.role", &[Self::User, Self::Admin], Self::as_str, word)
    }
}

/// Who may send direct messages to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectMessagesFrom {
    /// Every user.
    Everyone,
    /// Only friends.
    Friends,
}

impl DirectMessagesFrom {
    /// The word in the database and in JSON.
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

/// A user to insert, including the folded keys.
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
    /// The current time.
    pub created_at: Timestamp,
    /// The role on the whole server.
    pub role: Role,
}

/// The columns that an update of a profile sets, including the folded keys.
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
    /// Who may send direct messages to the user. `None` for the default of the server.
    pub direct_messages_from: Option<DirectMessagesFrom>,
    /// When the user confirmed the e-mail address.
    pub email_confirmed_at: Option<Timestamp>,
}

/// The parts of a user that the access check of every request needs.
#[derive(Clone, Debug)]
pub struct Account {
    /// The id, the name and the settings of the user.
    pub name: UserSummary,
    /// The role on the whole server.
    pub role: Role,
    /// When the user was banned. `None` for a user who is not banned.
    pub banned_at: Option<Timestamp>,
}

impl Account {
    /// Whether requests may come from the user, or from a caller who acts as the user. `false` for a banned user and for a
    /// bot.
    pub const fn may_call(&self) -> bool {
        self.banned_at.is_none() && !self.name.is_bot
    }
}

/// The parts of a user that a send needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSummary {
    /// The id of the user.
    pub id: UserId,
    /// As written.
    pub user_name: String,
    /// Folded.
    pub user_name_key: String,
    /// Who may send direct messages to the user. `None` for the default of the server.
    pub direct_messages_from: Option<DirectMessagesFrom>,
    /// Whether the user blocks at least one other user.
    pub blocks_someone: bool,
    /// Whether the user is banned.
    pub is_banned: bool,
    /// Whether the user is a bot. Only the program that posts to the bot's incoming webhook writes under its name.
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
        avatar_id: "u.avatar_id",
    }
}

columns! {
    UserSummary {
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
        name: UserSummary::COLUMNS,
        role: "u.role",
        banned_at: "u.banned_at",
    }
}

/// The user with this folded name.
pub async fn by_key(conn: &mut Conn, user_name_key: &str) -> Result<Option<User>> {
    let sql = sql!("SELECT ", User::COLUMNS, " FROM messaging.users u WHERE u.user_name_key = $1");
    conn.first(sql, &[Value::Text(user_name_key)], read).await
}

/// The users with these folded names. Names that do not exist are left out.
pub async fn summaries_by_keys(conn: &mut Conn, user_name_keys: &[&str]) -> Result<Vec<UserSummary>> {
    let sql = sql!("SELECT ", UserSummary::COLUMNS, " FROM messaging.users u WHERE u.user_name_key = ANY($1)");
    conn.rows(sql, &[Value::Texts(user_name_keys)], read).await
}

/// The users with these ids. Ids that do not exist are left out.
pub async fn summaries_by_ids(conn: &mut Conn, ids: &[i64]) -> Result<Vec<UserSummary>> {
    let sql = sql!("SELECT ", UserSummary::COLUMNS, " FROM messaging.users u WHERE u.id = ANY($1)");
    conn.rows(sql, &[Value::I64s(ids)], read).await
}

/// The ids and names of the users with these ids. Ids that do not exist are left out.
pub async fn names_by_ids(conn: &mut Conn, ids: &[i64]) -> Result<Vec<(UserId, String)>> {
    conn.rows("SELECT id, user_name FROM messaging.users WHERE id = ANY($1)", &[Value::I64s(ids)], read).await
}

/// Users in the order of their ids, after `after`.
pub async fn list(conn: &mut Conn, after: UserId, limit: i64) -> Result<Vec<User>> {
    let sql = sql!("SELECT ", User::COLUMNS, " FROM messaging.users u WHERE u.id > $1 ORDER BY u.id LIMIT $2");
    conn.rows(sql, &[Value::I64(after.0), Value::I64(limit)], read).await
}

/// Users who have a name that begins with a folded prefix, in the order of their ids, after `after`. The prefix in
/// `user_name` is folded like user names, the one in `name` like full names. Each is a pair: the prefix, and the first text
/// that sorts after all texts with this prefix.
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

/// Whether at least one user exists.
pub async fn any(conn: &mut Conn) -> Result<bool> {
    Ok(conn.first("SELECT id FROM messaging.users LIMIT 1", &[], |row| row.i64(0)).await?.is_some())
}

/// Inserts a new user.
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

/// Inserts a new bot: a user under whose name a program writes. A bot accepts direct messages only from friends and has no
/// friends, so it gets none.
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

/// The number of users.
pub async fn count(conn: &mut Conn) -> Result<i64> {
    conn.one("SELECT count(*) FROM messaging.users", &[], |row| row.i64(0)).await
}

/// The account with this id.
pub async fn account_by_id(conn: &mut Conn, id: UserId) -> Result<Option<Account>> {
    let sql = sql!("SELECT ", Account::COLUMNS, " FROM messaging.users u WHERE u.id = $1");
    conn.first(sql, &[Value::I64(id.0)], read).await
}

/// The account with this folded name.
pub async fn account_by_key(conn: &mut Conn, user_name_key: &str) -> Result<Option<Account>> {
    let sql = sql!("SELECT ", Account::COLUMNS, " FROM messaging.users u WHERE u.user_name_key = $1");
    conn.first(sql, &[Value::Text(user_name_key)], read).await
}

/// The user with this folded address.
pub async fn by_email(conn: &mut Conn, email_key: &str) -> Result<Option<User>> {
    let sql = sql!("SELECT ", User::COLUMNS, " FROM messaging.users u WHERE u.email_key = $1");
    conn.first(sql, &[Value::Text(email_key)], read).await
}

/// The users with these ids, with all columns. Ids that do not exist are left out.
pub async fn by_ids(conn: &mut Conn, ids: &[i64]) -> Result<Vec<User>> {
    let sql = sql!("SELECT ", User::COLUMNS, " FROM messaging.users u WHERE u.id = ANY($1)");
    conn.rows(sql, &[Value::I64s(ids)], read).await
}

/// The user with this id.
pub async fn by_id(conn: &mut Conn, id: UserId) -> Result<Option<User>> {
    let sql = sql!("SELECT ", User::COLUMNS, " FROM messaging.users u WHERE u.id = $1");
    conn.first(sql, &[Value::I64(id.0)], read).await
}

/// Updates the profile of a user. Here and below, `modified_at` never goes back, even when the clock was set back.
///
/// # Errors
/// [`crate::base::error::Error::Duplicate`] with `users_email_key`.
pub async fn update(conn: &mut Conn, id: UserId, profile: &Profile, now: Timestamp) -> Result<()> {
    conn.execute(
        "UPDATE messaging.users SET first_name = $2, last_name = $3, email = $4, email_key = $5, full_name_key = $6,
                last_name_key = $7, direct_messages_from = $8, email_confirmed_at = $9,
                modified_at = CASE WHEN modified_at > $10 THEN modified_at ELSE $10 END
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

/// Records that a user has confirmed an address. Returns `false` when the user no longer has this address.
pub async fn confirm_email(conn: &mut Conn, id: UserId, email_key: &str, now: Timestamp) -> Result<bool> {
    let count = conn
        .execute(
            "UPDATE messaging.users
                SET email_confirmed_at = $3, modified_at = CASE WHEN modified_at > $3 THEN modified_at ELSE $3 END
              WHERE id = $1 AND email_key = $2",
            &[Value::I64(id.0), Value::Text(email_key), Value::Time(now)],
        )
        .await?;
    Ok(count > 0)
}

/// Records whether a user has a second factor.
pub async fn set_mfa(conn: &mut Conn, id: UserId, mfa: bool, now: Timestamp) -> Result<()> {
    let values = [Value::I64(id.0), Value::Bool(mfa), Value::Time(now)];
    conn.execute(
        "UPDATE messaging.users SET mfa = $2, modified_at = CASE WHEN modified_at > $3 THEN modified_at ELSE $3 END
          WHERE id = $1",
        &values,
    )
    .await?;
    Ok(())
}

/// Sets the role of a user.
pub async fn set_role(conn: &mut Conn, id: UserId, role: Role, now: Timestamp) -> Result<()> {
    let values = [Value::I64(id.0), Value::Text(role.as_str()), Value::Time(now)];
    conn.execute(
        "UPDATE messaging.users SET role = $2, modified_at = CASE WHEN modified_at > $3 THEN modified_at ELSE $3 END
          WHERE id = $1",
        &values,
    )
    .await?;
    Ok(())
}

/// Bans a user, or ends the ban.
pub async fn set_banned(conn: &mut Conn, id: UserId, banned_at: Option<Timestamp>) -> Result<()> {
    let values = [Value::I64(id.0), Value::OptionTime(banned_at)];
    conn.execute("UPDATE messaging.users SET banned_at = $2 WHERE id = $1", &values).await?;
    Ok(())
}

/// Locks the row of a user until the transaction ends, and returns whether it exists. On SQLite no lock is needed, because
/// there is only one writer.
pub async fn lock(conn: &mut Conn, id: UserId) -> Result<bool> {
    let sql = "SELECT id FROM messaging.users WHERE id = $1 FOR UPDATE";
    Ok(conn.first(sql, &[Value::I64(id.0)], |row| row.i64(0)).await?.is_some())
}

/// Prevents users from being erased until the transaction ends. Returns the ids that exist.
pub async fn lock_shared(conn: &mut Conn, ids: &[i64]) -> Result<BTreeSet<i64>> {
    let sql = "SELECT id FROM messaging.users WHERE id = ANY($1) ORDER BY id FOR SHARE";
    Ok(conn.rows(sql, &[Value::I64s(ids)], |row| row.i64(0)).await?.into_iter().collect())
}
