//! Who did what to an account or a key, when and from where.
//!
//! Invariant: an entry is written in the transaction of what it tells.

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

/// What happened, as a stable word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is its word")]
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
    WebhookRemoved,
    /// An incoming webhook was made, and the bot that it is about with it.
    IncomingWebhookCreated,
    /// An incoming webhook was ended.
    IncomingWebhookRemoved,
    ReportHandled,
}

impl Action {
    /// As it stands in the log.
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
            Self::WebhookRemoved => "webhook.removed",
            Self::IncomingWebhookCreated => "incoming_webhook.created",
            Self::IncomingWebhookRemoved => "incoming_webhook.removed",
            Self::ReportHandled => "report.handled",
        }
    }
}

/// Who acts, from where, and when.
#[derive(Clone, Debug)]
pub struct By {
    /// The person.
    pub actor: Option<UserId>,
    /// The API key.
    pub api_key: Option<ApiKeyId>,
    /// From where; `None` for the command line.
    pub address: Option<String>,
    /// Now.
    pub at: Timestamp,
}

impl By {
    /// A caller.
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

    /// Somebody who is not known yet.
    pub fn stranger(address: IpAddr, at: Timestamp) -> Self {
        Self { actor: None, api_key: None, address: Some(address.to_string()), at }
    }

    /// The operator, on the command line.
    pub const fn operator(at: Timestamp) -> Self {
        Self { actor: None, api_key: None, address: None, at }
    }

    /// The same, known to be this person now.
    pub fn known_as(&self, actor: UserId) -> Self {
        Self { actor: Some(actor), ..self.clone() }
    }
}

/// Writes an entry.
///
/// # Errors
/// Of the database.
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

/// Writes an entry about something that failed, and so has no transaction of its own. What the caller is told does not wait
/// for it to succeed.
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

/// Entries with their ids, newest first.
///
/// # Errors
/// 422 for a cursor that is none.
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
