//! Routes of events and outgoing webhooks.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::state::HttpState;

pub mod events;
pub mod webhooks;
pub mod ws;

/// The routes of this area.
pub fn routes() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(webhooks::list_webhooks, webhooks::create_webhook))
        .routes(routes!(webhooks::get_webhook, webhooks::update_webhook, webhooks::delete_webhook))
        .routes(routes!(webhooks::list_deliveries))
        .routes(routes!(webhooks::replay_webhook))
        .routes(routes!(webhooks::rotate_webhook_secret))
        .routes(routes!(webhooks::test_webhook))
        .routes(routes!(events::poll_events))
        .routes(routes!(events::stream_events))
        .routes(routes!(ws::open_socket))
}
