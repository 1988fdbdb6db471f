//! Changing a password, resetting it with a code, and confirming an e-mail address with a code.
//!
//! Invariants:
//! - A new password ends every other session of the user.
//! - A code works once and for a limited time.
//! - The answer to a request for a reset code does not show whether the address is known.

use super::audit::{self, Action, By};
use super::login_attempts;
use super::password_hashing::{check_new, check_shown};
use super::tokens::{self, Token, TokenKind};
use super::users::{self, MAX_EMAIL_CHARACTERS, check_email};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{SessionId, UserId};
use crate::base::text::fold_ascii;
use crate::base::time::{MAX_CLOCK_SKEW_MICROS, Timestamp};
use crate::domain::access::principal::{Credential, Principal};
use crate::mail::Mail;
use crate::store;
use crate::store::db::Conn;
use crate::store::identity::account_codes::{AccountCode, Purpose};
use crate::store::identity::revocations::Revoked;
use crate::store::identity::users::User;

/// How long a code that resets a password is valid: one hour.
pub const RESET_CODE_MICROS: i64 = 3_600 * 1_000_000;
/// How long a code that confirms an address is valid: one day.
pub const CONFIRMATION_CODE_MICROS: i64 = 24 * 3_600 * 1_000_000;
/// How many codes for one purpose are sent to a user within [`SENT_CODES_WINDOW_MICROS`].
const SENT_LIMIT: i64 = 3;
/// How long a code counts towards the limit of sent codes: one hour.
pub const SENT_CODES_WINDOW_MICROS: i64 = 3_600 * 1_000_000;

/// The error for a wrong current password.
pub fn wrong_password() -> Error {
    Error::Forbidden { code: "wrong_password", detail: "The current password is wrong".into() }
}

/// Changes the caller's password and ends their other sessions.
///
/// # Errors
/// 403 `act_as_required`, `wrong_password`; 422 for `current_password` or `new_password`; 429 `too_many_attempts`.
pub async fn change(app: &App, principal: &Principal, current: Option<String>, new: String) -> Result<()> {
    let person = principal.require_person()?;
    let now = app.clock.now();
    let by = By::principal(principal, now);
    let (hash, user) = app
        .db
        .read(person.id, |conn, user| {
            Box::pin(async move {
                Ok((
                    store::identity::passwords::get(conn, *user).await?,
                    store::identity::users::by_id(conn, *user).await?,
                ))
            })
        })
        .await?;
    let user = user.ok_or(Error::Unauthenticated)?;
    check(&user, &new)?;
    if let Some(error) = current.as_deref().and_then(|current| check_shown("current_password", current)) {
        return Err(Error::Invalid(vec![error]));
    }
    let subject = login_attempts::subject_of(app, person.id);
    if hash.is_some() {
        let Some(current) = current else {
            return Err(Error::invalid("current_password", "required", "required, because the account has a password"));
        };
        let (right, _) = login_attempts::verify(app, subject, current, hash.clone()).await?;
        if !right {
            audit::record_refusal(app, by, Action::PasswordRefused, Some(person.id), None).await;
            return Err(wrong_password());
        }
    }
    let new_hash = app.passwords.hash(&app.rng, new).await?;
    let kept = match principal.credential() {
        Credential::Session(id) => Some(id),
        _ => None,
    };
    let input = (person.id, hash, new_hash, kept, by, subject);
    app.db
        .write(input, |conn, (user, hash, new_hash, kept, by, subject)| {
            Box::pin(async move {
                if !store::identity::users::lock(conn, *user).await? {
                    return Err(Error::Unauthenticated);
                }
                if store::identity::passwords::get(conn, *user).await? != *hash {
                    return Err(wrong_password());
                }
                store::identity::login_attempts::forget(conn, subject).await?;
                replace(conn, *user, new_hash, *kept, by, Action::PasswordChanged).await
            })
        })
        .await?;
    app.callers.revocations.refresh(&app.db).await
}

fn check(user: &User, new: &str) -> Result<()> {
    let names = [user.user_name.as_str(), user.email.as_deref().unwrap_or_default()];
    check_new("new_password", new, &names).map_or(Ok(()), |error| Err(Error::Invalid(vec![error])))
}

async fn replace(
    conn: &mut Conn,
    user: UserId,
    hash: &str,
    kept: Option<SessionId>,
    by: &By,
    action: Action,
) -> Result<()> {
    store::identity::passwords::put(conn, user, hash, by.at).await?;
    store::identity::sessions::delete_of(conn, user, kept).await?;
    store::identity::account_codes::end_of(conn, user, Purpose::PasswordReset).await?;
    audit::record(conn, by, action, Some(user), None).await?;
    store::identity::revocations::insert(conn, Revoked::User(user), by.at).await
}

/// A code that resets a password. An administrator passes it on to the user.
pub struct ResetCode {
    /// The code in plain text. Only its hash is stored.
    pub code: String,
    /// When the code expires.
    pub expires_at: Timestamp,
}

/// Creates a code that resets a password. An administrator passes it on to the user.
///
/// # Errors
/// 404 `user_not_found`.
pub async fn issue(app: &App, by: By, user_name: &str) -> Result<ResetCode> {
    let token = Token::new(&app.rng, TokenKind::PasswordReset)?;
    let expires_at = by.at.plus_micros(RESET_CODE_MICROS);
    let input = (fold_ascii(user_name), token.hash, by, expires_at);
    app.db
        .write(input, |conn, (key, hash, by, expires_at)| {
            Box::pin(async move {
                let account = store::identity::users::account_by_key(conn, key).await?.ok_or_else(users::not_found)?;
                let user_id = account.name.id;
                if !store::identity::users::lock(conn, user_id).await? {
                    return Err(users::not_found());
                }
                let code = AccountCode { user_id, email_key: None, created_at: by.at, expires_at: *expires_at };
                store::identity::account_codes::insert(conn, hash, Purpose::PasswordReset, &code).await?;
                audit::record(conn, by, Action::PasswordResetAsked, Some(user_id), None).await
            })
        })
        .await?;
    Ok(ResetCode { code: token.text, expires_at })
}

/// The URL of the request that sets a new password with this code.
pub fn reset_url(app: &App, code: &str) -> String {
    let server = app.settings.public_url.as_deref().unwrap_or_default().trim_end_matches('/');
    format!("{server}/api/password-resets/{code}")
}

/// Checks the address in a request for a reset code. Its form is not checked, because errors must not depend on whether
/// the address is known.
///
/// # Errors
/// 422 for `email`.
pub fn check_wanted(email: &str) -> Result<()> {
    if email.chars().count() > MAX_EMAIL_CHARACTERS {
        return Err(Error::invalid("email", "too_long", "must have at most 254 characters"));
    }
    if email.contains('\0') {
        return Err(Error::invalid("email", "nul_character", "must not contain U+0000"));
    }
    Ok(())
}

/// Sends a code that resets a password to this address, if a user has it. The value that is returned does not show
/// whether a user has it. Errors may show it, so they must not reach the caller of the request.
///
/// # Errors
/// Errors of the database or of the mail queue; 422 if the stored address was never checked and no mail can be sent to
/// it.
pub async fn ask_for_reset(app: &App, by: By, email: String) -> Result<()> {
    if app.mailer.is_none() {
        return Ok(());
    }
    let about = Sent { purpose: Purpose::PasswordReset, valid_micros: RESET_CODE_MICROS };
    let user =
        app.db.read(fold_ascii(&email), |conn, key| Box::pin(store::identity::users::by_email(conn, key))).await?;
    match user {
        Some(user) => send_code(app, by, &user, about).await,
        None => Ok(()),
    }
}

/// Sends the caller a code that confirms their e-mail address.
///
/// # Errors
/// 403 `act_as_required`; 409 `no_email`; 422 for `email` if no mail can be sent there; 501 `mail_not_configured`.
pub async fn ask_for_confirmation(app: &App, principal: &Principal) -> Result<()> {
    let person = principal.require_person()?.id;
    if app.mailer.is_none() {
        return Err(Error::NotConfigured {
            code: "mail_not_configured",
            detail: "This server cannot send mail, because --smtp-url is not set",
        });
    }
    let user = app.db.read(person, |conn, user| Box::pin(store::identity::users::by_id(conn, *user))).await?;
    let user = user.ok_or(Error::Unauthenticated)?;
    if user.email.is_none() {
        return Err(Error::Conflict {
            code: "no_email",
            detail: "There is no email address to confirm; set one first".into(),
        });
    }
    let about = Sent { purpose: Purpose::EmailConfirmation, valid_micros: CONFIRMATION_CODE_MICROS };
    send_code(app, By::principal(principal, app.clock.now()), &user, about).await
}

/// The purpose of a code that is sent, and how long it is valid.
#[derive(Clone, Copy)]
struct Sent {
    purpose: Purpose,
    valid_micros: i64,
}

async fn send_code(app: &App, by: By, user: &User, about: Sent) -> Result<()> {
    let (Some(mailer), Some(email)) = (&app.mailer, user.email.clone()) else { return Ok(()) };
    // An older schema stored addresses without checking them.
    if let Some(error) = check_email(&email) {
        return Err(Error::Invalid(vec![error]));
    }
    let kind = match about.purpose {
        Purpose::PasswordReset => TokenKind::PasswordReset,
        Purpose::EmailConfirmation => TokenKind::EmailConfirmation,
    };
    let token = Token::new(&app.rng, kind)?;
    let code = AccountCode {
        user_id: user.id,
        email_key: Some(fold_ascii(&email)),
        created_at: by.at,
        expires_at: by.at.plus_micros(about.valid_micros),
    };
    let made = app
        .db
        .write((token.hash, about, code, by), |conn, (hash, about, code, by)| {
            Box::pin(async move {
                // If the clock was set back, a code that was sent before lies in the future. It must not count forever.
                let counted = (by.at.plus_micros(-SENT_CODES_WINDOW_MICROS), by.at.plus_micros(MAX_CLOCK_SKEW_MICROS));
                if !store::identity::users::lock(conn, code.user_id).await?
                    || store::identity::account_codes::count_sent(conn, code.user_id, about.purpose, counted).await?
                        >= SENT_LIMIT
                {
                    return Ok(false);
                }
                store::identity::account_codes::insert(conn, hash, about.purpose, code).await?;
                if about.purpose == Purpose::PasswordReset {
                    audit::record(conn, by, Action::PasswordResetAsked, Some(code.user_id), None).await?;
                }
                Ok(true)
            })
        })
        .await?;
    if made { mailer.send(mail(app, user, email, about.purpose, &token.text)) } else { Ok(()) }
}

fn mail(app: &App, user: &User, to: String, purpose: Purpose, code: &str) -> Mail {
    let server = app.settings.public_url.as_deref().unwrap_or("this server");
    let (subject, wish, call) = match purpose {
        Purpose::PasswordReset => (
            "Reset your password",
            "Somebody, hopefully you, asked to reset the password",
            format!("PUT /api/password-resets/{code}\n\nIt works once, within one hour."),
        ),
        Purpose::EmailConfirmation => (
            "Confirm your e-mail address",
            "This address was entered",
            format!("PUT /api/email-confirmations/{code}\n\nIt works once, within one day."),
        ),
    };
    let text = format!(
        "{wish} for the account {} at {server}.\n\nThe code is\n\n    {code}\n\nEnter it in the app. If you call the API \
         yourself, use\n\n    {call}\n\nIf it was not you, do nothing: without the code nothing changes.\n",
        user.user_name
    );
    Mail { to, subject: subject.into(), text }
}

fn unknown_code() -> Error {
    Error::NotFound { code: "code_not_found", detail: "The code is unknown, used or expired".into() }
}

/// Sets a new password with a code, and ends every session.
///
/// # Errors
/// 404 `code_not_found`; 422 for `new_password`, in which case the code stays valid.
pub async fn reset(app: &App, by: By, code: &str, new: String) -> Result<()> {
    let hash = tokens::hash(code);
    // An unknown code is refused before the password is hashed, which is expensive.
    let found = app
        .db
        .read((hash, by.at), |conn, (hash, now)| {
            Box::pin(async move {
                match store::identity::account_codes::get(conn, hash, Purpose::PasswordReset, *now).await? {
                    Some(code) => store::identity::users::by_id(conn, code.user_id).await,
                    None => Ok(None),
                }
            })
        })
        .await?;
    let found = found.ok_or_else(unknown_code)?;
    check(&found, &new)?;
    let new_hash = app.passwords.hash(&app.rng, new).await?;
    let subject = login_attempts::subject_of(app, found.id);
    app.db
        .write((found.id, hash, by, new_hash, subject), |conn, (user, hash, by, new_hash, subject)| {
            Box::pin(async move {
                // The user is locked before their codes. Everything that ends codes takes the locks in this order.
                if !store::identity::users::lock(conn, *user).await?
                    || !store::identity::account_codes::use_up(conn, hash, Purpose::PasswordReset, by.at).await?
                {
                    return Err(unknown_code());
                }
                // Failed attempts with the old password must not delay the user, who logs in with the new one.
                store::identity::login_attempts::forget(conn, subject).await?;
                replace(conn, *user, new_hash, None, &by.known_as(*user), Action::PasswordReset).await
            })
        })
        .await?;
    app.callers.revocations.refresh(&app.db).await
}

/// Confirms an e-mail address with a code.
///
/// # Errors
/// 404 `code_not_found`, also if the user has changed the address since.
pub async fn confirm_email(app: &App, by: By, code: &str) -> Result<()> {
    app.db
        .write((tokens::hash(code), by), |conn, (hash, by)| {
            Box::pin(async move {
                let code = store::identity::account_codes::get(conn, hash, Purpose::EmailConfirmation, by.at).await?;
                let code = code.ok_or_else(unknown_code)?;
                let email = code.email_key.unwrap_or_default();
                // The update locks the user before their codes. Everything that ends codes takes the locks in this
                // order.
                if !store::identity::users::confirm_email(conn, code.user_id, &email, by.at).await?
                    || !store::identity::account_codes::use_up(conn, hash, Purpose::EmailConfirmation, by.at).await?
                {
                    return Err(unknown_code());
                }
                audit::record(conn, &by.known_as(code.user_id), Action::EmailConfirmed, Some(code.user_id), None).await
            })
        })
        .await
}
