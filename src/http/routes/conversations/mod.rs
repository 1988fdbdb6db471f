//! Routes of conversations, members, invites and incoming webhooks.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::state::HttpState;

pub mod conversations;
pub mod incoming_webhooks;
pub mod invites;
pub mod members;
pub mod typing;

/// The routes of this area.
pub fn routes() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(conversations::list_conversations, conversations::create_conversation))
        .routes(routes!(
            conversations::get_conversation,
            conversations::update_conversation,
            conversations::delete_conversation
        ))
        .routes(routes!(members::list_members))
        .routes(routes!(members::put_member, members::remove_member))
        .routes(routes!(invites::create_invite, invites::list_invites))
        .routes(routes!(invites::delete_invite))
        .routes(routes!(invites::get_invite, invites::accept_invite))
        .routes(routes!(incoming_webhooks::create_incoming_webhook, incoming_webhooks::list_incoming_webhooks))
        .routes(routes!(incoming_webhooks::delete_incoming_webhook))
        .routes(routes!(incoming_webhooks::post_incoming_message))
        .routes(routes!(typing::send_typing))
}
