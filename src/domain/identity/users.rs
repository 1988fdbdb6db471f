//! User accounts: creating, changing, banning and finding them.
//!
//! Invariant: user names are unique, ignoring ASCII case. A name is stored as it was written and found by its folded
//! key.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

use super::audit::{self, Action, By};
use super::password_hashing::check_new;
use crate::app::App;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::UserId;
use crate::base::text::{fold, fold_ascii, past_prefix};
use crate::base::time::Timestamp;
use crate::domain::access::principal::{Principal, Role};
use crate::domain::shared::idempotency::{KeyedAnswer, Once};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::domain::shared::precondition::Precondition;
use crate::store::db::Conn;
use crate::store::events::events::{self, NewEvent};
use crate::store::identity::revocations::Revoked;
pub use crate::store::identity::users::{DirectMessagesFrom, User};
use crate::store::identity::users::{NewUser, Profile, UserSummary};
use crate::{mail, store};

/// Longest user name, in characters.
pub const MAX_USER_NAME_CHARACTERS: usize = 32;
/// Longest first or last name, in characters.
pub const MAX_NAME_CHARACTERS: usize = 32;
/// Longest e-mail address, in characters.
pub const MAX_EMAIL_CHARACTERS: usize = 254;
/// Longest search text, in characters.
pub const MAX_QUERY_CHARACTERS: usize = 64;
/// Names that have a meaning of their own in paths, so no user may have them.
const RESERVED_USER_NAMES: &[&str] = &["me", "requests"];
const LIST: &str = "users";

/// A user to create, as the caller wrote it. Not validated yet.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// 1 to 32 characters of `A-Za-z0-9._-`.
    pub user_name: String,
    /// 0 to 32 characters.
    pub first_name: String,
    /// 0 to 32 characters.
    pub last_name: String,
    /// ASCII, at most 254 characters.
    pub email: Option<String>,
    /// 8 to 256 characters.
    pub password: Option<String>,
    /// Whether the user gets the role `admin`. Only the operator can set it.
    pub admin: bool,
}

impl Registration {
    /// Validates every field and computes the folded keys.
    ///
    /// # Errors
    /// 422 with every field that is wrong.
    pub fn validate(self, now: Timestamp) -> Result<NewUser> {
        let mut errors = Vec::new();
        errors.extend(check_user_name(&self.user_name));
        errors.extend(check_name("first_name", &self.first_name));
        errors.extend(check_name("last_name", &self.last_name));
        errors.extend(self.email.as_deref().and_then(check_email));
        let names = [self.user_name.as_str(), self.email.as_deref().unwrap_or_default()];
        errors.extend(self.password.as_deref().and_then(|password| check_new("password", password, &names)));
        if !errors.is_empty() {
            return Err(Error::Invalid(errors));
        }
        Ok(NewUser {
            user_name_key: fold_ascii(&self.user_name),
            email_key: self.email.as_deref().map(fold_ascii),
            full_name_key: fold(&format!("{} {}", self.first_name, self.last_name)),
            last_name_key: fold(&self.last_name),
            first_name: self.first_name,
            last_name: self.last_name,
            user_name: self.user_name,
            email: self.email,
            created_at: now,
            role: if self.admin { Role::Admin } else { Role::User },
        })
    }
}

/// The digest of a user name that is kept when its user is erased, so that nobody can take the name again.
///
/// # Errors
/// Errors of the database.
pub async fn name_digest(conn: &mut Conn, user_name_key: &str) -> Result<Vec<u8>> {
    // The key is read each time: a database that was restored while this server runs may have another key.
    let name_key = store::identity::revocations::name_key(conn).await?;
    let mut hash = Sha256::new();
    hash.update(b"name\0");
    hash.update(name_key);
    hash.update(user_name_key);
    Ok(hash.finalize().to_vec())
}

/// The input of the transaction that creates an account.
struct NewAccount {
    user: NewUser,
    password_hash: Option<String>,
    by: By,
    once: Once<User>,
}

/// Creates an account. Anybody may create their own if registration is open. Administrators, and API keys that act as no
/// user, may create one for anybody, and may omit the password.
///
/// # Errors
/// 403 `insufficient_scope`, `registration_closed`; 422 with every field that is wrong; 409 `user_name_taken`,
/// `email_taken`.
pub async fn register(
    app: &App,
    principal: Option<&Principal>,
    registration: Registration,
    by: By,
    once: Once<User>,
) -> Result<KeyedAnswer> {
    // An API key without the scope `write` creates nothing, whatever user it acts as.
    if principal.is_some_and(|principal| !principal.scopes().write) {
        return Err(crate::domain::access::principal::insufficient_scope("write"));
    }
    let for_others = principal.is_some_and(|principal| principal.sees_everything() || principal.is_admin());
    if !for_others && !app.settings.registration_open {
        return Err(Error::Forbidden {
            code: "registration_closed",
            detail: match principal {
                Some(_) => "Registration is closed; only an administrator, or an API key that acts as no user, creates accounts",
                // An administrator whose program did not send the token gets this too.
                None => "Registration is closed; send valid credentials of an administrator, or ask one for an account",
            }
            .into(),
        });
    }
    if !for_others && registration.password.is_none() {
        return Err(Error::invalid("password", "required", "required"));
    }
    insert(app, registration, by, once).await
}

/// Creates an account for a user of the operator's own backend, who calls with a JWT for the first time.
///
/// # Errors
/// As [`register`].
pub async fn provision(app: &App, registration: Registration, address: IpAddr) -> Result<()> {
    insert(app, registration, By::stranger(address, app.clock.now()), Once::without_key()).await.map(drop)
}

/// Creates an account for the operator, from the command line.
///
/// # Errors
/// As [`register`].
pub async fn create(app: &App, registration: Registration) -> Result<()> {
    insert(app, registration, By::operator(app.clock.now()), Once::without_key()).await.map(drop)
}

async fn insert(app: &App, registration: Registration, by: By, once: Once<User>) -> Result<KeyedAnswer> {
    let password = registration.password.clone();
    let user = registration.validate(by.at)?;
    // A repeated request gets its stored answer before the password is hashed, which is expensive.
    if once.request.is_some() {
        let given = app.db.read((once.clone(), by.at), |conn, (once, now)| Box::pin(once.given(conn, *now))).await?;
        if let Some(given) = given {
            return Ok(given);
        }
    }
    let password_hash = match password {
        Some(password) => Some(app.passwords.hash(&app.rng, password).await?),
        None => None,
    };
    let new = NewAccount { user, password_hash, by, once };
    app.db.write(new, |conn, new| Box::pin(insert_account(conn, new))).await
}

async fn insert_account(conn: &mut Conn, new: &NewAccount) -> Result<KeyedAnswer> {
    let now = new.by.at;
    if let Some(given) = new.once.given(conn, now).await? {
        return Ok(given);
    }
    let digest = name_digest(conn, &new.user.user_name_key).await?;
    if store::people::erasure::was_erased(conn, &digest).await? {
        return Err(name_taken());
    }
    // Checked here and not left to the constraints of the tables. If both the name and the address are taken, the two
    // databases could report different constraints, and the error must not depend on the database.
    if let Some(taken) = find_taken(conn, &new.user).await? {
        // A repetition of this request may have been committed after the look-up of its key above.
        return new.once.given(conn, now).await?.ok_or(taken);
    }
    let id = match store::identity::users::insert(conn, &new.user).await {
        Ok(id) => id,
        // A repetition of this request was committed after both look-ups of its key. The transaction runs again, and
        // finds the stored answer.
        Err(Error::Duplicate { constraint }) if new.once.request.is_some() => {
            return Err(Error::Rerun(constraint.into()));
        }
        Err(error) => return Err(taken(error)),
    };
    if let Some(hash) = &new.password_hash {
        store::identity::passwords::put(conn, id, hash, now).await?;
    }
    let detail = (new.user.role == Role::Admin).then(|| Role::Admin.as_str().into());
    audit::record(conn, &new.by, Action::UserCreated, Some(id), detail).await?;
    let user = store::identity::users::by_id(conn, id)
        .await?
        .ok_or_else(|| Error::internal("a user disappeared during the transaction"))?;
    new.once.give(conn, now, &user, Some(id)).await
}

async fn find_taken(conn: &mut Conn, user: &NewUser) -> Result<Option<Error>> {
    if store::identity::users::account_by_key(conn, &user.user_name_key).await?.is_some() {
        return Ok(Some(name_taken()));
    }
    let Some(email_key) = &user.email_key else { return Ok(None) };
    Ok(store::identity::users::by_email(conn, email_key).await?.map(|_| email_taken()))
}

fn email_taken() -> Error {
    Error::Conflict { code: "email_taken", detail: "Another account has this email address".into() }
}

fn name_taken() -> Error {
    Error::Conflict {
        code: "user_name_taken",
        detail: "This user name is in use or was used before; choose another one".into(),
    }
}

/// Replaces the violation of a unique constraint with an error for the caller.
fn taken(error: Error) -> Error {
    match error {
        Error::Duplicate { constraint } if constraint == "users_user_name_key" => name_taken(),
        Error::Duplicate { constraint } if constraint == "users_email_key" => email_taken(),
        error => error,
    }
}

/// Changes to a user; `None` leaves a field unchanged.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// 0 to 32 characters.
    pub first_name: Option<String>,
    /// 0 to 32 characters.
    pub last_name: Option<String>,
    /// ASCII, at most 254 characters; `Some(None)` removes the address.
    pub email: Option<Option<String>>,
    /// `Some(None)` returns to the default of the server.
    pub direct_messages_from: Option<Option<DirectMessagesFrom>>,
}

/// Changes a user. The user and administrators may do it; `me` stands for the caller.
///
/// # Errors
/// 404 `user_not_found`; 403 `act_as_required`, `not_your_account`, `insufficient_scope`; 422 with every field that is
/// wrong; 409 `email_taken`; 412 if the user does not meet `unchanged`.
pub async fn update(
    app: &App,
    principal: &Principal,
    user_name: &str,
    changes: Changes,
    unchanged: Precondition<User>,
) -> Result<User> {
    let mut errors = Vec::new();
    errors.extend(changes.first_name.as_deref().and_then(|name| check_name("first_name", name)));
    errors.extend(changes.last_name.as_deref().and_then(|name| check_name("last_name", name)));
    errors.extend(changes.email.as_ref().and_then(|email| check_email(email.as_deref()?)));
    if !errors.is_empty() {
        return Err(Error::Invalid(errors));
    }
    let key = fold_ascii(principal.resolve(user_name)?);
    principal.require_person_or_admin()?;
    let by = By::principal(principal, app.clock.now());
    let input = (key, principal.clone(), changes, by, unchanged);
    let user = app
        .db
        .write(input, |conn, (key, principal, changes, by, unchanged)| {
            Box::pin(apply(conn, key, principal, changes, by, unchanged))
        })
        .await?;
    app.callers.revocations.refresh(&app.db).await?;
    Ok(user)
}

async fn apply(
    conn: &mut Conn,
    key: &str,
    principal: &Principal,
    changes: &Changes,
    by: &By,
    unchanged: &Precondition<User>,
) -> Result<User> {
    let id = store::identity::users::account_by_key(conn, key).await?.ok_or_else(not_found)?.name.id;
    principal.require_self_or_admin(id)?;
    // Read under the lock, so that of two concurrent changes neither overwrites the other.
    store::identity::users::lock(conn, id).await?;
    let user = store::identity::users::by_id(conn, id).await?.ok_or_else(not_found)?;
    let email = changes.email.clone().unwrap_or_else(|| user.email.clone());
    let other_address = email.as_deref().map(fold_ascii) != user.email.as_deref().map(fold_ascii);
    if other_address {
        // Codes that reset a password are sent to the address. So a caller who can change the address controls the
        // account.
        principal.require_account_control()?;
    }
    unchanged.require(&user)?;
    let first_name = changes.first_name.clone().unwrap_or_else(|| user.first_name.clone());
    let last_name = changes.last_name.clone().unwrap_or_else(|| user.last_name.clone());
    let profile = Profile {
        full_name_key: fold(&format!("{first_name} {last_name}")),
        last_name_key: fold(&last_name),
        first_name,
        last_name,
        email_key: email.as_deref().map(fold_ascii),
        email,
        direct_messages_from: changes.direct_messages_from.unwrap_or(user.direct_messages_from),
        email_confirmed_at: user.email_confirmed_at.filter(|_| !other_address),
    };
    store::identity::users::update(conn, id, &profile, by.at).await.map_err(taken)?;
    if other_address {
        // Codes that were sent to the old address must not work any more.
        store::identity::account_codes::end_all_of(conn, id).await?;
        audit::record(conn, by, Action::EmailChanged, Some(id), None).await?;
    }
    if profile.first_name != user.first_name || profile.last_name != user.last_name {
        let actor = by.actor.unwrap_or(id);
        events::append(conn, &[NewEvent::between(events::Kind::UserUpdated, actor, id, by.at)]).await?;
    }
    if profile.direct_messages_from != user.direct_messages_from {
        // Servers cache this setting. The revocation makes them read it again.
        store::identity::revocations::insert(conn, Revoked::User(id), by.at).await?;
    }
    store::identity::users::by_id(conn, id).await?.ok_or_else(not_found)
}

/// Sets the role of a user.
///
/// # Errors
/// 404 `user_not_found`.
pub async fn set_role(app: &App, user_name: &str, role: Role, by: By) -> Result<()> {
    app.db
        .write((fold_ascii(user_name), role, by), |conn, (key, role, by)| {
            Box::pin(async move {
                let id = store::identity::users::account_by_key(conn, key).await?.ok_or_else(not_found)?.name.id;
                store::identity::users::set_role(conn, id, *role, by.at).await?;
                audit::record(conn, by, Action::RoleChanged, Some(id), Some(role.as_str().into())).await?;
                store::identity::revocations::insert(conn, Revoked::User(id), by.at).await
            })
        })
        .await?;
    app.callers.revocations.refresh(&app.db).await
}

fn check_user_name(name: &str) -> Option<FieldError> {
    let known = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let length = name.chars().count();
    if length == 0 || length > MAX_USER_NAME_CHARACTERS {
        return Some(FieldError::new("user_name", "out_of_range", "must have 1 to 32 characters"));
    }
    if !name.chars().all(known) || !name.chars().any(|character| character.is_ascii_alphanumeric()) {
        return Some(FieldError::new(
            "user_name",
            "invalid_user_name",
            "must contain only A-Z, a-z, 0-9, '.', '_' and '-', and at least one letter or digit",
        ));
    }
    if RESERVED_USER_NAMES.contains(&fold_ascii(name).as_str()) {
        return Some(FieldError::new("user_name", "reserved_user_name", "this name is reserved; choose another one"));
    }
    None
}

fn check_name(field: &'static str, name: &str) -> Option<FieldError> {
    if name.chars().count() > MAX_NAME_CHARACTERS {
        return Some(FieldError::new(field, "too_long", "must have at most 32 characters"));
    }
    name.contains('\0').then(|| FieldError::new(field, "nul_character", "must not contain U+0000"))
}

/// Checks an address as far as possible without sending a mail to it.
pub fn check_email(email: &str) -> Option<FieldError> {
    let wrong = |detail: &'static str| Some(FieldError::new("email", "invalid_email", detail));
    if email.len() > MAX_EMAIL_CHARACTERS {
        return wrong("must have at most 254 characters");
    }
    if !email.is_ascii() || email.chars().any(|character| character.is_ascii_control() || character == ' ') {
        return wrong("must be ASCII without spaces");
    }
    if mail::is_address(email) { None } else { wrong("must have the form name@domain") }
}

/// Which users to list.
#[derive(Clone, Debug)]
pub struct Listing {
    /// A prefix of a user name, a full name or a last name.
    pub query: Option<String>,
    /// Entries on the page.
    pub limit: Limit,
    /// Where the page begins.
    pub cursor: Option<String>,
}

/// Lists users by id.
///
/// # Errors
/// 422 if the query is too long or the cursor is invalid.
pub async fn list(app: &App, _principal: &Principal, listing: Listing) -> Result<Page<Vec<User>>> {
    let after = UserId(pagination::begin(LIST, listing.cursor.as_deref(), 0)?);
    if listing.query.as_ref().is_some_and(|query| query.chars().count() > MAX_QUERY_CHARACTERS) {
        return Err(Error::invalid("q", "too_long", format!("must have at most {MAX_QUERY_CHARACTERS} characters")));
    }
    let limit = listing.limit;
    let users = app
        .db
        .read((listing.query, after, limit), |conn, (query, after, limit)| {
            let limit = limit.to_read();
            Box::pin(async move {
                match query.as_deref() {
                    None | Some("") => store::identity::users::list(conn, *after, limit).await,
                    Some(query) => {
                        let (user_name, name) = (fold_ascii(query), fold(query));
                        let past = (past_prefix(&user_name), past_prefix(&name));
                        store::identity::users::with_prefix(
                            conn,
                            (&user_name, &past.0),
                            (&name, &past.1),
                            *after,
                            limit,
                        )
                        .await
                    }
                }
            })
        })
        .await?;
    Ok(Page::new(LIST, users, limit, |last| [last.id.0]))
}

/// All users by id, for the operator.
///
/// # Errors
/// Errors of the database.
pub async fn list_all_for_operator(app: &App) -> Result<Vec<User>> {
    let mut users: Vec<User> = Vec::new();
    loop {
        let after = users.last().map_or(UserId(0), |last| last.id);
        let page = app
            .db
            .read(after, |conn, after| Box::pin(store::identity::users::list(conn, *after, Limit::MAX.to_read())));
        let page = page.await?;
        if page.is_empty() {
            return Ok(users);
        }
        users.extend(page);
    }
}

/// One user by name; `me` stands for the caller.
///
/// # Errors
/// 404 `user_not_found`; 403 `act_as_required`.
pub async fn get(app: &App, principal: &Principal, user_name: &str) -> Result<User> {
    let key = fold_ascii(principal.resolve(user_name)?);
    app.db.read(key, |conn, key| Box::pin(store::identity::users::by_key(conn, key))).await?.ok_or_else(not_found)
}

/// Checks that the user named in a path is the caller, and that the caller may change the credentials of the account.
/// `me` stands for the caller.
///
/// # Errors
/// 404 `user_not_found`; 403 `act_as_required`, `not_your_account`, `insufficient_scope`.
pub async fn require_self(app: &App, principal: &Principal, user_name: &str) -> Result<()> {
    require_own_name(app, principal, user_name).await?;
    principal.require_account_control()
}

/// Checks that the user named in a path is the caller. `me` stands for the caller.
///
/// # Errors
/// 404 `user_not_found`; 403 `act_as_required`, `not_your_account`.
pub async fn require_own_name(app: &App, principal: &Principal, user_name: &str) -> Result<()> {
    let key = fold_ascii(principal.resolve(user_name)?);
    if principal.person().is_some_and(|person| person.user_name_key == key) {
        return Ok(());
    }
    app.db
        .read(key, |conn, key| Box::pin(store::identity::users::account_by_key(conn, key)))
        .await?
        .ok_or_else(not_found)?;
    Err(Error::Forbidden { code: "not_your_account", detail: "Only this user may do this".into() })
}

/// Finds the user with this folded name.
///
/// # Errors
/// 404 `user_not_found`.
pub async fn by_name(conn: &mut Conn, key: &str) -> Result<UserSummary> {
    let found = store::identity::users::summaries_by_keys(conn, &[key]).await?;
    found.into_iter().next().ok_or_else(not_found)
}

/// The error for a name that no user has.
pub fn not_found() -> Error {
    Error::NotFound { code: "user_not_found", detail: "No user has this name".into() }
}
