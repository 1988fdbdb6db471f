//! Routes of users, credentials and the audit log.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::state::HttpState;

pub mod api_keys;
pub mod audit;
pub mod mfa;
pub mod passwords;
pub mod sessions;
pub mod users;

/// The routes of this area.
pub fn routes() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(users::list_users, users::register_user))
        .routes(routes!(users::get_user, users::update_user, users::erase_user))
        .routes(routes!(passwords::change_password))
        .routes(routes!(passwords::request_email_confirmation))
        .routes(routes!(passwords::confirm_email))
        .routes(routes!(passwords::request_password_reset))
        .routes(routes!(passwords::reset_password))
        .routes(routes!(mfa::create_mfa_secret, mfa::enable_mfa))
        .routes(routes!(mfa::disable_mfa))
        .routes(routes!(sessions::list_sessions, sessions::create_session))
        .routes(routes!(sessions::delete_session))
        .routes(routes!(api_keys::list_api_keys, api_keys::create_api_key))
        .routes(routes!(api_keys::revoke_api_key))
        .routes(routes!(audit::list_audit))
}
