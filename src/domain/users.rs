//! People: their names, and finding them.
//!
//! Invariant: a user name is unique without regard to ASCII case; it is stored as written and found by its folded key.

use super::auth::Principal;
use super::lists::{Limit, Page, decode_cursor, encode_cursor};
use crate::app::App;
use crate::error::{Error, FieldError, Result};
use crate::ids::UserId;
use crate::store;
use crate::store::users::NewUser;
pub use crate::store::users::User;
use crate::text::{fold, fold_ascii, past_prefix};
use crate::time::Timestamp;

/// Characters of a user name.
pub const MAX_USER_NAME_CHARACTERS: usize = 32;
/// Characters of a first or last name.
pub const MAX_NAME_CHARACTERS: usize = 32;
/// Characters of an e-mail address.
pub const MAX_EMAIL_CHARACTERS: usize = 254;
/// Characters of a search.
pub const MAX_QUERY_CHARACTERS: usize = 64;
/// Names that paths use themselves.
const RESERVED_USER_NAMES: &[&str] = &["me", "requests"];
const LIST: &str = "users";

/// A person to be made, as the caller wrote it.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// 1..32 of `A-Za-z0-9._-`.
    pub user_name: String,
    /// 0..32 characters.
    pub first_name: String,
    /// 0..32 characters.
    pub last_name: String,
    /// ASCII, at most 254 characters.
    pub email: Option<String>,
}

impl Registration {
    /// Checks every field and folds the keys.
    ///
    /// # Errors
    /// 422 with every field that is wrong.
    pub fn validate(self, now: Timestamp) -> Result<NewUser> {
        let mut errors = Vec::new();
        errors.extend(check_user_name(&self.user_name));
        errors.extend(check_name("first_name", &self.first_name));
        errors.extend(check_name("last_name", &self.last_name));
        errors.extend(self.email.as_deref().and_then(check_email));
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
        })
    }
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
            "may hold A-Z, a-z, 0-9, '.', '_' and '-', with at least one letter or digit",
        ));
    }
    if RESERVED_USER_NAMES.contains(&fold_ascii(name).as_str()) {
        return Some(FieldError::new("user_name", "reserved_user_name", "is reserved: choose another"));
    }
    None
}

fn check_name(field: &'static str, name: &str) -> Option<FieldError> {
    if name.chars().count() > MAX_NAME_CHARACTERS {
        return Some(FieldError::new(field, "too_long", "may have up to 32 characters"));
    }
    name.contains('\0').then(|| FieldError::new(field, "nul_character", "must not hold U+0000"))
}

fn check_email(email: &str) -> Option<FieldError> {
    let wrong = |detail: &'static str| Some(FieldError::new("email", "invalid_email", detail));
    if email.len() > MAX_EMAIL_CHARACTERS {
        return wrong("may have up to 254 characters");
    }
    if !email.is_ascii() || email.chars().any(|character| character.is_ascii_control() || character == ' ') {
        return wrong("must be ASCII without spaces");
    }
    match email.rsplit_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() => None,
        _ => wrong("must have the form name@domain"),
    }
}

/// Which users are wanted.
#[derive(Clone, Debug)]
pub struct Listing {
    /// A prefix of a user name, a full name or a last name.
    pub query: Option<String>,
    /// How many.
    pub limit: Limit,
    /// From where on.
    pub cursor: Option<String>,
}

/// Users by id.
///
/// # Errors
/// 422 for a query that is too long or a cursor that is none.
pub async fn list(app: &App, _principal: &Principal, listing: Listing) -> Result<Page<Vec<User>>> {
    let [after] = match &listing.cursor {
        Some(cursor) => decode_cursor::<1>(LIST, cursor)?,
        None => [0],
    };
    if listing.query.as_ref().is_some_and(|query| query.chars().count() > MAX_QUERY_CHARACTERS) {
        return Err(Error::invalid("q", "too_long", format!("may have up to {MAX_QUERY_CHARACTERS} characters")));
    }
    let limit = listing.limit.get();
    let input = (listing.query, UserId(after), limit as i64 + 1);
    let mut users = app
        .db
        .read(input, |conn, (query, after, limit)| {
            Box::pin(async move {
                match query.as_deref() {
                    None | Some("") => store::users::list(conn, *after, *limit).await,
                    Some(query) => {
                        let (user_name, name) = (fold_ascii(query), fold(query));
                        let past = (past_prefix(&user_name), past_prefix(&name));
                        store::users::with_prefix(conn, (&user_name, &past.0), (&name, &past.1), *after, *limit).await
                    }
                }
            })
        })
        .await?;
    let more = users.len() > limit;
    users.truncate(limit);
    let next = users.last().filter(|_| more).map(|last| encode_cursor(LIST, &[last.id.0]));
    Ok(Page { entries: users, next })
}

/// One user by name; `me` is the caller.
///
/// # Errors
/// 404 `user_not_found`.
pub async fn get(app: &App, principal: &Principal, user_name: &str) -> Result<User> {
    let key = fold_ascii(principal.resolve(user_name)?);
    app.db.read(key, |conn, key| Box::pin(store::users::by_key(conn, key))).await?.ok_or_else(not_found)
}

/// There is no such user.
pub fn not_found() -> Error {
    Error::NotFound { code: "user_not_found", detail: "there is no user with this name".into() }
}
