//! Logging in, and the sessions of users.
//!
//! Invariants:
//! - An attempt to log in with a password costs one argon2 call, whether or not the user exists, unless it is refused
//!   because it comes too early. A wrong name, a wrong password and a wrong code get the same error.
//! - The password and the second factor that a session relies on are checked again in the transaction that creates it.

use std::net::IpAddr;

use super::audit::{self, Action, By};
use super::login_attempts::{self, Subject};
use super::mfa::{self, Code};
use super::password_hashing::check_shown;
use super::tokens::{Token, TokenKind};
use crate::app::App;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::SessionId;
use crate::base::text::fold_ascii;
use crate::base::time::Timestamp;
use crate::domain::access::principal::{Access, Credential, Principal};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::store;
use crate::store::db::Conn;
use crate::store::identity::revocations::Revoked;
pub use crate::store::identity::sessions::Session;
use crate::store::identity::users::User;

/// How long a session lasts without being used: 30 days.
pub const SLIDING_MICROS: i64 = 30 * 86_400 * 1_000_000;
/// How long a session lasts at most: 180 days.
const ABSOLUTE_MICROS: i64 = 180 * 86_400 * 1_000_000;
/// Maximum number of sessions of one user. A further one ends the oldest.
const SESSION_LIMIT: i64 = 100;
/// How many characters of the client's `User-Agent` are kept.
const AGENT_CHARACTERS: usize = 200;
/// Longest user name, address or code that is accepted in a log-in, in characters.
const MAX_LOGIN_CHARACTERS: usize = 254;
const LIST: &str = "sessions";

/// An attempt to log in, as the caller wrote it. It gives no permission.
#[derive(Clone, Debug, Default)]
pub struct LogIn {
    /// The user name. Give exactly one of this and `email`.
    pub user_name: Option<String>,
    /// The e-mail address. Give exactly one of this and `user_name`.
    pub email: Option<String>,
    /// May be left out under open access.
    pub password: Option<String>,
    /// A code of the authenticator app, or a recovery code.
    pub code: Option<String>,
    /// The `User-Agent` of the client.
    pub agent: String,
}

/// A session that was created, with the only copy of its token.
pub struct LoggedIn {
    /// The token that the device sends from now on.
    pub token: String,
    /// When the session ends if it is not used.
    pub expires_at: Timestamp,
    /// When the session ends at the latest.
    pub ends_at: Timestamp,
    /// The user who logged in.
    pub user: User,
}

/// The user who wants to log in, as read before the password is checked.
struct Candidate {
    user: User,
    hash: Option<String>,
    mfa: Option<Vec<u8>>,
}

/// The input of the transaction that creates a session.
struct NewSession {
    token_hash: [u8; 32],
    session: Session,
    /// The hash that the password was verified against; `None` if no password was required.
    hash: Option<String>,
    code: Option<Code>,
    subject: Subject,
    by: By,
}

fn refused() -> Error {
    Error::LogInFailed { code: "invalid_credentials", detail: "The user name, the password or the code is wrong" }
}

/// Logs a user in.
///
/// # Errors
/// 422 for wrong fields; 401 `invalid_credentials`, `mfa_required`; 403 `banned`; 429 `too_many_attempts`.
pub async fn create(app: &App, log_in: LogIn, address: IpAddr) -> Result<LoggedIn> {
    let now = app.clock.now();
    let by = By::stranger(address, now);
    let (key, is_email) = check_form(&log_in)?;
    let without_password = app.settings.access == Access::Open && log_in.password.is_none();
    if log_in.password.is_none() && !without_password {
        return Err(Error::invalid("password", "required", "required"));
    }
    let candidate = find(app, key.clone(), is_email).await?;
    // Attempts by user name and by address count together. Attempts for unknown users count as well.
    let subject = match &candidate {
        Some(candidate) => login_attempts::subject_of(app, candidate.user.id),
        None => login_attempts::subject_of_unknown(app, &key),
    };
    let hash = candidate.as_ref().and_then(|candidate| candidate.hash.clone());
    let (right, attempt) = match log_in.password {
        Some(password) => {
            let (right, attempt) = login_attempts::verify(app, subject, password, hash.clone()).await?;
            (right, Some(attempt))
        }
        None => (true, None),
    };
    let about = candidate.as_ref().map(|candidate| candidate.user.id);
    let Some(candidate) = candidate.filter(|candidate| right && !candidate.user.is_bot) else {
        audit::record_refusal(app, by, Action::SessionRefused, about, None).await;
        return Err(refused());
    };
    if candidate.user.banned_at.is_some() {
        audit::record_refusal(app, by, Action::SessionRefused, about, Some("banned".into())).await;
        return Err(Error::Forbidden { code: "banned", detail: "An administrator has banned this account".into() });
    }
    let code = match (&candidate.mfa, log_in.code, attempt) {
        (None, _, _) | (_, _, None) => None,
        (Some(_), None, Some(attempt)) => {
            login_attempts::uncount(app, attempt).await?;
            return Err(Error::LogInFailed {
                code: "mfa_required",
                detail: "A second factor is enabled; send a code of the authenticator or a recovery code too",
            });
        }
        (Some(secret), Some(code), Some(_)) => Some(mfa::read_code(secret, &code, now).ok_or_else(refused)),
    };
    let id = candidate.user.id;
    let outcome = match code.transpose() {
        Err(error) => Err(error),
        Ok(code) => {
            let hash = hash.filter(|_| !without_password);
            open(app, candidate.user, hash, code, subject, by.clone(), log_in.agent).await
        }
    };
    if let Err(Error::LogInFailed { .. }) = outcome {
        audit::record_refusal(app, by, Action::SessionRefused, Some(id), None).await;
    }
    outcome
}

fn check_form(log_in: &LogIn) -> Result<(String, bool)> {
    let mut errors = Vec::new();
    errors.extend(log_in.password.as_deref().and_then(|password| check_shown("password", password)));
    for (field, text) in [("user_name", &log_in.user_name), ("email", &log_in.email), ("code", &log_in.code)] {
        if text.as_ref().is_some_and(|text| text.chars().count() > MAX_LOGIN_CHARACTERS) {
            errors.push(FieldError::new(field, "too_long", "must have at most 254 characters"));
        } else if text.as_ref().is_some_and(|text| text.contains('\0')) {
            errors.push(FieldError::new(field, "nul_character", "must not contain U+0000"));
        }
    }
    match (&log_in.user_name, &log_in.email) {
        _ if !errors.is_empty() => Err(Error::Invalid(errors)),
        (Some(name), None) => Ok((fold_ascii(name), false)),
        (None, Some(email)) => Ok((fold_ascii(email), true)),
        (name, _) => {
            let code = if name.is_some() { "excluded" } else { "required" };
            Err(Error::invalid("user_name", code, "Give exactly one of user_name and email"))
        }
    }
}

async fn find(app: &App, key: String, is_email: bool) -> Result<Option<Candidate>> {
    app.db
        .read((key, is_email), |conn, (key, is_email)| {
            Box::pin(async move {
                let found = if *is_email {
                    store::identity::users::by_email(conn, key).await?
                } else {
                    store::identity::users::by_key(conn, key).await?
                };
                let Some(user) = found else { return Ok(None) };
                let hash = store::identity::passwords::get(conn, user.id).await?;
                let secret = store::identity::mfa::secret(conn, user.id).await?;
                let mfa = secret.filter(|secret| secret.enabled_at.is_some()).map(|secret| secret.secret);
                Ok(Some(Candidate { user, hash, mfa }))
            })
        })
        .await
}

async fn open(
    app: &App,
    user: User,
    hash: Option<String>,
    code: Option<Code>,
    subject: Subject,
    by: By,
    agent: String,
) -> Result<LoggedIn> {
    let token = Token::new(&app.rng, TokenKind::Session)?;
    let now = by.at;
    let session = Session {
        id: SessionId(0),
        user_id: user.id,
        created_at: now,
        last_seen_at: now,
        expires_at: now.plus_micros(SLIDING_MICROS),
        ends_at: now.plus_micros(ABSOLUTE_MICROS),
        agent: agent.chars().filter(|character| !character.is_control()).take(AGENT_CHARACTERS).collect(),
        address: by.address.clone().unwrap_or_default(),
    };
    let (expires_at, ends_at) = (session.expires_at, session.ends_at);
    let new = NewSession { token_hash: token.hash, session, hash, code, subject, by };
    let others_ended = app.db.write(new, |conn, new| Box::pin(insert(conn, new))).await?;
    if others_ended {
        app.callers.revocations.refresh(&app.db).await?;
    }
    Ok(LoggedIn { token: token.text, expires_at, ends_at, user })
}

/// Inserts the session. If the user then has more than [`SESSION_LIMIT`] sessions, ends the oldest ones. Returns
/// whether any were ended.
async fn insert(conn: &mut Conn, new: &NewSession) -> Result<bool> {
    let user = new.session.user_id;
    let by = new.by.known_as(user);
    // Since the password was checked, the user may have been erased or banned, or the password or the second factor may
    // have been changed. Then the log-in is refused.
    let exists = store::identity::users::lock(conn, user).await?;
    let banned = store::identity::users::account_by_id(conn, user).await?.is_none_or(|account| !account.may_call());
    if !exists || banned {
        return Err(refused());
    }
    if let Some(hash) = &new.hash {
        let same = store::identity::passwords::get(conn, user).await?.as_ref() == Some(hash);
        let needs_code =
            store::identity::mfa::secret(conn, user).await?.is_some_and(|secret| secret.enabled_at.is_some());
        if !same || needs_code != new.code.is_some() {
            return Err(refused());
        }
        store::identity::login_attempts::forget(conn, &new.subject).await?;
    }
    if let Some(code) = &new.code
        && !mfa::use_up(conn, user, code, &by).await?
    {
        return Err(refused());
    }
    store::identity::sessions::insert(conn, &new.token_hash, &new.session).await?;
    let ended = store::identity::sessions::delete_beyond(conn, user, SESSION_LIMIT).await?;
    audit::record(conn, &by, Action::SessionCreated, Some(user), None).await?;
    if ended > 0 {
        store::identity::revocations::insert(conn, Revoked::User(user), by.at).await?;
    }
    Ok(ended > 0)
}

/// Lists the caller's own sessions, by id.
///
/// # Errors
/// 403 `act_as_required`; 422 if the cursor is invalid.
pub async fn list(app: &App, principal: &Principal, limit: Limit, cursor: Option<&str>) -> Result<Page<Vec<Session>>> {
    let person = principal.require_person()?.id;
    let after = SessionId(pagination::begin(LIST, cursor, 0)?);
    let sessions = app
        .db
        .read((person, app.clock.now(), after, limit), |conn, (person, now, after, limit)| {
            Box::pin(store::identity::sessions::list(conn, *person, *now, *after, limit.to_read()))
        })
        .await?;
    Ok(Page::new(LIST, sessions, limit, |last| [last.id.0]))
}

/// Ends one of the caller's sessions; `None` stands for the session that the caller uses.
///
/// # Errors
/// 403 `act_as_required`; 404 `session_not_found`.
pub async fn end(app: &App, principal: &Principal, session: Option<SessionId>) -> Result<()> {
    let person = principal.require_person()?.id;
    let not_found = || Error::NotFound { code: "session_not_found", detail: "Session not found".into() };
    let id = match (session, principal.credential()) {
        (Some(id), _) => id,
        (None, Credential::Session(id)) => id,
        (None, _) => return Err(not_found()),
    };
    let by = By::principal(principal, app.clock.now());
    let ended = app
        .db
        .write((person, id, by), |conn, (person, id, by)| {
            Box::pin(async move {
                let ended = store::identity::sessions::delete(conn, *person, *id).await?;
                if ended {
                    audit::record(conn, by, Action::SessionEnded, Some(*person), None).await?;
                    store::identity::revocations::insert(conn, Revoked::User(*person), by.at).await?;
                }
                Ok(ended)
            })
        })
        .await?;
    app.callers.revocations.refresh(&app.db).await?;
    if ended { Ok(()) } else { Err(not_found()) }
}
