//! Routes of messages in conversations, the timeline and the search.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::state::HttpState;

pub mod forwards;
pub mod history;
pub mod messages;
pub mod pins;
pub mod reactions;
pub mod receipts;
pub mod search;
pub mod threads;

/// The routes of this area.
pub fn routes() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(messages::send_message))
        .routes(routes!(messages::list_messages))
        .routes(routes!(history::list_conversation_messages))
        .routes(routes!(history::get_conversation_message, history::edit_message, history::delete_message))
        .routes(routes!(history::get_message_by_id))
        .routes(routes!(history::list_message_history))
        .routes(routes!(receipts::report_receipts))
        .routes(routes!(receipts::list_receipts))
        .routes(routes!(reactions::put_reaction, reactions::delete_reaction))
        .routes(routes!(reactions::list_reactions))
        .routes(routes!(pins::pin_message, pins::unpin_message))
        .routes(routes!(pins::list_pins))
        .routes(routes!(threads::list_replies))
        .routes(routes!(forwards::forward_message))
        .routes(routes!(search::search_messages))
}
