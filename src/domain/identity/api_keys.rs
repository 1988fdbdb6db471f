//! API keys: credentials of the operator's programs, which may act as any user.
//!
//! Invariant: the text of a key is shown once, to the caller who creates it. Only its hash is stored.

use super::audit::{self, Action, By};
use super::tokens::{Token, TokenKind};
use crate::app::App;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::ApiKeyId;
use crate::base::text::is_blank;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Scopes;
use crate::domain::shared::idempotency::{KeyedAnswer, Once, StoredAnswer};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::store;
use crate::store::db::Conn;
pub use crate::store::identity::api_keys::ApiKey;
use crate::store::identity::revocations::Revoked;

/// Longest name of a key, in characters.
pub const MAX_NAME_CHARACTERS: usize = 100;
const LIST: &str = "api-keys";

/// A key to create, as the caller wrote it. Not validated yet.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// 1 to 100 characters.
    pub name: String,
    /// At least one of `read`, `write`, `admin`.
    pub scopes: Vec<String>,
    /// When the key expires; in the future. `None` for never.
    pub expires_at: Option<Timestamp>,
}

/// A key that was created, with the only copy of its text.
pub struct Made {
    /// The key as it is stored.
    pub key: ApiKey,
    /// The text that its holder sends.
    pub text: String,
}

struct Input {
    token: Token,
    key: ApiKey,
    by: By,
    once: Once<Made>,
}

impl NewApiKey {
    fn validate(self, by: &By) -> Result<ApiKey> {
        let mut errors = Vec::new();
        let characters = self.name.chars().count();
        if characters == 0 || characters > MAX_NAME_CHARACTERS {
            errors.push(FieldError::new("name", "out_of_range", "must have 1 to 100 characters"));
        } else if self.name.contains('\0') {
            errors.push(FieldError::new("name", "nul_character", "must not contain U+0000"));
        } else if is_blank(&self.name) {
            errors.push(FieldError::new("name", "required", "must have at least one visible character"));
        }
        let scopes =
            Scopes::parse(self.scopes.iter().map(String::as_str)).filter(|scopes| *scopes != Scopes::default());
        if scopes.is_none() {
            errors.push(FieldError::new(
                "scopes",
                "wrong_value",
                "must be a list of one or more of read, write and admin",
            ));
        }
        if self.expires_at.is_some_and(|at| at <= by.at) {
            errors.push(FieldError::new("expires_at", "out_of_range", "must be in the future"));
        }
        match scopes {
            Some(scopes) if errors.is_empty() => Ok(ApiKey {
                id: ApiKeyId(0),
                name: self.name,
                scopes: scopes.names().join(" "),
                created_at: by.at,
                created_by: by.actor,
                last_used_at: None,
                expires_at: self.expires_at,
            }),
            _ => Err(Error::Invalid(errors)),
        }
    }
}

/// Creates a key.
///
/// # Errors
/// 422 with every field that is wrong.
pub async fn create(app: &App, new: NewApiKey, by: By, once: Once<Made>) -> Result<KeyedAnswer> {
    let key = new.validate(&by)?;
    let token = Token::new(&app.rng, TokenKind::ApiKey)?;
    app.db.write(Input { token, key, by, once }, |conn, input| Box::pin(insert(conn, input))).await
}

/// Creates a key for the operator, from the command line. Returns its text.
///
/// # Errors
/// As [`create`].
pub async fn create_for_operator(app: &App, new: NewApiKey) -> Result<String> {
    let render = |made: &Made| Ok(StoredAnswer { status: 201, location: None, body: made.text.clone().into_bytes() });
    let once = Once { request: None, render, sealed: true };
    let given = create(app, new, By::operator(app.clock.now()), once).await?;
    String::from_utf8(given.answer.body).map_err(Error::internal)
}

async fn insert(conn: &mut Conn, input: &Input) -> Result<KeyedAnswer> {
    let now = input.by.at;
    if let Some(given) = input.once.given(conn, now).await? {
        return Ok(given);
    }
    let id = store::identity::api_keys::insert(conn, &input.token.hash, &input.key).await?;
    let detail = format!("key {}: {}", id.0, input.key.scopes);
    audit::record(conn, &input.by, Action::ApiKeyCreated, None, Some(detail)).await?;
    let made = Made { key: ApiKey { id, ..input.key.clone() }, text: input.token.text.clone() };
    input.once.give(conn, now, &made, input.by.actor).await
}

/// Lists keys by id.
///
/// # Errors
/// 422 if the cursor is invalid.
pub async fn list(app: &App, limit: Limit, cursor: Option<&str>) -> Result<Page<Vec<ApiKey>>> {
    let after = ApiKeyId(pagination::begin(LIST, cursor, 0)?);
    let keys = app
        .db
        .read((after, limit), |conn, (after, limit)| {
            Box::pin(store::identity::api_keys::list(conn, *after, limit.to_read()))
        })
        .await?;
    Ok(Page::new(LIST, keys, limit, |last| [last.id.0]))
}

/// Revokes a key.
///
/// # Errors
/// 404 `api_key_not_found`.
pub async fn revoke(app: &App, id: ApiKeyId, by: By) -> Result<()> {
    let revoked = app
        .db
        .write((id, by), |conn, (id, by)| {
            Box::pin(async move {
                if !store::identity::api_keys::delete(conn, *id).await? {
                    return Ok(false);
                }
                audit::record(conn, by, Action::ApiKeyRevoked, None, Some(format!("key {}", id.0))).await?;
                store::identity::revocations::insert(conn, Revoked::ApiKey(*id), by.at).await?;
                Ok(true)
            })
        })
        .await?;
    app.callers.revocations.refresh(&app.db).await?;
    if revoked {
        Ok(())
    } else {
        Err(Error::NotFound { code: "api_key_not_found", detail: "API key not found".into() })
    }
}
