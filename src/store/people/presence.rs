//! Rows of `messaging.presence_servers`, `messaging.presence` and `messaging.last_seen`.
//!
//! Invariant: a transaction that changes the presence of a user holds the lock of the user's row in `messaging.last_seen`.
//! Without the lock, when a user disconnects from two nodes at the same moment, each node could still see the row of the
//! other node and report the user as online.

use std::collections::BTreeMap;

use crate::base::error::{Error, Result};
use crate::base::ids::UserId;
use crate::base::time::Timestamp;
use crate::store::db::columns::{column, columns, read, sql};
use crate::store::db::{Conn, Row};
use crate::store::driver::values::Value;

/// Whether a user is online.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Connected to no node.
    Offline,
    /// Connected, but not active at any device.
    Away,
    /// Connected and active.
    Online,
}

impl State {
    /// The word in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Away => "away",
            Self::Online => "online",
        }
    }

    /// The state with this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Offline, Self::Away, Self::Online].into_iter().find(|state| state.as_str() == word)
    }
}

// An unknown word is read as offline, and is not an error. Offline reveals the least about the user, and the next change of
// the user's presence overwrites the word. An error would stop the presence of all users in the same batch.
column!(State, |row, at| {
    let word = row.text(at)?;
    Ok(State::parse(word).unwrap_or_else(|| {
        let error = Error::unknown_word("the state in presence or last_seen", word).in_row(|| row.describe(&[]));
        tracing::error!(%error, "a person is taken for offline");
        State::Offline
    }))
});

/// The row of a node.
#[derive(Clone, Debug)]
pub struct Server {
    /// The name of the node.
    pub server: String,
    /// When the node last renewed its row.
    pub seen_at: Timestamp,
    /// Whether the node stopped, or another node has declared it dead.
    pub stopped: bool,
}

/// The presence of a user at one node.
#[derive(Clone, Copy, Debug)]
pub struct Presence {
    /// The user.
    pub user: UserId,
    /// The state of the user at this node.
    pub state: State,
    /// When the node last renewed its row.
    pub seen_at: Timestamp,
    /// Whether the node stopped, or another node has declared it dead.
    pub stopped: bool,
}

/// The presence of a user as it was last published to other users.
#[derive(Clone, Copy, Debug)]
pub struct LastSeen {
    /// The user.
    pub user: UserId,
    /// The published state.
    pub state: State,
    /// When the user was last seen.
    pub at: Timestamp,
}

/// The current time, for deciding which nodes are alive. On PostgreSQL it is the time of PostgreSQL, because the clocks of
/// nodes can differ. On SQLite it is `ours`, because all servers that share the file run on one machine.
pub async fn clock(conn: &mut Conn, ours: Timestamp) -> Result<Timestamp> {
    match conn {
        Conn::Sqlite(_) => Ok(ours),
        Conn::Postgres(_) => conn.one("SELECT clock_timestamp()", &[], |row| row.time(0)).await,
    }
}

/// Inserts the row of a node, or renews it if an earlier insert was committed although its answer was lost. Returns `false`
/// when the node has stopped or was declared dead since then.
pub async fn insert_server(conn: &mut Conn, server: &str, now: Timestamp) -> Result<bool> {
    let count = conn
        .execute(
            "INSERT INTO messaging.presence_servers (server, seen_at, stopped) VALUES ($1, $2, FALSE)
             ON CONFLICT (server) DO UPDATE SET seen_at = excluded.seen_at WHERE NOT presence_servers.stopped",
            &[Value::Text(server), Value::Time(now)],
        )
        .await?;
    Ok(count > 0)
}

/// Renews the row of a node. Returns `false` when another node has declared it dead meanwhile.
pub async fn refresh_server(conn: &mut Conn, server: &str, now: Timestamp) -> Result<bool> {
    let count = conn
        .execute(
            "UPDATE messaging.presence_servers SET seen_at = $2 WHERE server = $1 AND NOT stopped",
            &[Value::Text(server), Value::Time(now)],
        )
        .await?;
    Ok(count > 0)
}

/// Marks a node as stopped. From then on its presence rows do not count.
pub async fn stop_server(conn: &mut Conn, server: &str, now: Timestamp) -> Result<()> {
    conn.execute(
        "UPDATE messaging.presence_servers SET seen_at = $2, stopped = TRUE WHERE server = $1 AND NOT stopped",
        &[Value::Text(server), Value::Time(now)],
    )
    .await?;
    Ok(())
}

/// Declares a node dead if it last renewed its row outside the time between two moments. A dead node cannot continue under
/// the same name. Returns `false` when it has renewed its row meanwhile.
pub async fn give_up_server(conn: &mut Conn, server: &str, (from, to): (Timestamp, Timestamp)) -> Result<bool> {
    let count = conn
        .execute(
            "UPDATE messaging.presence_servers SET stopped = TRUE
              WHERE server = $1 AND (seen_at <= $2 OR seen_at >= $3)",
            &[Value::Text(server), Value::Time(from), Value::Time(to)],
        )
        .await?;
    Ok(count > 0)
}

/// All nodes.
pub async fn servers(conn: &mut Conn) -> Result<Vec<Server>> {
    conn.rows("SELECT server, seen_at, stopped FROM messaging.presence_servers", &[], |row| {
        Ok(Server { server: row.text(0)?.to_owned(), seen_at: row.time(1)?, stopped: row.bool(2)? })
    })
    .await
}

/// Deletes the row of a stopped node.
pub async fn delete_server(conn: &mut Conn, server: &str) -> Result<()> {
    conn.execute("DELETE FROM messaging.presence_servers WHERE server = $1 AND stopped", &[Value::Text(server)])
        .await?;
    Ok(())
}

/// Up to `limit` users who are present at a node.
pub async fn people_at(conn: &mut Conn, server: &str, limit: i64) -> Result<Vec<UserId>> {
    conn.rows(
        "SELECT user_id FROM messaging.presence WHERE server = $1 ORDER BY user_id LIMIT $2",
        &[Value::Text(server), Value::I64(limit)],
        |row| row.i64(0).map(UserId),
    )
    .await
}

/// Prevents users from being erased until the transaction ends. Returns the names of the users who exist. This lock is
/// weaker than [`lock_shared`](crate::store::identity::users::lock_shared): changes of an account do not wait for it.
pub async fn lock_names(conn: &mut Conn, ids: &[i64]) -> Result<BTreeMap<UserId, String>> {
    let sql = "SELECT id, user_name FROM messaging.users WHERE id = ANY($1) ORDER BY id FOR KEY SHARE";
    let found = conn.rows(sql, &[Value::I64s(ids)], |row| Ok((UserId(row.i64(0)?), row.text(1)?.to_owned()))).await?;
    Ok(found.into_iter().collect())
}

fn last_seen(row: &Row<'_>) -> Result<LastSeen> {
    let (user, state, at) = read(row)?;
    Ok(LastSeen { user, state, at })
}

/// Locks the published presence of users, and returns it. The ids must be in ascending order. A user without a row gets one.
pub async fn lock_last_seen(conn: &mut Conn, ids: &[i64], now: Timestamp) -> Result<Vec<LastSeen>> {
    if let Conn::Sqlite(_) = conn {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            found.push(
                conn.one(
                    "INSERT INTO messaging.last_seen (user_id, state, at) VALUES ($1, 'offline', $2)
                     ON CONFLICT (user_id) DO UPDATE SET state = last_seen.state RETURNING user_id, state, at",
                    &[Value::I64(*id), Value::Time(now)],
                    last_seen,
                )
                .await?,
            );
        }
        return Ok(found);
    }
    conn.rows(
        "INSERT INTO messaging.last_seen (user_id, state, at)
         SELECT p.user_id, 'offline', $2::timestamptz FROM unnest($1::bigint[]) AS p (user_id)
         ON CONFLICT (user_id) DO UPDATE SET state = last_seen.state RETURNING user_id, state, at",
        &[Value::I64s(ids), Value::Time(now)],
        last_seen,
    )
    .await
}

/// Stores the published presence of users.
pub async fn put_last_seen(conn: &mut Conn, seen: &[LastSeen]) -> Result<()> {
    if let Conn::Sqlite(_) = conn {
        for one in seen {
            conn.execute(
                "UPDATE messaging.last_seen SET state = $2, at = $3 WHERE user_id = $1",
                &[Value::I64(one.user.0), Value::Text(one.state.as_str()), Value::Time(one.at)],
            )
            .await?;
        }
        return Ok(());
    }
    let ids: Vec<i64> = seen.iter().map(|one| one.user.0).collect();
    let states: Vec<&str> = seen.iter().map(|one| one.state.as_str()).collect();
    let times: Vec<Timestamp> = seen.iter().map(|one| one.at).collect();
    conn.execute(
        "UPDATE messaging.last_seen l SET state = n.state, at = n.at
           FROM unnest($1::bigint[], $2::text[], $3::timestamptz[]) AS n (user_id, state, at) WHERE l.user_id = n.user_id",
        &[Value::I64s(&ids), Value::Texts(&states), Value::Times(&times)],
    )
    .await?;
    Ok(())
}

/// Stores that users are present at a node.
pub async fn put(conn: &mut Conn, server: &str, people: &[(UserId, State)]) -> Result<()> {
    if people.is_empty() {
        return Ok(());
    }
    if let Conn::Sqlite(_) = conn {
        for (user, state) in people {
            conn.execute(
                "INSERT INTO messaging.presence (user_id, server, state) VALUES ($1, $2, $3)
                 ON CONFLICT (user_id, server) DO UPDATE SET state = excluded.state",
                &[Value::I64(user.0), Value::Text(server), Value::Text(state.as_str())],
            )
            .await?;
        }
        return Ok(());
    }
    let ids: Vec<i64> = people.iter().map(|(user, _)| user.0).collect();
    let states: Vec<&str> = people.iter().map(|(_, state)| state.as_str()).collect();
    conn.execute(
        "INSERT INTO messaging.presence (user_id, server, state)
         SELECT p.user_id, $2::text, p.state FROM unnest($1::bigint[], $3::text[]) AS p (user_id, state)
         ON CONFLICT (user_id, server) DO UPDATE SET state = excluded.state",
        &[Value::I64s(&ids), Value::Text(server), Value::Texts(&states)],
    )
    .await?;
    Ok(())
}

/// Deletes the presence of users at a node.
pub async fn delete(conn: &mut Conn, server: &str, ids: &[i64]) -> Result<()> {
    if !ids.is_empty() {
        conn.execute(
            "DELETE FROM messaging.presence WHERE user_id = ANY($1) AND server = $2",
            &[Value::I64s(ids), Value::Text(server)],
        )
        .await?;
    }
    Ok(())
}

columns! {
    Presence { user: "p.user_id", state: "p.state", seen_at: "s.seen_at", stopped: "s.stopped" }
}

/// The presence of users at all nodes that have a row.
pub async fn of_people(conn: &mut Conn, ids: &[i64]) -> Result<Vec<Presence>> {
    conn.rows(
        sql!(
            "SELECT ",
            Presence::COLUMNS,
            " FROM messaging.presence p JOIN messaging.presence_servers s ON s.server = p.server WHERE p.user_id = ANY($1)"
        ),
        &[Value::I64s(ids)],
        read,
    )
    .await
}

/// When users were last seen, according to the stored rows. Users who were never seen are left out.
pub async fn last_seen_of(conn: &mut Conn, ids: &[i64]) -> Result<Vec<(UserId, Timestamp)>> {
    conn.rows("SELECT user_id, at FROM messaging.last_seen WHERE user_id = ANY($1)", &[Value::I64s(ids)], read).await
}

/// Those of the users `ids` who share a conversation of at most `member_limit` members with `user`.
pub async fn sharing_conversation(
    conn: &mut Conn,
    user: UserId,
    ids: &[i64],
    member_limit: i64,
) -> Result<Vec<UserId>> {
    conn.rows(
        "SELECT DISTINCT o.user_id FROM messaging.members m
           JOIN messaging.members o ON o.conversation_id = m.conversation_id AND o.user_id = ANY($2)
           JOIN messaging.conversations c ON c.id = m.conversation_id
          WHERE m.user_id = $1 AND c.member_count <= $3 AND c.deleted_at IS NULL",
        &[Value::I64(user.0), Value::I64s(ids), Value::I64(member_limit)],
        read,
    )
    .await
}

/// Up to `limit` users who may see the presence of a user. They are the user's friends, and the users who share a
/// conversation of at most `member_limit` members with the user. Users who block the user or whom the user blocks are left
/// out. Users who are present at a node come first.
pub async fn audience(conn: &mut Conn, user: UserId, member_limit: i64, limit: i64) -> Result<Vec<i64>> {
    conn.rows(
        // The sort key is a count and not an EXISTS. For an EXISTS the planner could choose to read the whole table
        // `presence`.
        "SELECT a.id FROM (
             SELECT f.friend_id AS id FROM messaging.friendships f WHERE f.user_id = $1 AND f.state = 'friends'
             UNION
             SELECT o.user_id FROM messaging.members m
               JOIN messaging.conversations c ON c.id = m.conversation_id
               JOIN messaging.members o ON o.conversation_id = m.conversation_id
              WHERE m.user_id = $1 AND c.member_count <= $2 AND c.deleted_at IS NULL
         ) a
          WHERE a.id <> $1
            AND NOT EXISTS (SELECT 1 FROM messaging.blocks b WHERE b.user_id = $1 AND b.blocked_id = a.id)
            AND NOT EXISTS (SELECT 1 FROM messaging.blocks b WHERE b.user_id = a.id AND b.blocked_id = $1)
          ORDER BY (SELECT count(*) FROM messaging.presence p WHERE p.user_id = a.id) > 0 DESC, a.id LIMIT $3",
        &[Value::I64(user.0), Value::I64(member_limit), Value::I64(limit)],
        |row| row.i64(0),
    )
    .await
}
