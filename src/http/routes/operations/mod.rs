//! Routes of administration, capabilities and health.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::state::HttpState;

pub mod admin;
pub mod capabilities;
pub mod health;

/// The routes of this area.
pub fn routes() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(admin::ban_user, admin::unban_user))
        .routes(routes!(admin::set_user_role))
        .routes(routes!(admin::issue_password_reset))
        .routes(routes!(admin::get_stats))
        .routes(routes!(capabilities::get_capabilities))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
}
