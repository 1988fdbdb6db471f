//! Rows of `messaging.friendships` and `messaging.blocks`.
//!
//! Invariants: two friends have one row in each direction; a request has one row, of the user who asked. Before a
//! transaction changes these rows, it locks the rows of both users in `messaging.users`, in the order of their ids. So when
//! two users ask each other at the same moment, the second transaction sees the request of the first one.

use std::collections::BTreeSet;

use crate::base::error::Result;
use crate::base::ids::UserId;
use crate::base::time::Timestamp;
use crate::store::db::columns::{read, sql};
use crate::store::db::{Conn, Row, words};
use crate::store::driver::values::Value;
use crate::store::identity::users::User;

/// The state of a row: the relation of `user_id` to `friend_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The user has asked, and has no answer yet.
    Asked,
    /// The two are friends.
    Friends,
}

impl State {
    /// The word in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Friends => "friends",
        }
    }

    /// The state with this word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`](crate::base::error::Error::UnknownValue).
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("friendships.state", &[Self::Asked, Self::Friends], Self::as_str, word)
    }
}

fn state(row: &Row<'_>) -> Result<State> {
    State::parse(row.text(0)?)
}

/// The state of the row from `user` to `friend`.
pub async fn state_of(conn: &mut Conn, user: UserId, friend: UserId) -> Result<Option<State>> {
    conn.first(
        "SELECT state FROM messaging.friendships WHERE user_id = $1 AND friend_id = $2",
        &[Value::I64(user.0), Value::I64(friend.0)],
        state,
    )
    .await
}

/// Sets the state of the row from `user` to `friend`.
pub async fn put(conn: &mut Conn, user: UserId, friend: UserId, state: State, now: Timestamp) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.friendships (user_id, friend_id, state, at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (user_id, friend_id) DO UPDATE SET state = excluded.state, at = excluded.at",
        &[Value::I64(user.0), Value::I64(friend.0), Value::Text(state.as_str()), Value::Time(now)],
    )
    .await?;
    Ok(())
}

/// Deletes the friendship or the requests between two users, in both directions. Returns whether there was a row.
pub async fn delete(conn: &mut Conn, one: UserId, other: UserId) -> Result<bool> {
    let mut count = 0;
    for (user, friend) in [(one, other), (other, one)] {
        count += conn
            .execute(
                "DELETE FROM messaging.friendships WHERE user_id = $1 AND friend_id = $2",
                &[Value::I64(user.0), Value::I64(friend.0)],
            )
            .await?;
    }
    Ok(count > 0)
}

/// The number of users whom a user has asked or who are friends of the user.
pub async fn count(conn: &mut Conn, user: UserId) -> Result<i64> {
    conn.one("SELECT count(*) FROM messaging.friendships WHERE user_id = $1", &[Value::I64(user.0)], |row| row.i64(0))
        .await
}

/// The friends of a user in the order of their ids, after `after`.
pub async fn list(conn: &mut Conn, user_id: UserId, after: UserId, limit: i64) -> Result<Vec<User>> {
    conn.rows(
        sql!(
            "SELECT ",
            User::COLUMNS,
            " FROM messaging.users u JOIN messaging.friendships f ON f.friend_id = u.id
              WHERE f.user_id = $1 AND f.state = 'friends' AND f.friend_id > $2 ORDER BY f.friend_id LIMIT $3"
        ),
        &[Value::I64(user_id.0), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// The users whom a user has asked, in the order of their ids, after `after`.
pub async fn outgoing(conn: &mut Conn, user_id: UserId, after: UserId, limit: i64) -> Result<Vec<User>> {
    conn.rows(
        sql!(
            "SELECT ",
            User::COLUMNS,
            " FROM messaging.users u JOIN messaging.friendships f ON f.friend_id = u.id
              WHERE f.user_id = $1 AND f.state = 'asked' AND f.friend_id > $2 ORDER BY f.friend_id LIMIT $3"
        ),
        &[Value::I64(user_id.0), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// The users who have asked a user and whom the user does not block, in the order of their ids, after `after`.
pub async fn incoming(conn: &mut Conn, user_id: UserId, after: UserId, limit: i64) -> Result<Vec<User>> {
    conn.rows(
        sql!(
            "SELECT ",
            User::COLUMNS,
            " FROM messaging.users u JOIN messaging.friendships f ON f.user_id = u.id
              WHERE f.friend_id = $1 AND f.state = 'asked' AND f.user_id > $2
                AND NOT EXISTS (SELECT 1 FROM messaging.blocks b WHERE b.user_id = $1 AND b.blocked_id = f.user_id)
              ORDER BY f.user_id LIMIT $3"
        ),
        &[Value::I64(user_id.0), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// Whether `user` blocks `other`.
pub async fn blocks(conn: &mut Conn, user: UserId, other: UserId) -> Result<bool> {
    let found = conn
        .first(
            "SELECT blocked_id FROM messaging.blocks WHERE user_id = $1 AND blocked_id = $2",
            &[Value::I64(user.0), Value::I64(other.0)],
            |row| row.i64(0),
        )
        .await?;
    Ok(found.is_some())
}

/// Those of the users `ids` who block `viewer` or whom `viewer` blocks, each with the last-seen time that `viewer` sees meanwhile: the
/// time from before the block, if there is one. A user is listed twice if both block each other.
pub async fn seen_before_blocks(
    conn: &mut Conn,
    viewer: UserId,
    ids: &[i64],
) -> Result<Vec<(UserId, Option<Timestamp>)>> {
    conn.rows(
        "SELECT blocked_id, blocked_seen_at FROM messaging.blocks WHERE user_id = $1 AND blocked_id = ANY($2)
         UNION ALL
         SELECT user_id, user_seen_at FROM messaging.blocks WHERE blocked_id = $1 AND user_id = ANY($2)",
        &[Value::I64(viewer.0), Value::I64s(ids)],
        read,
    )
    .await
}

/// A block to insert.
#[derive(Clone, Copy, Debug)]
pub struct NewBlock {
    /// The user who blocks.
    pub user: UserId,
    /// The user who is blocked. There must be no block yet.
    pub blocked: UserId,
    /// When the block begins.
    pub at: Timestamp,
    /// When `user` was last seen. `blocked` sees this time as long as the block lasts.
    pub user_seen_at: Option<Timestamp>,
    /// When `blocked` was last seen. `user` sees this time as long as the block lasts.
    pub blocked_seen_at: Option<Timestamp>,
}

/// Inserts a block, and counts it in the row of the user who blocks.
pub async fn block(conn: &mut Conn, block: &NewBlock) -> Result<()> {
    conn.execute(
        "INSERT INTO messaging.blocks (user_id, blocked_id, at, user_seen_at, blocked_seen_at) VALUES ($1, $2, $3, $4, $5)",
        &[
            Value::I64(block.user.0),
            Value::I64(block.blocked.0),
            Value::Time(block.at),
            Value::OptionTime(block.user_seen_at),
            Value::OptionTime(block.blocked_seen_at),
        ],
    )
    .await?;
    change_block_count(conn, block.user, 1).await
}

/// Ends a block, and returns whether there was one.
pub async fn unblock(conn: &mut Conn, user: UserId, other: UserId) -> Result<bool> {
    let count = conn
        .execute(
            "DELETE FROM messaging.blocks WHERE user_id = $1 AND blocked_id = $2",
            &[Value::I64(user.0), Value::I64(other.0)],
        )
        .await?;
    change_block_count(conn, user, -(count as i64)).await?;
    Ok(count > 0)
}

async fn change_block_count(conn: &mut Conn, user: UserId, by: i64) -> Result<()> {
    if by != 0 {
        conn.execute(
            "UPDATE messaging.users SET block_count = block_count + $2 WHERE id = $1",
            &[Value::I64(user.0), Value::I64(by)],
        )
        .await?;
    }
    Ok(())
}

/// How many users a user blocks.
pub async fn count_blocked(conn: &mut Conn, user: UserId) -> Result<i64> {
    conn.one("SELECT count(*) FROM messaging.blocks WHERE user_id = $1", &[Value::I64(user.0)], |row| row.i64(0)).await
}

/// The users whom a user blocks, in the order of their ids, after `after`.
pub async fn blocked(conn: &mut Conn, user_id: UserId, after: UserId, limit: i64) -> Result<Vec<User>> {
    conn.rows(
        sql!(
            "SELECT ",
            User::COLUMNS,
            " FROM messaging.users u JOIN messaging.blocks b ON b.blocked_id = u.id
              WHERE b.user_id = $1 AND b.blocked_id > $2 ORDER BY b.blocked_id LIMIT $3"
        ),
        &[Value::I64(user_id.0), Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// Locks a user and all users who block this user, in the order of their ids, so that [`forget`] can change their rows
/// without a deadlock. Returns whether the user exists.
pub async fn lock_with_blockers(conn: &mut Conn, user: UserId) -> Result<bool> {
    if let Conn::Sqlite(_) = conn {
        return crate::store::identity::users::lock(conn, user).await;
    }
    let locked = conn
        .rows(
            "SELECT id FROM messaging.users
              WHERE id = ANY(ARRAY(SELECT user_id FROM messaging.blocks WHERE blocked_id = $1) || $1::bigint)
              ORDER BY id FOR UPDATE",
            &[Value::I64(user.0)],
            |row| row.i64(0),
        )
        .await?;
    Ok(locked.contains(&user.0))
}

/// Removes a user from the friends and the blocks of all users.
pub async fn forget(conn: &mut Conn, user: UserId) -> Result<()> {
    conn.execute("DELETE FROM messaging.friendships WHERE user_id = $1", &[Value::I64(user.0)]).await?;
    conn.execute("DELETE FROM messaging.friendships WHERE friend_id = $1", &[Value::I64(user.0)]).await?;
    conn.execute(
        "UPDATE messaging.users SET block_count = block_count - 1
          WHERE id IN (SELECT user_id FROM messaging.blocks WHERE blocked_id = $1)",
        &[Value::I64(user.0)],
    )
    .await?;
    conn.execute("DELETE FROM messaging.blocks WHERE blocked_id = $1", &[Value::I64(user.0)]).await?;
    conn.execute("DELETE FROM messaging.blocks WHERE user_id = $1", &[Value::I64(user.0)]).await?;
    Ok(())
}

/// Blocks and friendships between senders and recipients.
#[derive(Debug, Default)]
pub struct Relations {
    /// Pairs of a sender and a recipient where the recipient blocks the sender.
    pub blocked: BTreeSet<(UserId, UserId)>,
    /// Pairs of a sender and a recipient who are friends.
    pub friends: BTreeSet<(UserId, UserId)>,
}

/// The blocks and friendships of pairs of a sender and a recipient.
pub async fn between(conn: &mut Conn, pairs: &[(UserId, UserId)]) -> Result<Relations> {
    let mut between = Relations::default();
    if let Conn::Sqlite(_) = conn {
        for (sender, recipient) in pairs {
            if blocks(conn, *recipient, *sender).await? {
                between.blocked.insert((*sender, *recipient));
            }
            if state_of(conn, *sender, *recipient).await? == Some(State::Friends) {
                between.friends.insert((*sender, *recipient));
            }
        }
        return Ok(between);
    }
    let senders: Vec<i64> = pairs.iter().map(|(sender, _)| sender.0).collect();
    let recipients: Vec<i64> = pairs.iter().map(|(_, recipient)| recipient.0).collect();
    conn.rows(
        "SELECT TRUE, b.blocked_id, b.user_id FROM unnest($1::bigint[], $2::bigint[]) AS p (sender, recipient)
           JOIN messaging.blocks b ON b.user_id = p.recipient AND b.blocked_id = p.sender
         UNION ALL
         SELECT FALSE, f.user_id, f.friend_id FROM unnest($1::bigint[], $2::bigint[]) AS p (sender, recipient)
           JOIN messaging.friendships f ON f.user_id = p.sender AND f.friend_id = p.recipient AND f.state = 'friends'",
        &[Value::I64s(&senders), Value::I64s(&recipients)],
        |row| {
            let pair = (UserId(row.i64(1)?), UserId(row.i64(2)?));
            if row.bool(0)? {
                between.blocked.insert(pair)
            } else {
                between.friends.insert(pair)
            };
            Ok(())
        },
    )
    .await?;
    Ok(between)
}
