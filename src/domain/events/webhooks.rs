//! Webhooks: events on their way to receivers of the operator's.
//!
//! Invariants: the events of a conversation arrive in their order, each at least once, always under the same id; one that
//! cannot be delivered holds up its own conversation alone, and is given up after `WAITS`. Nothing is ever sent to an
//! address that is not on the public internet, unless the operator allows it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::{Host, Url};

use super::event_data::Event;
use super::events::{self, Cursor};
use crate::app::App;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::{MAX_ID, WebhookId};
use crate::base::time::{MAX_CLOCK_SKEW_MICROS, Timestamp};
use crate::domain::identity::audit::{self, Action, By};
use crate::domain::shared::idempotency::{Given, Once};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::store;
use crate::store::db::Conn;
use crate::store::events::events::Kind;
pub use crate::store::events::webhooks::{Delivery, Webhook};

/// Webhooks of a server.
pub const LIMIT: i64 = 20;
/// Characters of a URL.
pub const MAX_URL_CHARACTERS: usize = 2_000;
/// Deliveries that are kept in the ledger of a webhook.
pub const LEDGER_LIMIT: i64 = 1_000;
/// Deliveries that may wait for one webhook: beyond it nothing more is taken up from the log.
pub const PENDING_LIMIT: i64 = 10_000;
/// Events that are taken up at once.
const CHUNK: i64 = 200;
const LIST: &str = "webhooks";
const LEDGER: &str = "webhook-deliveries";

/// How long is waited after each failure: three days in all.
const WAITS: [Duration; 10] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
    Duration::from_hours(1),
    Duration::from_hours(3),
    Duration::from_hours(6),
    Duration::from_hours(12),
    Duration::from_hours(24),
    Duration::from_hours(26),
];

/// A webhook to be made, or what is changed about one: what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// Where.
    pub url: Option<String>,
    /// Which types; `Some(None)` for all.
    pub event_types: Option<Option<Vec<String>>>,
    /// Whether anything is delivered.
    pub enabled: Option<bool>,
}

/// Whether an address is one of the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

const fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224..=255, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !special
}

/// Only what is given out for the public internet, without what carries an IPv4 address in it (mapped, NAT64, 6to4, Teredo).
const fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    a & 0xE000 == 0x2000 && a != 0x2002 && !(a == 0x2001 && (b < 0x200 || b == 0xDB8)) && !(a == 0x3FFF && b < 0x1000)
}

/// Whether a URL may be called at all. What its name stands for is looked at again whenever it is called.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(text: &str, allow_private: bool) -> std::result::Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "must be a URL")?;
    match url.scheme() {
        "https" => {}
        "http" if allow_private => {}
        _ => return Err("must begin with https://"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user name or a password");
    }
    let address = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(name)) if !allow_private && is_local_name(name) => return Err("must be a public host"),
        Some(Host::Domain(_)) => None,
        None => return Err("must have a host"),
    };
    if address.is_some_and(|address| !allow_private && !is_public(address)) {
        return Err("must not be a private address");
    }
    Ok(url)
}

fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

fn apply(fields: Fields, webhook: &mut Webhook, allow_private: bool) -> Result<()> {
    let mut errors = Vec::new();
    if let Some(url) = fields.url {
        if url.chars().count() > MAX_URL_CHARACTERS {
            errors.push(FieldError::new("url", "out_of_range", "must have at most 2000 characters"));
        } else if let Err(detail) = check_url(&url, allow_private) {
            errors.push(FieldError::new("url", "wrong_value", detail));
        }
        webhook.url = url;
    }
    match fields.event_types {
        Some(Some(types)) => {
            if types.is_empty() || types.len() > 64 || types.iter().any(|word| Kind::parse(word).is_none()) {
                errors.push(FieldError::new("event_types", "wrong_value", "must be a list of event types or null"));
            }
            webhook.event_types = Some(types.join(" "));
        }
        Some(None) => webhook.event_types = None,
        None => {}
    }
    webhook.enabled = fields.enabled.unwrap_or(webhook.enabled);
    if errors.is_empty() { Ok(()) } else { Err(Error::Invalid(errors)) }
}

/// The secret as its holder gets it.
pub fn secret_text(secret: &[u8]) -> String {
    format!("whsec_{}", STANDARD.encode(secret))
}

/// The signature of a delivery, by the Standard Webhooks scheme.
pub fn sign(secret: &[u8], id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{id}.{timestamp_s}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

fn not_found() -> Error {
    Error::NotFound { code: "webhook_not_found", detail: "Webhook not found".into() }
}

/// Makes a webhook, which gets what happens from now on.
///
/// # Errors
/// 422 with every field that is wrong; 409 `too_many_webhooks`.
pub async fn create(app: &App, fields: Fields, by: By, once: Once<Webhook>) -> Result<Given> {
    let secret = app.rng.bytes::<32>().map_err(Error::internal)?.to_vec();
    let mut new = Webhook {
        id: WebhookId(0),
        url: String::new(),
        event_types: None,
        secret,
        enabled: true,
        created_at: by.at,
        position: 0,
    };
    apply(fields, &mut new, app.settings.webhook_allow_private)?;
    app.db
        .write((new, by, once), |conn, (new, by, once)| {
            Box::pin(async move {
                if let Some(given) = once.given(conn, by.at).await? {
                    return Ok(given);
                }
                if store::events::webhooks::count(conn).await? >= LIMIT {
                    let detail = format!("There are already {LIMIT} webhooks; delete one first");
                    return Err(Error::Conflict { code: "too_many_webhooks", detail: detail.into() });
                }
                let position = store::events::events::last_position(conn).await?;
                let mut made = Webhook { position, ..new.clone() };
                made.id = store::events::webhooks::insert(conn, &made).await?;
                audit::record(conn, by, Action::WebhookCreated, None, Some(format!("webhook {}", made.id.0))).await?;
                once.give(conn, by.at, &made, by.actor).await
            })
        })
        .await
}

/// Webhooks, by id.
///
/// # Errors
/// 422 for a cursor that is none.
pub async fn list(app: &App, limit: Limit, cursor: Option<&str>) -> Result<Page<Vec<Webhook>>> {
    let after = WebhookId(pagination::begin(LIST, cursor, 0)?);
    let found = app
        .db
        .read((after, limit), |conn, (after, limit)| {
            Box::pin(store::events::webhooks::list(conn, *after, limit.to_read()))
        })
        .await?;
    Ok(Page::new(LIST, found, limit, |last| [last.id.0]))
}

/// Changes a webhook.
///
/// # Errors
/// 404 `webhook_not_found`; 422 with every field that is wrong.
pub async fn update(app: &App, id: WebhookId, fields: Fields, by: By) -> Result<Webhook> {
    let input = (id, fields, by, app.settings.webhook_allow_private);
    app.db
        .write(input, |conn, (id, fields, by, allow_private)| {
            Box::pin(async move {
                let mut found = store::events::webhooks::by_id(conn, *id).await?.ok_or_else(not_found)?;
                apply(fields.clone(), &mut found, *allow_private)?;
                store::events::webhooks::update(conn, &found).await?;
                audit::record(conn, by, Action::WebhookChanged, None, Some(format!("webhook {}", id.0))).await?;
                Ok(found)
            })
        })
        .await
}

/// Removes a webhook with its ledger.
///
/// # Errors
/// 404 `webhook_not_found`.
pub async fn delete(app: &App, id: WebhookId, by: By) -> Result<()> {
    app.db
        .write((id, by), |conn, (id, by)| {
            Box::pin(async move {
                if !store::events::webhooks::delete(conn, *id).await? {
                    return Err(not_found());
                }
                audit::record(conn, by, Action::WebhookRemoved, None, Some(format!("webhook {}", id.0))).await
            })
        })
        .await
}

/// The ledger of a webhook, the newest event first.
///
/// # Errors
/// 404 `webhook_not_found`; 422 for a cursor that is none.
pub async fn ledger(app: &App, id: WebhookId, limit: Limit, cursor: Option<&str>) -> Result<Page<Vec<Delivery>>> {
    let before = pagination::begin(LEDGER, cursor, MAX_ID)?;
    let found = app
        .db
        .read((id, before, limit), |conn, (id, before, limit)| {
            Box::pin(async move {
                store::events::webhooks::by_id(conn, *id).await?.ok_or_else(not_found)?;
                store::events::webhooks::ledger(conn, *id, *before, limit.to_read()).await
            })
        })
        .await?;
    Ok(Page::new(LEDGER, found, limit, |last| [last.position]))
}

/// Sends everything behind a cursor again.
///
/// # Errors
/// 404 `webhook_not_found`; 410 `cursor_expired`; 422 for a cursor that is none.
pub async fn replay(app: &App, id: WebhookId, after: &str) -> Result<()> {
    let cursor = Cursor::read(after)?;
    app.db
        .write((id, cursor), |conn, (id, cursor)| {
            Box::pin(async move {
                let found = store::events::webhooks::by_id(conn, *id).await?.ok_or_else(not_found)?;
                let log = store::events::events::log(conn).await?;
                let kept = log.trimmed_position..=log.last_position;
                if log.epoch != cursor.epoch || !kept.contains(&cursor.position) {
                    return Err(events::cursor_expired());
                }
                // What was not taken up yet is not skipped.
                let to = cursor.position.min(found.position);
                if store::events::webhooks::move_on(conn, *id, found.position, to).await? {
                    return Ok(());
                }
                Err(Error::unavailable("a delivery moved the webhook at the same time"))
            })
        })
        .await
}

/// Those that deliver.
///
/// # Errors
/// Of the database.
pub async fn enabled(app: &App) -> Result<Vec<Webhook>> {
    let all = app.db.read((), |conn, ()| Box::pin(store::events::webhooks::list(conn, WebhookId(0), LIMIT))).await?;
    Ok(all.into_iter().filter(|webhook| webhook.enabled).collect())
}

/// Takes or keeps the lease of a webhook; whether it is the holder's until then. While the node's clock and the database's
/// disagree, it takes only a lease that nobody has.
///
/// # Errors
/// Of the database.
pub async fn lease(app: &App, id: WebhookId, holder: String, until: Timestamp) -> Result<bool> {
    let valid = if app.clock.is_trusted() {
        (app.clock.now(), until.plus_micros(MAX_CLOCK_SKEW_MICROS))
    } else {
        (Timestamp::MIN, Timestamp::MAX)
    };
    app.db
        .write((id, holder, valid, until), |conn, (id, holder, valid, until)| {
            Box::pin(store::events::webhooks::lease(conn, *id, holder, *valid, *until))
        })
        .await
}

/// Gives every lease of a holder back.
///
/// # Errors
/// Of the database.
pub async fn release(app: &App, holder: String) -> Result<()> {
    app.db.write(holder, |conn, holder| Box::pin(store::events::webhooks::release(conn, holder))).await
}

/// Takes up what is behind a webhook's position; whether there is more.
///
/// # Errors
/// Of the database.
pub async fn take_up(app: &App, id: WebhookId) -> Result<bool> {
    // Nothing is written while there is nothing new.
    let (webhook, last) = app
        .db
        .read(id, |conn, id| {
            Box::pin(async move {
                Ok((
                    store::events::webhooks::by_id(conn, *id).await?,
                    store::events::events::last_position(conn).await?,
                ))
            })
        })
        .await?;
    if webhook.is_none_or(|webhook| webhook.position >= last) {
        return Ok(false);
    }
    app.db.write((id, app.clock.now()), |conn, (id, now)| Box::pin(take_up_chunk(conn, *id, *now))).await
}

async fn take_up_chunk(conn: &mut Conn, id: WebhookId, now: Timestamp) -> Result<bool> {
    let Some(webhook) = store::events::webhooks::by_id(conn, id).await? else { return Ok(false) };
    let log = store::events::events::log(conn).await?;
    if store::events::webhooks::count_pending(conn, id, PENDING_LIMIT).await? >= PENDING_LIMIT {
        return Ok(false);
    }
    // What was forgotten before it was taken up cannot be sent.
    let after = webhook.position.max(log.trimmed_position);
    let stretch = store::events::events::between(conn, after, log.last_position, CHUNK).await?;
    if !store::events::webhooks::move_on(conn, id, webhook.position, stretch.up_to).await? {
        return Ok(true);
    }
    let types = webhook.event_types.as_deref();
    let wanted = |kind: &str| types.is_none_or(|types| types.split(' ').any(|word| word == kind));
    for event in stretch.events.iter().filter(|event| wanted(event.kind.as_str())) {
        store::events::webhooks::take_up(conn, id, event, now).await?;
    }
    store::events::webhooks::trim(conn, id, LEDGER_LIMIT).await?;
    Ok(stretch.up_to < log.last_position)
}

/// What may be sent now: the first that waits in each conversation. While the node's clock and the database's disagree,
/// nothing that was tried before.
///
/// # Errors
/// Of the database.
pub async fn due(app: &App, id: WebhookId, limit: i64) -> Result<Vec<Delivery>> {
    let times = if app.clock.is_trusted() {
        let now = app.clock.now();
        (now, now.plus_micros(MAX_CLOCK_SKEW_MICROS))
    } else {
        (Timestamp::MIN, Timestamp::MAX)
    };
    app.db
        .read((id, times, limit), |conn, (id, times, limit)| {
            Box::pin(store::events::webhooks::due(conn, *id, *times, *limit))
        })
        .await
}

/// An event of the log with the log's name; none when it is forgotten, or what it is about is gone.
///
/// # Errors
/// Of the database.
pub async fn event_at(app: &App, position: i64) -> Result<(String, Option<Event>)> {
    app.db
        .read(position, |conn, position| {
            Box::pin(async move {
                let log = store::events::events::log(conn).await?;
                let found = store::events::events::between(conn, *position - 1, *position, 1).await?;
                Ok((log.epoch, events::load(conn, &found.events).await?))
            })
        })
        .await
        .map(|(epoch, loaded)| (epoch, events::counted(app, loaded).pop()))
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// The receiver answered with this status.
    Answered(u16),
    /// It did not answer, or must not be called.
    Failed,
    /// There is nothing to be sent any more.
    Gone,
}

/// Notes how an attempt ended.
///
/// # Errors
/// Of the database.
pub async fn note(app: &App, id: WebhookId, delivery: Delivery, outcome: Outcome) -> Result<()> {
    let now = app.clock.now();
    let wait = usize::try_from(delivery.attempts).ok().and_then(|attempts| WAITS.get(attempts));
    let (state, last_status) = match outcome {
        Outcome::Answered(status @ 200..=299) => ("delivered", Some(status)),
        Outcome::Gone => ("dead", None),
        Outcome::Answered(status) if wait.is_some() => ("pending", Some(status)),
        Outcome::Answered(status) => ("dead", Some(status)),
        Outcome::Failed if wait.is_some() => ("pending", None),
        Outcome::Failed => ("dead", None),
    };
    let wait_us = wait.map_or(0, |wait| i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
    let noted = Delivery {
        state: state.to_owned(),
        attempts: delivery.attempts + 1,
        next_at: now.plus_micros(wait_us),
        last_at: Some(now),
        last_status: last_status.map(i64::from),
        ..delivery
    };
    app.db.write((id, noted), |conn, (id, noted)| Box::pin(store::events::webhooks::note(conn, *id, noted))).await
}
