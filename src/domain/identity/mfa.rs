//! The second factor: codes of an authenticator app (RFC 6238), and recovery codes for users who have lost it.
//!
//! Invariant: a code works once. A single conditional statement marks a time step or a recovery code as used, in the
//! transaction that the code is for. If a code is used several times concurrently, only one use succeeds.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use totp_rs::{Builder, Secret, Totp};

use super::audit::{self, Action, By};
use super::login_attempts;
use super::password_hashing::check_shown;
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::UserId;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::store;
use crate::store::db::Conn;

/// Bytes of a shared secret, as RFC 4226 recommends.
const SECRET_BYTES: usize = 20;
/// Length of a time step in seconds.
const STEP_S: i64 = 30;
/// If the last used step is at most this many steps after the present one, it still counts as used: 10 steps are five
/// minutes. With correct clocks one step is enough, for an authenticator whose clock is ahead. The other steps are for
/// a clock that is set back a little. After such a correction, codes of the last minutes must not become valid again,
/// because somebody may have seen them.
const STEPS_AHEAD: i64 = 10;
/// Digits of a code.
const DIGITS: usize = 6;
/// How many recovery codes a user gets.
pub const RECOVERY_CODES: usize = 10;
/// Douglas Crockford's base 32: letters and digits that are hard to confuse, five bits each.
const RECOVERY_ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of a recovery code: 80 bits.
const RECOVERY_CHARACTERS: usize = 16;
/// The name of the service that authenticator apps show.
const ISSUER: &str = "Posthaste";

/// A new secret, in the forms that an authenticator app can read.
pub struct Offer {
    /// The shared secret in base 32.
    pub secret: String,
    /// The secret with the names of service and account, as a URI.
    pub otpauth_uri: String,
    /// The same URI as a QR code.
    pub qr_svg: String,
}

/// A code that has been parsed. A code of the authenticator app has also been compared with the secret. A recovery code
/// has not been compared with anything. Only the database knows whether a code has been used.
#[derive(Clone, Debug)]
pub enum Code {
    /// The time step of a code of the authenticator app.
    Step(i64),
    /// The hash of a recovery code.
    Recovery([u8; 32]),
}

fn totp(secret: &[u8], user_name: &str) -> Result<Totp> {
    // A colon separates the issuer from the account's name in the URI, so it is removed from the name. User names that
    // an older schema stored may contain colons.
    let account: String = user_name.chars().filter(|character| *character != ':').collect();
    Builder::new()
        .with_secret(Secret::from(secret.to_vec()))
        .with_account_name(if account.is_empty() { "account".to_owned() } else { account })
        .with_issuer(Some(ISSUER))
        .build()
        .map_err(|error| Error::internal(error.to_string()))
}

fn step_at(now: Timestamp) -> i64 {
    now.micros().div_euclid(1_000_000 * STEP_S)
}

/// The time step that this code belongs to: the present step, the one before or the one after.
fn step_of(secret: &[u8], code: &str, now: Timestamp) -> Option<i64> {
    let totp = totp(secret, "").ok()?;
    let present = step_at(now);
    let mut matched = None;
    // All three are compared, so that the duration reveals nothing.
    for step in present - 1..=present + 1 {
        let its_code = totp.generate(u64::try_from(step * STEP_S).unwrap_or_default()).to_string();
        if bool::from(its_code.as_bytes().ct_eq(code.as_bytes())) {
            matched = Some(step);
        }
    }
    matched
}

/// Parses what a user typed: the digits of the authenticator app, or a recovery code.
pub(in crate::domain) fn read_code(secret: &[u8], typed: &str, now: Timestamp) -> Option<Code> {
    let plain: String = typed.chars().filter(|character| !matches!(character, ' ' | '-')).collect();
    if plain.len() == DIGITS && plain.bytes().all(|byte| byte.is_ascii_digit()) {
        return step_of(secret, &plain, now).map(Code::Step);
    }
    (plain.len() == RECOVERY_CHARACTERS).then(|| {
        let read = |character: char| match character.to_ascii_lowercase() {
            'o' => '0',
            'i' | 'l' => '1',
            other => other,
        };
        Code::Recovery(recovery_hash(&plain.chars().map(read).collect::<String>()))
    })
}

/// Marks a code as used. Returns whether it was still valid.
///
/// After the clock was set back, the last used step lies in the future. If it counted, every code would be refused
/// until the clock reaches that step again. So a last used step that is more than [`STEPS_AHEAD`] ahead is ignored.
/// While the clock runs normally, no code works twice, because each accepted code becomes the last used step.
///
/// There are two cases. In the first, the clock was ahead before and is right now. Then no code of the present time was
/// accepted before. In the second, the clock is wrong now. Then the codes of the time that it shows become valid again.
/// They help only an attacker who recorded such a code and also knows the password, because an authenticator with the
/// right time shows other codes. A clock that shows the same time twice always has this effect, because a code depends
/// only on the secret and the time.
pub(in crate::domain) async fn use_up(conn: &mut Conn, user: UserId, code: &Code, by: &By) -> Result<bool> {
    match code {
        Code::Step(step) => store::identity::mfa::use_step(conn, user, *step, step_at(by.at) + STEPS_AHEAD).await,
        Code::Recovery(hash) => {
            let used = store::identity::mfa::use_recovery_code(conn, user, hash).await?;
            if used {
                audit::record(conn, by, Action::RecoveryCodeUsed, Some(user), None).await?;
            }
            Ok(used)
        }
    }
}

fn recovery_hash(code: &str) -> [u8; 32] {
    Sha256::digest(code.as_bytes()).into()
}

fn recovery_code(app: &App) -> Result<String> {
    let random: [u8; RECOVERY_CHARACTERS] = app.rng.bytes().map_err(Error::internal)?;
    Ok(random.iter().map(|byte| RECOVERY_ALPHABET[usize::from(byte & 31)] as char).collect())
}

/// Creates a secret and returns it to the caller. The second factor is enabled when the caller sends back a code of
/// this secret.
///
/// # Errors
/// 403 `act_as_required`; 409 `mfa_enabled`.
pub async fn offer(app: &App, principal: &Principal) -> Result<Offer> {
    let person = principal.require_person()?;
    let secret: [u8; SECRET_BYTES] = app.rng.bytes().map_err(Error::internal)?;
    let offered = app
        .db
        .write((person.id, secret), |conn, (user, secret)| {
            Box::pin(async move {
                if !store::identity::users::lock(conn, *user).await? {
                    return Err(Error::Unauthenticated);
                }
                store::identity::mfa::offer(conn, *user, secret).await
            })
        })
        .await?;
    if !offered {
        return Err(enabled_already());
    }
    let totp = totp(&secret, &person.user_name)?;
    let otpauth_uri = totp.to_url().map_err(|error| Error::internal(error.to_string()))?;
    let picture = qrcode::QrCode::new(&otpauth_uri).map_err(Error::internal)?;
    let qr_svg = picture.render::<qrcode::render::svg::Color<'_>>().min_dimensions(200, 200).build();
    Ok(Offer { secret: Secret::from(secret.to_vec()).to_base32(), otpauth_uri, qr_svg })
}

fn enabled_already() -> Error {
    Error::Conflict { code: "mfa_enabled", detail: "A second factor is already enabled; disable it first".into() }
}

/// Enables the second factor and returns the recovery codes. Only their hashes are stored.
///
/// # Errors
/// 403 `act_as_required`; 409 `mfa_not_offered`, `mfa_enabled`; 422 for `code`.
pub async fn enable(app: &App, principal: &Principal, typed: &str) -> Result<Vec<String>> {
    let person = principal.require_person()?;
    let now = app.clock.now();
    let offered = app.db.read(person.id, |conn, user| Box::pin(store::identity::mfa::secret(conn, *user))).await?;
    let secret = match offered {
        Some(secret) if secret.enabled_at.is_none() => secret.secret,
        Some(_) => return Err(enabled_already()),
        None => {
            return Err(Error::Conflict {
                code: "mfa_not_offered",
                detail: "Request a secret first with POST /api/users/me/mfa".into(),
            });
        }
    };
    // Not counted as a log-in attempt: the caller already knows the secret, so guessing its code gains nothing.
    let wrong = || Error::invalid("code", "wrong_code", "wrong code; send the code that the authenticator shows now");
    let Some(Code::Step(step)) = read_code(&secret, typed, now) else { return Err(wrong()) };
    let codes = (0..RECOVERY_CODES).map(|_| recovery_code(app)).collect::<Result<Vec<_>>>()?;
    let hashes: Vec<[u8; 32]> = codes.iter().map(|code| recovery_hash(code)).collect();
    let input = (person.id, secret, step, hashes, By::principal(principal, now));
    app.db
        .write(input, |conn, (user, secret, step, hashes, by)| {
            Box::pin(async move {
                store::identity::users::lock(conn, *user).await?;
                if !store::identity::mfa::enable(conn, *user, secret, *step, by.at).await? {
                    return Err(enabled_already());
                }
                store::identity::mfa::put_recovery_codes(conn, *user, hashes).await?;
                store::identity::users::set_mfa(conn, *user, true, by.at).await?;
                audit::record(conn, by, Action::MfaEnabled, Some(*user), None).await
            })
        })
        .await?;
    Ok(codes)
}

/// Disables the second factor.
///
/// # Errors
/// 403 `act_as_required`, `wrong_password`; 409 `mfa_not_enabled`; 422 for `password` or `code`; 429
/// `too_many_attempts`.
pub async fn disable(app: &App, principal: &Principal, password: String, typed: &str) -> Result<()> {
    let person = principal.require_person()?;
    if let Some(error) = check_shown("password", &password) {
        return Err(Error::Invalid(vec![error]));
    }
    let now = app.clock.now();
    let by = By::principal(principal, now);
    let (secret, hash) = app
        .db
        .read(person.id, |conn, user| {
            Box::pin(async move {
                Ok((
                    store::identity::mfa::secret(conn, *user).await?,
                    store::identity::passwords::get(conn, *user).await?,
                ))
            })
        })
        .await?;
    let not_enabled = || Error::Conflict { code: "mfa_not_enabled", detail: "No second factor is enabled".into() };
    let secret = secret.filter(|secret| secret.enabled_at.is_some()).ok_or_else(not_enabled)?.secret;
    let subject = login_attempts::subject_of(app, person.id);
    let (right, _) = login_attempts::verify(app, subject, password, hash).await?;
    if !right {
        audit::record_refusal(app, by, Action::PasswordRefused, Some(person.id), None).await;
        return Err(super::passwords::wrong_password());
    }
    let wrong = || {
        Error::invalid("code", "wrong_code", "must be the current code of the authenticator or an unused recovery code")
    };
    let code = read_code(&secret, typed, now).ok_or_else(wrong)?;
    let used = app
        .db
        .write((person.id, code, by, subject), |conn, (user, code, by, subject)| {
            Box::pin(async move {
                store::identity::users::lock(conn, *user).await?;
                if !use_up(conn, *user, code, by).await? {
                    return Ok(false);
                }
                store::identity::mfa::delete(conn, *user).await?;
                store::identity::users::set_mfa(conn, *user, false, by.at).await?;
                store::identity::login_attempts::forget(conn, subject).await?;
                audit::record(conn, by, Action::MfaDisabled, Some(*user), None).await?;
                Ok(true)
            })
        })
        .await?;
    if used { Ok(()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_match_rfc_6238() {
        // Appendix B of the RFC. The secret is the ASCII text; the codes are the last six of its eight digits.
        let secret = b"12345678901234567890";
        for (second, code) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000_i64, "353130")] {
            let now = Timestamp::from_micros(second * 1_000_000);
            assert_eq!(step_of(secret, code, now), Some(second / 30));
            assert_eq!(step_of(secret, code, now.plus_micros(30_000_000)), Some(second / 30));
            assert_eq!(step_of(secret, code, now.plus_micros(61_000_000)), None);
        }
    }

    #[test]
    fn typed_codes_are_parsed() {
        let secret = b"12345678901234567890";
        let now = Timestamp::from_micros(59_000_000);
        assert!(matches!(read_code(secret, "287 082", now), Some(Code::Step(1))));
        assert!(matches!(read_code(secret, "ABCD-efgh-2345-6789", now), Some(Code::Recovery(_))));
        let recovery = |typed| match read_code(secret, typed, now) {
            Some(Code::Recovery(hash)) => Some(hash),
            Some(Code::Step(_)) | None => None,
        };
        assert_eq!(recovery("OIL0-efgh-2345-6789"), recovery("0110efgh23456789"));
        for wrong in ["", "28708", "2870820", "287081", "abcd", "２８７０８２"] {
            assert!(read_code(secret, wrong, now).is_none(), "{wrong}");
        }
    }
}
