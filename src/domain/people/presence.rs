//! Who is there, and when they were there last.
//!
//! Invariants: who may not see a person gets what they would get of somebody who was never there; what others are told of a
//! person is what all servers together have of them, and it is told once.

use std::collections::BTreeMap;

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

/// Members of a conversation up to whom they see each other.
pub const MEMBER_LIMIT: i64 = 100;
/// People to whom a change of somebody is told.
pub const AUDIENCE_LIMIT: i64 = 100;
/// People who are written down in one transaction.
pub const BATCH: usize = 500;
/// How long a server counts after it was seen last.
const SERVER_LASTS_MICROS: i64 = 90_000_000;
/// How long those who were at a server that stopped may take to come back elsewhere before it is told that they went.
const ABSENCE_MICROS: i64 = 2_000_000;

/// Whether somebody is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// As what.
    pub state: State,
    /// When they were last; `None` for who never was.
    pub last_seen_at: Option<Timestamp>,
}

const NEVER: Seen = Seen { state: State::Offline, last_seen_at: None };

/// Whether somebody is there, as far as the caller may see it; `me` is the caller.
///
/// # Errors
/// 404 `user_not_found`.
pub async fn seen(app: &App, principal: &Principal, user_name: &str) -> Result<Seen> {
    let key = fold_ascii(principal.resolve(user_name)?);
    app.db
        .read((key, principal.viewer(), app.clock.now()), |conn, (key, viewer, now)| {
            Box::pin(async move {
                let user = store::identity::users::account_by_key(conn, key).await?.ok_or_else(not_found)?.name.id;
                if !may_see(conn, *viewer, user).await? {
                    return Ok(NEVER);
                }
                shown(conn, *viewer, user, *now).await
            })
        })
        .await
}

/// Whether a viewer may see somebody's presence, blocks aside.
async fn may_see(conn: &mut Conn, viewer: Viewer, user: UserId) -> Result<bool> {
    let person = match viewer {
        Viewer::Person(person) if person != user => person,
        Viewer::Person(_) | Viewer::Everything => return Ok(true),
    };
    let between = store::people::friends::between(conn, &[(person, user)]).await?;
    Ok(!between.friends.is_empty() || rows::share_conversation(conn, person, user, MEMBER_LIMIT).await?)
}

/// What somebody who may see another sees. Where one of the two blocks the other it is as if the other had gone when the block
/// began, and not come back: what was seen before neither vanishes nor changes, which would tell of the block.
async fn shown(conn: &mut Conn, viewer: Viewer, user: UserId, now: Timestamp) -> Result<Seen> {
    if let Viewer::Person(person) = viewer
        && person != user
        && let Some(last_seen_at) = store::people::friends::seen_before_block(conn, person, user).await?
    {
        return Ok(Seen { state: State::Offline, last_seen_at });
    }
    of_person(conn, user, now).await
}

/// When somebody was there last, as far as another is shown who would be shown no more from now on.
///
/// # Errors
/// Of the database.
pub async fn last_seen_by(conn: &mut Conn, caller: UserId, user: UserId, now: Timestamp) -> Result<Option<Timestamp>> {
    let seen = shown(conn, Viewer::Person(caller), user, now).await?;
    match seen.state {
        State::Offline => Ok(seen.last_seen_at),
        State::Online | State::Away => Ok(Some(rows::clock(conn, now).await?)),
    }
}

async fn of_person(conn: &mut Conn, user: UserId, now: Timestamp) -> Result<Seen> {
    let now = rows::clock(conn, now).await?;
    let there = rows::of_people(conn, &[user.0]).await?;
    let times = there.iter().map(|one| one.seen_at);
    let last_seen_at = times.chain(rows::last_seen_at(conn, user).await?).max();
    Ok(Seen { state: whole(&there, user, now), last_seen_at })
}

/// When somebody was there last, for their export.
///
/// # Errors
/// Of the database.
pub async fn last_seen_at(conn: &mut Conn, user: UserId, now: Timestamp) -> Result<Option<Timestamp>> {
    Ok(of_person(conn, user, now).await?.last_seen_at)
}

/// The state of a person as a whole: the best that a server has which still counts.
fn whole(there: &[Presence], user: UserId, now: Timestamp) -> State {
    let counts = |one: &&Presence| one.user == user && !one.stopped && counts(one.seen_at, now);
    there.iter().filter(counts).map(|one| one.state).max().unwrap_or(State::Offline)
}

/// Whether a server counts. One that was seen in the future was seen before the clock was set back, and is not waited for
/// until the clock has caught up.
fn counts(seen_at: Timestamp, now: Timestamp) -> bool {
    seen_at > now.plus_micros(-SERVER_LASTS_MICROS) && seen_at < now.plus_micros(SERVER_LASTS_MICROS)
}

/// What became of somebody at one server.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Who.
    pub user: UserId,
    /// As what they are there; `None` once they are not.
    pub state: Option<State>,
    /// When.
    pub at: Timestamp,
}

/// Somebody has changed as a whole: to be told.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Who.
    pub user: UserId,
    /// Their name.
    pub user_name: String,
    /// As what they are there now.
    pub state: State,
    /// When they were there last.
    pub last_seen_at: Timestamp,
    /// When it is told.
    pub at: Timestamp,
}

/// What a server writes down.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Under what name.
    pub server: String,
    /// Whether no write under this name has succeeded as far as the server knows.
    pub first: bool,
    /// At most [`BATCH`] people, each once.
    pub changes: Vec<Change>,
}

/// Writes down who came to a server and who left it; who changed as a whole by it. `None` when the server was given up
/// meanwhile: it needs a new name, and everybody who is there is to be written down under it.
///
/// # Errors
/// Of the database.
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
                settle(conn, &batch.server, &batch.changes, now).await.map(Some)
            })
        })
        .await
}

/// Changes what a server has of people.
async fn settle(conn: &mut Conn, server: &str, changes: &[Change], now: Timestamp) -> Result<Vec<Changed>> {
    let changes: BTreeMap<UserId, Change> = changes.iter().map(|change| (change.user, *change)).collect();
    let all: Vec<i64> = changes.keys().map(|user| user.0).collect();
    // Of who is erased nothing is written.
    let mut names = rows::lock_names(conn, &all).await?;
    let ids: Vec<i64> = names.keys().map(|user| user.0).collect();
    let told = rows::lock_last_seen(conn, &ids, now).await?;
    let there: Vec<(UserId, State)> =
        names.keys().filter_map(|user| Some((*user, changes.get(user)?.state?))).collect();
    let gone: Vec<i64> = changes.values().filter(|change| change.state.is_none()).map(|change| change.user.0).collect();
    rows::put(conn, server, &there).await?;
    rows::delete(conn, server, &gone).await?;
    let everywhere = rows::of_people(conn, &ids).await?;
    let mut by_person: BTreeMap<UserId, Vec<Presence>> = BTreeMap::new();
    for one in everywhere {
        by_person.entry(one.user).or_default().push(one);
    }
    let (mut written, mut changed) = (Vec::with_capacity(told.len()), Vec::new());
    for before in told {
        let user = before.user;
        let state = whole(by_person.get(&user).map_or(&[], Vec::as_slice), user, now);
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

/// A server is still there; false when it was given up meanwhile.
///
/// # Errors
/// Of the database.
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

/// A server stops: whoever is at it alone is offline.
///
/// # Errors
/// Of the database.
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

/// Removes up to [`BATCH`] people of a server that is not there any more, other than `own`; who changed as a whole by it. `None`
/// when there is no such server, or while the node's clock and the database's disagree. Reads alone while there is none.
///
/// # Errors
/// Of the database.
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
    let is_over = |server: &rows::Server| {
        let stopped_long_ago = server.stopped && server.seen_at <= now.plus_micros(-ABSENCE_MICROS);
        server.server != own && (stopped_long_ago || !counts(server.seen_at, now))
    };
    let Some(over) = servers.into_iter().find(is_over) else { return Ok(None) };
    app.db.write((over, now), |conn, (over, now)| Box::pin(sweep_one(conn, over, *now))).await.map(Some)
}

async fn sweep_one(conn: &mut Conn, over: &rows::Server, now: Timestamp) -> Result<Vec<Changed>> {
    let counting = (now.plus_micros(-SERVER_LASTS_MICROS), now.plus_micros(SERVER_LASTS_MICROS));
    if !over.stopped && !rows::give_up_server(conn, &over.server, counting).await? {
        return Ok(Vec::new());
    }
    let people = rows::people_at(conn, &over.server, BATCH as i64).await?;
    if people.is_empty() {
        rows::delete_server(conn, &over.server).await?;
        return Ok(Vec::new());
    }
    let changes: Vec<Change> = people.into_iter().map(|user| Change { user, state: None, at: over.seen_at }).collect();
    settle(conn, &over.server, &changes, now).await
}

/// To whom changes of some people are told: each with at most [`AUDIENCE_LIMIT`] people.
///
/// # Errors
/// Of the database.
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
