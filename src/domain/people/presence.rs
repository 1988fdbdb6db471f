//! Presence: whether a user is online, and when they were last seen.
//!
//! Invariants:
//! - If a viewer may not see a user's presence, they get the same answer as for a user who was never online.
//! - Other users see one state of a user, which is computed over all servers. Each change of this state is published
//!   once.

use std::collections::{BTreeMap, HashMap};

use crate::app::App;
use crate::base::error::Result;
use crate::base::ids::UserId;
use crate::base::text::fold_ascii;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::users::not_found;
use crate::store;
use crate::store::db::Conn;
use crate::store::people::presence as rows;
pub use crate::store::people::presence::State;
use crate::store::people::presence::{LastSeen, Presence};

/// The maximum number of members of a conversation whose members see each other's presence.
pub const MEMBER_LIMIT: i64 = 100;
/// The maximum number of users to whom a change of one user's presence is published.
pub const AUDIENCE_LIMIT: i64 = 100;
/// The maximum number of users in one request for the presence of several users.
pub const ASKED_LIMIT: usize = 100;
/// The maximum number of users whose presence is written in one transaction.
pub const BATCH: usize = 500;
/// How long the presence on a server is valid after the server last renewed its row: 90 s.
const SERVER_VALID_MICROS: i64 = 90_000_000;
/// How long to wait after a server has stopped before its users are published as offline. Meanwhile they may connect to
/// another server.
const RECONNECT_MICROS: i64 = 2_000_000;

/// The presence of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Online, away or offline.
    pub state: State,
    /// When the user was last seen; `None` if never.
    pub last_seen_at: Option<Timestamp>,
}

const NEVER_SEEN: Seen = Seen { state: State::Offline, last_seen_at: None };

/// The presence of a user, as far as the caller may see it; `me` stands for the caller.
///
/// # Errors
/// 404 `user_not_found`; 403 `act_as_required`.
pub async fn seen(app: &App, principal: &Principal, user_name: &str) -> Result<Seen> {
    let found = seen_among(app, principal, &[user_name.to_owned()]).await?;
    found.into_iter().next().map(|(_, seen)| seen).ok_or_else(not_found)
}

/// The names and the presence of several users, as far as the caller may see it, in the order of `user_names`; `me` stands for the
/// caller. Names of nobody are left out, and a name that occurs again is not repeated.
///
/// # Errors
/// 403 `act_as_required`.
pub async fn seen_among(app: &App, principal: &Principal, user_names: &[String]) -> Result<Vec<(String, Seen)>> {
    let mut keys: Vec<String> = Vec::with_capacity(user_names.len());
    for user_name in user_names {
        let key = fold_ascii(principal.resolve(user_name)?);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    app.db
        .read((keys, principal.viewer(), app.clock.now()), |conn, (keys, viewer, now)| {
            Box::pin(async move {
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                let mut users = store::identity::users::summaries_by_keys(conn, &keys).await?;
                users.sort_by_cached_key(|user| keys.iter().position(|key| *key == fold_ascii(&user.user_name)));
                let ids: Vec<UserId> = users.iter().map(|user| user.id).collect();
                let may_see = visible_among(conn, *viewer, &ids).await?;
                let seen = seen_by(conn, *viewer, &may_see, *now).await?;
                let presence = |user: &UserId| seen.get(user).copied().unwrap_or(NEVER_SEEN);
                Ok(users.into_iter().map(|user| (user.user_name, presence(&user.id))).collect())
            })
        })
        .await
}

/// Those of the users whose presence a viewer may see: the viewer's own, that of friends, and that of users with whom they share a
/// conversation of at most [`MEMBER_LIMIT`] members. [`seen_by`] takes blocks into account.
async fn visible_among(conn: &mut Conn, viewer: Viewer, users: &[UserId]) -> Result<Vec<UserId>> {
    let Viewer::Person(person) = viewer else {
        return Ok(users.to_vec());
    };
    let pairs: Vec<(UserId, UserId)> = users.iter().map(|user| (person, *user)).collect();
    let between = store::people::friends::between(conn, &pairs).await?;
    let ids: Vec<i64> = users.iter().map(|user| user.0).collect();
    let sharing = rows::sharing_conversation(conn, person, &ids, MEMBER_LIMIT).await?;
    let may_see =
        |user: &UserId| *user == person || between.friends.contains(&(person, *user)) || sharing.contains(user);
    Ok(users.iter().copied().filter(may_see).collect())
}

/// The presence of users, as seen by a viewer who [may see](visible_among) it. If one of two users blocks the other, each appears
/// to have gone offline when the block began. The time at which they were last seen before the block stays visible, because hiding it
/// would reveal the block.
async fn seen_by(conn: &mut Conn, viewer: Viewer, users: &[UserId], now: Timestamp) -> Result<HashMap<UserId, Seen>> {
    let ids: Vec<i64> = users.iter().map(|user| user.0).collect();
    let now = rows::clock(conn, now).await?;
    let present = rows::of_people(conn, &ids).await?;
    let stored: HashMap<UserId, Timestamp> = rows::last_seen_of(conn, &ids).await?.into_iter().collect();
    let presence_of = |user: UserId| {
        let times = present.iter().filter(|one| one.user == user).map(|one| one.seen_at);
        Seen { state: overall_state(&present, user, now), last_seen_at: times.chain(stored.get(&user).copied()).max() }
    };
    let mut seen: HashMap<UserId, Seen> = users.iter().map(|user| (*user, presence_of(*user))).collect();
    if let Viewer::Person(person) = viewer {
        for (user, last_seen_at) in store::people::friends::seen_before_blocks(conn, person, &ids).await? {
            seen.insert(user, Seen { state: State::Offline, last_seen_at });
        }
    }
    Ok(seen)
}

/// The time at which `user` was last seen, as `caller` sees it now. A block stores this time, and `caller` sees it as
/// long as the block lasts.
///
/// # Errors
/// Errors of the database.
pub async fn last_seen_by(conn: &mut Conn, caller: UserId, user: UserId, now: Timestamp) -> Result<Option<Timestamp>> {
    match seen_by(conn, Viewer::Person(caller), &[user], now).await?.get(&user) {
        Some(Seen { state: State::Online | State::Away, .. }) => Ok(Some(rows::clock(conn, now).await?)),
        seen => Ok(seen.and_then(|seen| seen.last_seen_at)),
    }
}

/// When a user was last seen, for their export.
///
/// # Errors
/// Errors of the database.
pub async fn last_seen_at(conn: &mut Conn, user: UserId, now: Timestamp) -> Result<Option<Timestamp>> {
    Ok(seen_by(conn, Viewer::Everything, &[user], now).await?.get(&user).and_then(|seen| seen.last_seen_at))
}

/// The state of a user over all servers: the highest of the user's states on servers whose rows are still valid.
fn overall_state(rows: &[Presence], user: UserId, now: Timestamp) -> State {
    let is_valid_row = |one: &&Presence| one.user == user && !one.stopped && is_valid(one.seen_at, now);
    rows.iter().filter(is_valid_row).map(|one| one.state).max().unwrap_or(State::Offline)
}

/// Whether the row of a server is still valid. A time far in the future was written before the clock was set back. Such
/// a row is not valid, because otherwise it would stay valid until the clock reaches that time again.
fn is_valid(seen_at: Timestamp, now: Timestamp) -> bool {
    seen_at > now.plus_micros(-SERVER_VALID_MICROS) && seen_at < now.plus_micros(SERVER_VALID_MICROS)
}

/// A change of a user's presence on one server.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The user.
    pub user: UserId,
    /// Their new state on the server; `None` if they are no longer connected to it.
    pub state: Option<State>,
    /// When it changed.
    pub at: Timestamp,
}

/// A change of a user's presence over all servers, to be published.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The user.
    pub user: UserId,
    /// Their user name.
    pub user_name: String,
    /// Their new state.
    pub state: State,
    /// When they were last seen.
    pub last_seen_at: Timestamp,
    /// When the change is published.
    pub at: Timestamp,
}

/// The changes that a server writes in one transaction.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The name of the server.
    pub server: String,
    /// True until a write under this name is known to have succeeded. Until then, the row of the server may not exist.
    pub first: bool,
    /// At most [`BATCH`] changes, one for each user.
    pub changes: Vec<Change>,
}

/// Writes changes of presence on one server. Returns the resulting changes over all servers. Returns `None` and writes
/// nothing if other servers have declared this one stopped meanwhile. Then the server must take a new name and write all
/// its users again.
///
/// # Errors
/// Errors of the database.
pub async fn write(app: &App, batch: Batch) -> Result<Option<Vec<Changed>>> {
    app.db
        .write((batch, app.clock.now()), |conn, (batch, now)| {
            Box::pin(async move {
                let now = rows::clock(conn, *now).await?;
                let counts = if batch.first {
                    rows::insert_server(conn, &batch.server, now).await?
                } else {
                    rows::refresh_server(conn, &batch.server, now).await?
                };
                if !counts {
                    return Ok(None);
                }
                apply_changes(conn, &batch.server, &batch.changes, now).await.map(Some)
            })
        })
        .await
}

/// Applies changes on one server, and computes what changes over all servers.
async fn apply_changes(conn: &mut Conn, server: &str, changes: &[Change], now: Timestamp) -> Result<Vec<Changed>> {
    let changes: BTreeMap<UserId, Change> = changes.iter().map(|change| (change.user, *change)).collect();
    let all: Vec<i64> = changes.keys().map(|user| user.0).collect();
    // Nothing is written for users who are erased.
    let mut names = rows::lock_names(conn, &all).await?;
    let ids: Vec<i64> = names.keys().map(|user| user.0).collect();
    let published = rows::lock_last_seen(conn, &ids, now).await?;
    let present: Vec<(UserId, State)> =
        names.keys().filter_map(|user| Some((*user, changes.get(user)?.state?))).collect();
    let gone: Vec<i64> = changes.values().filter(|change| change.state.is_none()).map(|change| change.user.0).collect();
    rows::put(conn, server, &present).await?;
    rows::delete(conn, server, &gone).await?;
    let everywhere = rows::of_people(conn, &ids).await?;
    let mut by_person: BTreeMap<UserId, Vec<Presence>> = BTreeMap::new();
    for one in everywhere {
        by_person.entry(one.user).or_default().push(one);
    }
    let (mut written, mut changed) = (Vec::with_capacity(published.len()), Vec::new());
    for before in published {
        let user = before.user;
        let state = overall_state(by_person.get(&user).map_or(&[], Vec::as_slice), user, now);
        let last_seen_at = changes.get(&user).map_or(before.at, |change| change.at.max(before.at));
        written.push(LastSeen { user, state, at: last_seen_at });
        if state != before.state {
            let user_name = names.remove(&user).unwrap_or_default();
            changed.push(Changed { user, user_name, state, last_seen_at, at: now });
        }
    }
    rows::put_last_seen(conn, &written).await?;
    Ok(changed)
}

/// Renews the row of a server. Returns false if other servers have declared it stopped meanwhile.
///
/// # Errors
/// Errors of the database.
pub async fn refresh(app: &App, server: &str) -> Result<bool> {
    app.db
        .write((server.to_owned(), app.clock.now()), |conn, (server, now)| {
            Box::pin(async move {
                let now = rows::clock(conn, *now).await?;
                rows::refresh_server(conn, server, now).await
            })
        })
        .await
}

/// Marks a server as stopped. Users who are connected only to it become offline.
///
/// # Errors
/// Errors of the database.
pub async fn stop(app: &App, server: &str) -> Result<()> {
    app.db
        .write((server.to_owned(), app.clock.now()), |conn, (server, now)| {
            Box::pin(async move {
                let now = rows::clock(conn, *now).await?;
                rows::stop_server(conn, server, now).await
            })
        })
        .await
}

/// Finds a server, other than `own`, that has stopped or disappeared, and removes up to [`BATCH`] of its users from it.
/// Returns the resulting changes over all servers. Returns `None` and writes nothing if there is no such server, or
/// while the clocks of the node and of the database disagree.
///
/// # Errors
/// Errors of the database.
pub async fn sweep(app: &App, own: &str) -> Result<Option<Vec<Changed>>> {
    if !app.clock.is_trusted() {
        return Ok(None);
    }
    let (servers, now) = app
        .db
        .read(app.clock.now(), |conn, now| {
            Box::pin(async move { Ok((rows::servers(conn).await?, rows::clock(conn, *now).await?)) })
        })
        .await?;
    let is_gone = |server: &rows::Server| {
        let stopped_long_ago = server.stopped && server.seen_at <= now.plus_micros(-RECONNECT_MICROS);
        server.server != own && (stopped_long_ago || !is_valid(server.seen_at, now))
    };
    let Some(gone) = servers.into_iter().find(is_gone) else { return Ok(None) };
    app.db.write((gone, now), |conn, (gone, now)| Box::pin(remove_users_of(conn, gone, *now))).await.map(Some)
}

async fn remove_users_of(conn: &mut Conn, gone: &rows::Server, now: Timestamp) -> Result<Vec<Changed>> {
    let counting = (now.plus_micros(-SERVER_VALID_MICROS), now.plus_micros(SERVER_VALID_MICROS));
    if !gone.stopped && !rows::give_up_server(conn, &gone.server, counting).await? {
        return Ok(Vec::new());
    }
    let people = rows::people_at(conn, &gone.server, BATCH as i64).await?;
    if people.is_empty() {
        rows::delete_server(conn, &gone.server).await?;
        return Ok(Vec::new());
    }
    let changes: Vec<Change> = people.into_iter().map(|user| Change { user, state: None, at: gone.seen_at }).collect();
    apply_changes(conn, &gone.server, &changes, now).await
}

/// The users to whom a change of each of these users is published: at most [`AUDIENCE_LIMIT`] for each.
///
/// # Errors
/// Errors of the database.
pub async fn audiences(app: &App, people: Vec<UserId>) -> Result<Vec<(UserId, Vec<i64>)>> {
    app.db
        .read(people, |conn, people| {
            Box::pin(async move {
                let mut found = Vec::with_capacity(people.len());
                for user in people {
                    found.push((*user, rows::audience(conn, *user, MEMBER_LIMIT, AUDIENCE_LIMIT).await?));
                }
                Ok(found)
            })
        })
        .await
}
