//! Authentication: turns the credentials of a request into a principal.
//!
//! Invariants:
//! - The result of looking up a token is cached under the hash of the token. A cached result is used only if it has not
//!   expired and no revocation came after it.
//! - Credentials that are wrong, expired, revoked or of a banned user all fail in the same way.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::jwt;
use super::known_callers::{KnownCaller, KnownPerson};
use super::revocations::Mark;
use super::sessions::SLIDING_MICROS;
use super::tokens::{self, MAX_TOKEN_CHARACTERS, SecretHash, TokenKind};
use super::users::{self, Registration};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::tasks;
use crate::base::text::fold_ascii;
use crate::base::time::{MAX_CLOCK_SKEW_MICROS, Timestamp};
use crate::domain::access::principal::{Access, Credential, Principal, Scopes};
use crate::store;
use crate::store::identity::revocations::Revoked;
use crate::store::identity::users::Account;

/// How long a verified JWT is cached.
const JWT_TRUSTED_MICROS: i64 = 10 * 1_000_000;
/// The use of credentials is recorded at most once in this time.
const TOUCH_MICROS: i64 = 60 * 1_000_000;

/// The credentials of a request.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The token of `Authorization: Bearer`, or of the cookie.
    pub token: Option<String>,
    /// `X-Act-As`: the user in whose name the caller acts. Only for callers that are not users: API keys and open access.
    pub act_as: Option<String>,
    /// The network address of the caller.
    pub address: IpAddr,
}

/// Authenticates a caller.
///
/// # Errors
/// [`Error::Unauthenticated`] without valid credentials; 403 `act_as_not_allowed`; 422 for `X-Act-As` if no user has
/// this name.
pub async fn authenticate(app: &Arc<App>, credentials: Credentials) -> Result<Principal> {
    let Credentials { token, act_as, address } = credentials;
    let (credential, person) = match token {
        Some(token) => {
            let known = look_up(app, &token, address).await?;
            record_use(app, &known, address);
            (known.credential, known.person.clone())
        }
        None if app.settings.access == Access::Open => (Credential::Open, None),
        None => return Err(Error::Unauthenticated),
    };
    let person = match (person, act_as) {
        (Some(_), Some(_)) => {
            return Err(Error::Forbidden {
                code: "act_as_not_allowed",
                detail: "X-Act-As is only for API keys and open access; remove the header".into(),
            });
        }
        (person, None) => person,
        (None, Some(name)) => Some(look_up_person(app, &name).await?),
    };
    Ok(Principal::new(credential, person, address))
}

async fn look_up(app: &Arc<App>, token: &str, address: IpAddr) -> Result<Arc<KnownCaller>> {
    if token.is_empty() || token.len() > MAX_TOKEN_CHARACTERS {
        return Err(refused("a token", "it is empty or too long"));
    }
    let now = app.clock.now();
    let mark = app.callers.revocations.current_mark(&app.db).await?;
    let hash = tokens::hash(token);
    if let Some(known) = app.callers.by_token.get(&hash) {
        if known.expires_at.load(Ordering::Relaxed) > now.micros()
            && known.read_at <= now.plus_micros(MAX_CLOCK_SKEW_MICROS)
            && app.callers.revocations.holds(known.mark, known.subject)
        {
            return Ok(known);
        }
        app.callers.by_token.remove(&hash);
    }
    let known = if token.starts_with(TokenKind::ApiKey.prefix()) {
        let found = api_key(app, hash, mark, now).await?;
        found.ok_or_else(|| refused("an API key", "it is unknown, revoked or expired"))?
    } else if token.starts_with(TokenKind::Session.prefix()) {
        let found = session(app, hash, mark, now).await?;
        found.ok_or_else(|| {
            refused("a session token", "the session is unknown or has ended, or the user may not call")
        })?
    } else {
        jwt(app, token, address, mark, now).await?
    };
    let known = Arc::new(known);
    app.callers.by_token.insert(hash, Arc::clone(&known));
    Ok(known)
}

/// The error for refused credentials. Logs the reason, which must not contain text of the credentials.
fn refused(kind: &'static str, reason: &'static str) -> Error {
    tracing::info!(reason, "{kind} was refused");
    Error::Unauthenticated
}

async fn session(app: &App, hash: SecretHash, mark: Mark, now: Timestamp) -> Result<Option<KnownCaller>> {
    let found = app
        .db
        .read(hash, |conn, hash| {
            Box::pin(async move {
                let Some(session) = store::identity::sessions::by_token(conn, hash).await? else { return Ok(None) };
                let account = store::identity::users::account_by_id(conn, session.user_id).await?;
                Ok(account.map(|account| (session, account)))
            })
        })
        .await?;
    Ok(found.filter(|(session, account)| session.expires_at > now && account.may_call()).map(|(session, account)| {
        KnownCaller {
            mark,
            subject: Revoked::User(account.name.id),
            credential: Credential::Session(session.id),
            person: Some(Arc::new(account)),
            expires_at: session.expires_at.micros().into(),
            touch_at: session.last_seen_at.plus_micros(TOUCH_MICROS).micros().into(),
            ends_at: session.ends_at,
            read_at: now,
        }
    }))
}

async fn api_key(app: &App, hash: SecretHash, mark: Mark, now: Timestamp) -> Result<Option<KnownCaller>> {
    let found = app.db.read(hash, |conn, hash| Box::pin(store::identity::api_keys::by_hash(conn, hash))).await?;
    let Some(key) = found.filter(|key| key.expires_at.is_none_or(|at| at > now)) else { return Ok(None) };
    let unknown = || Error::unknown_word("api_keys.scopes", &key.scopes).in_row(|| format!("id {}", key.id.0));
    let scopes = Scopes::parse(key.scopes.split_whitespace()).ok_or_else(unknown)?;
    Ok(Some(KnownCaller {
        mark,
        subject: Revoked::ApiKey(key.id),
        credential: Credential::ApiKey(key.id, scopes),
        person: None,
        expires_at: key.expires_at.unwrap_or(Timestamp::MAX).micros().into(),
        touch_at: key.last_used_at.map_or(now, |at| at.plus_micros(TOUCH_MICROS)).micros().into(),
        ends_at: Timestamp::MAX,
        read_at: now,
    }))
}

async fn jwt(app: &Arc<App>, token: &str, address: IpAddr, mark: Mark, now: Timestamp) -> Result<KnownCaller> {
    let Some(verifier) = &app.jwt else {
        return Err(refused("a token", "it is no API key and no session token, and this server accepts no JWTs"));
    };
    let verified = verifier.verify(token, now).await?;
    // PostgreSQL accepts no U+0000 in a text, not even as a parameter of a query.
    if verified.subject.contains('\0') {
        return Err(jwt::refused("sub contains U+0000"));
    }
    let key = fold_ascii(&verified.subject);
    let mut account = account_by_key(app, key.clone()).await?;
    if account.is_none() && verifier.provisions() {
        let registration = Registration { user_name: verified.subject.clone(), ..Registration::default() };
        match users::provision(app, registration, address).await {
            // Another request may have created the account meanwhile. Then that account is used.
            Ok(()) | Err(Error::Conflict { .. }) => account = account_by_key(app, key).await?,
            Err(Error::Invalid(_)) => {
                return Err(jwt::refused("no user has the name in sub, and it cannot be a user name"));
            }
            Err(error) => return Err(error),
        }
    }
    // Names that differ only in case are one user here, but they may be two users of the operator's backend. So the
    // subject must have the same case as the user name. Otherwise one of the two could use the account of the other.
    let account = account.ok_or_else(|| jwt::refused("no user has the name in sub"))?;
    if account.name.user_name != verified.subject {
        return Err(jwt::refused("sub and the user name differ in upper and lower case"));
    }
    if !account.may_call() {
        return Err(jwt::refused("the user in sub is banned or a bot"));
    }
    Ok(KnownCaller {
        mark,
        subject: Revoked::User(account.name.id),
        credential: Credential::Jwt,
        person: Some(Arc::new(account)),
        // The operator may withdraw the signing key before the token expires. So the token is verified again after
        // `JWT_TRUSTED_MICROS`.
        expires_at: verified.expires_at.min(now.plus_micros(JWT_TRUSTED_MICROS)).micros().into(),
        touch_at: Timestamp::MAX.micros().into(),
        ends_at: verified.expires_at,
        read_at: now,
    })
}

async fn account_by_key(app: &App, key: String) -> Result<Option<Account>> {
    app.db.read(key, |conn, key| Box::pin(store::identity::users::account_by_key(conn, key))).await
}

/// Finds the user of `X-Act-As`.
async fn look_up_person(app: &App, name: &str) -> Result<Arc<Account>> {
    let nobody = || Error::invalid("X-Act-As", "user_not_found", "no user has this name");
    // UTF-8 has at most four bytes for each character.
    if name.len() > users::MAX_USER_NAME_CHARACTERS * 4 {
        return Err(nobody());
    }
    let mark = app.callers.revocations.current_mark(&app.db).await?;
    let key = fold_ascii(name);
    if let Some(known) = app.callers.by_name.get(&key)
        && app.callers.revocations.holds(known.mark, Revoked::User(known.account.name.id))
    {
        return Ok(Arc::clone(&known.account));
    }
    let account = account_by_key(app, key.clone()).await?;
    let account = Arc::new(account.filter(|account| account.may_call()).ok_or_else(nobody)?);
    app.callers.by_name.insert(key, Arc::new(KnownPerson { mark, account: Arc::clone(&account) }));
    Ok(account)
}

/// Records that credentials are used, at most once in `TOUCH_MICROS`. A task of its own writes the record, so the
/// request does not wait for it. Each record also postpones the expiry of a session.
fn record_use(app: &Arc<App>, known: &KnownCaller, address: IpAddr) {
    let now = app.clock.now();
    let touch_at = known.touch_at.load(Ordering::Relaxed);
    if now.micros() < touch_at {
        return;
    }
    let next = now.plus_micros(TOUCH_MICROS);
    if known.touch_at.compare_exchange(touch_at, next.micros(), Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    let expires_at = now.plus_micros(SLIDING_MICROS).min(known.ends_at);
    if let Credential::Session(_) = known.credential {
        known.expires_at.store(expires_at.micros(), Ordering::Relaxed);
    }
    let credential = known.credential;
    let app = Arc::clone(app);
    tasks::spawn("credential-use", async move {
        let recorded = app
            .db
            .write(
                (credential, now, expires_at, address.to_string()),
                |conn, (credential, now, expires_at, address)| {
                    Box::pin(async move {
                        match credential {
                            Credential::Session(id) => {
                                store::identity::sessions::touch(conn, *id, *now, *expires_at, address).await
                            }
                            Credential::ApiKey(id, _) => store::identity::api_keys::touch(conn, *id, *now).await,
                            Credential::Open | Credential::Jwt => Ok(()),
                        }
                    })
                },
            )
            .await;
        if let Err(error) = recorded {
            tracing::debug!(%error, "the use of a credential could not be recorded");
        }
    });
}
