//! The JSON form of users.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::files::avatars;
use crate::domain::identity::users::{DirectMessagesFrom as StoredPreference, User};

/// A user: a person or a bot.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserBody<'a> {
    /// Assigned by the server. No other user ever gets the same id.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 1)]
    id: i64,
    #[schema(example = "Rebecca")]
    first_name: &'a str,
    #[schema(example = "DiBari")]
    last_name: &'a str,
    /// Unique, ignoring ASCII case.
    #[schema(example = "rdibari")]
    user_name: &'a str,
    /// Null unless the caller is this user, an administrator or an API key, or uses open access.
    #[schema(example = "rdibari@example.org")]
    email: Option<&'a str>,
    /// Whether a second factor is enabled.
    mfa: bool,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T08:30:00.123456Z")]
    modified_at: Timestamp,
    /// The path of the user's picture. Null without a picture. Another picture has another path.
    #[schema(example = "/api/attachments/1/thumbnail")]
    avatar_url: Option<String>,
    #[schema(inline, value_type = Role)]
    role: &'static str,
    /// Whether the user is a bot.
    is_bot: bool,
    /// Null unless the caller is this user, an administrator or an API key, or uses open access.
    #[schema(inline, value_type = Option<DirectMessagesFrom>)]
    direct_messages_from: Option<&'static str>,
}

/// The role of a user on the whole server.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A user without administrative rights.
    User,
    /// An administrator.
    Admin,
}

/// Who may send direct messages to a user.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DirectMessagesFrom {
    /// All users.
    Everyone,
    /// Only friends.
    Friends,
}

impl<'a> UserBody<'a> {
    /// The JSON form of a user for a caller.
    pub fn new(app: &App, user: &'a User, principal: &Principal) -> Self {
        let default = app.settings.direct_messages_from;
        Self::shown(user, default, principal.sees_private(user.id))
    }

    /// The JSON form with all private fields.
    pub fn whole(user: &'a User, default: StoredPreference) -> Self {
        Self::shown(user, default, true)
    }

    /// The JSON form with or without the private fields. `default` is shown if the user has not set
    /// `direct_messages_from`.
    pub fn shown(user: &'a User, default: StoredPreference, private: bool) -> Self {
        Self {
            id: user.id.0,
            first_name: &user.first_name,
            last_name: &user.last_name,
            user_name: &user.user_name,
            email: user.email.as_deref().filter(|_| private),
            mfa: user.mfa,
            created_at: user.created_at,
            modified_at: user.modified_at,
            avatar_url: user.avatar_id.map(avatars::path),
            role: user.role.as_str(),
            is_bot: user.is_bot,
            direct_messages_from: private.then(|| user.direct_messages_from.unwrap_or(default).as_str()),
        }
    }
}
