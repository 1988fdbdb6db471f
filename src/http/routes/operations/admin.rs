//! `/api/admin`: bans, roles, password resets and statistics.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::time::Timestamp;
use crate::domain::access::principal;
use crate::domain::identity::audit::By;
use crate::domain::identity::{passwords, users};
use crate::domain::operations::stats;
use crate::domain::people::bans;
use crate::http::access::policy::Administrator;
use crate::http::bodies::answers::{json, no_content};
use crate::http::bodies::extract::{JsonBody, Path, Query};
use crate::http::bodies::problem::Problem;
use crate::http::bodies::users::Role;
use crate::http::state::HttpState;

/// Path parameter of a route about the account of one user.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AccountPath {
    /// The name of the user.
    #[param(example = "elmer")]
    user_name: String,
}

/// Ban a user
///
/// All sessions of the user end within a second, and the user cannot log in any more. Their invites and incoming webhooks end,
/// and their groups get another owner if nobody else can manage them.
#[utoipa::path(
    put,
    path = "/api/admin/users/{user_name}/ban",
    tag = "administration",
    params(AccountPath),
    responses(
        (status = 204, description = "Banned."),
        (status = 409, description = "`not_yourself`."),
    ),
)]
pub async fn ban_user(
    State(state): State<HttpState>,
    Administrator(principal): Administrator,
    Path(path): Path<AccountPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let by = By::principal(&principal, state.app.clock.now());
    bans::set_banned(&state.app, principal.resolve(&path.user_name)?, true, by).await?;
    Ok(no_content())
}

/// Lift the ban of a user
///
/// The user can log in again. Sessions that the ban has ended stay ended.
#[utoipa::path(
    delete,
    path = "/api/admin/users/{user_name}/ban",
    tag = "administration",
    params(AccountPath),
    responses((status = 204, description = "The user is not banned.")),
)]
pub async fn unban_user(
    State(state): State<HttpState>,
    Administrator(principal): Administrator,
    Path(path): Path<AccountPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let by = By::principal(&principal, state.app.clock.now());
    bans::set_banned(&state.app, principal.resolve(&path.user_name)?, false, by).await?;
    Ok(no_content())
}

/// Request body for setting a role.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"role": "admin"}))]
pub struct RoleChange {
    #[schema(inline)]
    role: Role,
}

/// Set the role of a user
///
/// The new rights count within a second, in all sessions of the user.
#[utoipa::path(
    put,
    path = "/api/admin/users/{user_name}/role",
    tag = "administration",
    params(AccountPath),
    request_body = RoleChange,
    responses((status = 204, description = "The role is set.")),
)]
pub async fn set_user_role(
    State(state): State<HttpState>,
    Administrator(principal): Administrator,
    Path(path): Path<AccountPath>,
    body: JsonBody<RoleChange>,
) -> Result<Response, Problem> {
    let role = match body.value.role {
        Role::User => principal::Role::User,
        Role::Admin => principal::Role::Admin,
    };
    let by = By::principal(&principal, state.app.clock.now());
    users::set_role(&state.app, principal.resolve(&path.user_name)?, role, by).await?;
    Ok(no_content())
}

/// A code that sets a new password.
#[derive(Serialize, ToSchema)]
pub struct PasswordResetCode<'a> {
    /// The code for `PUT /api/password-resets/{code}`. It is shown only once.
    #[schema(example = "phr_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG")]
    code: &'a str,
    /// The address that the code is used at.
    #[schema(example = "/api/password-resets/phr_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG")]
    url: String,
    #[schema(value_type = String, format = DateTime, example = "2026-11-22T09:30:00.123456Z")]
    expires_at: Timestamp,
}

/// Create a code that sets a new password
///
/// For administrators who hand over the code themselves, for example if the server sends no mail.
#[utoipa::path(
    post,
    path = "/api/admin/users/{user_name}/password-resets",
    tag = "administration",
    params(AccountPath),
    responses((status = 201, description = "The code. It can be used once, within one hour.", body = PasswordResetCode<'_>)),
)]
pub async fn issue_password_reset(
    State(state): State<HttpState>,
    Administrator(principal): Administrator,
    Path(path): Path<AccountPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let by = By::principal(&principal, state.app.clock.now());
    let issued = passwords::issue(&state.app, by, principal.resolve(&path.user_name)?).await?;
    let body = PasswordResetCode {
        url: passwords::reset_url(&state.app, &issued.code),
        code: &issued.code,
        expires_at: issued.expires_at,
    };
    json(StatusCode::CREATED, &body)
}

/// The numbers of stored objects.
#[derive(Serialize, ToSchema)]
#[schema(as = Stats)]
pub struct StatsBody {
    /// Users who are not erased.
    #[schema(example = 4)]
    users: i64,
    #[schema(example = 0)]
    banned_users: i64,
    /// Open sessions.
    #[schema(example = 2)]
    sessions: i64,
    #[schema(example = 1)]
    api_keys: i64,
    #[schema(example = 2)]
    conversations: i64,
    /// All messages ever sent.
    #[schema(example = 4)]
    messages_sent: i64,
    /// All events ever logged.
    #[schema(example = 4)]
    events: i64,
    /// The stored files.
    files: FileStatsBody,
    /// The size of the database on disk, in bytes.
    #[schema(example = 4_194_304)]
    database_bytes: i64,
}

/// The stored files. Equal files are stored and counted once; thumbnails are counted too.
#[derive(Serialize, ToSchema)]
#[schema(as = FileStats)]
pub struct FileStatsBody {
    #[schema(example = 2)]
    count: i64,
    #[schema(example = 48_213)]
    size_bytes: i64,
}

/// Get statistics
///
/// Counts users, sessions, conversations, messages, events and files, and measures the database.
#[utoipa::path(
    get,
    path = "/api/admin/stats",
    tag = "administration",
    responses((status = 200, description = "The statistics.", body = StatsBody)),
)]
pub async fn get_stats(
    State(state): State<HttpState>,
    _caller: Administrator,
    _query: Query<()>,
) -> Result<Response, Problem> {
    let stats = stats::get(&state.app).await?;
    json(
        StatusCode::OK,
        &StatsBody {
            users: stats.users,
            banned_users: stats.banned_users,
            sessions: stats.sessions,
            api_keys: stats.api_keys,
            conversations: stats.conversations,
            messages_sent: stats.messages_sent,
            events: stats.events,
            files: FileStatsBody { count: stats.files, size_bytes: stats.files_size_bytes },
            database_bytes: stats.database_bytes,
        },
    )
}
