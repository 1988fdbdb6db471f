//! The audit log: who did what to an account or a key, when, and from which address.
//!
//! Invariant: an entry is written in the same transaction as the change that it describes.

use std::net::IpAddr;

use crate::app::App;
use crate::base::error::Result;
use crate::base::ids::{ApiKeyId, UserId};
use crate::base::time::Timestamp;
use crate::domain::access::principal::{Credential, Principal};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::store;
use crate::store::db::Conn;
pub use crate::store::identity::audit::Entry;

const LIST: &str = "audit";

/// What happened. Each action has a fixed word in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the name says it")]
pub enum Action {
    UserCreated,
    UserErased,
    UserExported,
    UserBanned,
    UserUnbanned,
    RoleChanged,
    EmailChanged,
    EmailConfirmed,
    SessionCreated,
    SessionRefused,
    SessionEnded,
    PasswordChanged,
    PasswordRefused,
    PasswordResetAsked,
    PasswordReset,
    MfaEnabled,
    MfaDisabled,
    RecoveryCodeUsed,
    ApiKeyCreated,
    ApiKeyRevoked,
    WebhookCreated,
    WebhookChanged,
    WebhookSecretRotated,
    /// The server disabled a webhook, because its receiver answered 410.
    WebhookDisabled,
    WebhookRemoved,
    /// An incoming webhook was created, together with its bot. The subject of the entry is the bot.
    IncomingWebhookCreated,
    /// An incoming webhook was removed.
    IncomingWebhookRemoved,
    ReportHandled,
}

impl Action {
    /// The word in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UserCreated => "user.created",
            Self::UserErased => "user.erased",
            Self::UserExported => "user.exported",
            Self::UserBanned => "user.banned",
            Self::UserUnbanned => "user.unbanned",
            Self::RoleChanged => "role.changed",
            Self::EmailChanged => "email.changed",
            Self::EmailConfirmed => "email.confirmed",
            Self::SessionCreated => "session.created",
            Self::SessionRefused => "session.refused",
            Self::SessionEnded => "session.ended",
            Self::PasswordChanged => "password.changed",
            Self::PasswordRefused => "password.refused",
            Self::PasswordResetAsked => "password.reset_asked",
            Self::PasswordReset => "password.reset",
            Self::MfaEnabled => "mfa.enabled",
            Self::MfaDisabled => "mfa.disabled",
            Self::RecoveryCodeUsed => "mfa.recovery_code_used",
            Self::ApiKeyCreated => "api_key.created",
            Self::ApiKeyRevoked => "api_key.revoked",
            Self::WebhookCreated => "webhook.created",
            Self::WebhookChanged => "webhook.changed",
            Self::WebhookSecretRotated => "webhook.secret_rotated",
            Self::WebhookDisabled => "webhook.disabled",
            Self::WebhookRemoved => "webhook.removed",
            Self::IncomingWebhookCreated => "incoming_webhook.created",
            Self::IncomingWebhookRemoved => "incoming_webhook.removed",
            Self::ReportHandled => "report.handled",
        }
    }
}

/// Who acts, from which address, and when.
#[derive(Clone, Debug)]
pub struct By {
    /// The user, if the caller is one or acts as one.
    pub actor: Option<UserId>,
    /// The API key, if the caller used one.
    pub api_key: Option<ApiKeyId>,
    /// The network address of the caller; `None` for the command line.
    pub address: Option<String>,
    /// The time of the action.
    pub at: Timestamp,
}

impl By {
    /// The caller of an authenticated request.
    pub fn principal(principal: &Principal, at: Timestamp) -> Self {
        Self {
            actor: principal.person().map(|person| person.id),
            api_key: match principal.credential() {
                Credential::ApiKey(id, _) => Some(id),
                Credential::Open | Credential::Session(_) | Credential::Jwt => None,
            },
            address: Some(principal.address().to_string()),
            at,
        }
    }

    /// A caller who is not authenticated.
    pub fn stranger(address: IpAddr, at: Timestamp) -> Self {
        Self { actor: None, api_key: None, address: Some(address.to_string()), at }
    }

    /// The operator, on the command line.
    pub const fn operator(at: Timestamp) -> Self {
        Self { actor: None, api_key: None, address: None, at }
    }

    /// The same caller, with the user that was found in the meantime.
    pub fn known_as(&self, actor: UserId) -> Self {
        Self { actor: Some(actor), ..self.clone() }
    }
}

/// Writes an entry.
///
/// # Errors
/// Errors of the database.
pub async fn record(
    conn: &mut Conn,
    by: &By,
    action: Action,
    subject: Option<UserId>,
    detail: Option<String>,
) -> Result<()> {
    let entry = Entry {
        at: by.at,
        action: action.as_str().into(),
        actor_id: by.actor,
        api_key_id: by.api_key,
        subject_id: subject,
        address: by.address.clone(),
        detail,
    };
    store::identity::audit::insert(conn, &entry).await
}

/// Writes an entry about a refused attempt, in a new transaction, because a refused attempt commits nothing. If the entry
/// cannot be written, a warning is logged and the answer to the caller stays the same.
pub async fn record_refusal(app: &App, by: By, action: Action, subject: Option<UserId>, detail: Option<String>) {
    let written = app
        .db
        .write((by, action, subject, detail), |conn, (by, action, subject, detail)| {
            Box::pin(record(conn, by, *action, *subject, detail.clone()))
        })
        .await;
    if let Err(error) = written {
        tracing::warn!(%error, action = action.as_str(), "an audit entry could not be written");
    }
}

/// Lists entries with their ids, newest first.
///
/// # Errors
/// 422 if the cursor is invalid.
pub async fn list(app: &App, limit: Limit, cursor: Option<&str>) -> Result<Page<Vec<(i64, Entry)>>> {
    let before = pagination::begin(LIST, cursor, i64::MAX)?;
    let entries = app
        .db
        .read((before, limit), |conn, (before, limit)| {
            Box::pin(store::identity::audit::list(conn, *before, limit.to_read()))
        })
        .await?;
    Ok(Page::new(LIST, entries, limit, |(id, _)| [*id]))
}
