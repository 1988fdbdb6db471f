//! `/api/conversations/{id}/typing`.

use axum::extract::State;
use axum::response::Response;

use crate::domain::conversations::typing;
use crate::domain::events::event_data::{EphemeralData, EphemeralEvent};
use crate::http::access::policy::PersonWriting;
use crate::http::bodies::answers::no_content;
use crate::http::bodies::events::render_ephemeral;
use crate::http::bodies::extract::{Path, Query};
use crate::http::bodies::parameters::ConversationPath;
use crate::http::bodies::problem::Problem;
use crate::http::state::HttpState;
use crate::live::EphemeralDelivery;

/// Report that the caller is typing
///
/// Sends the ephemeral event `typing` to the other members. It is valid for five seconds. At most one event per second is sent;
/// further requests in the same second have no effect.
#[utoipa::path(
    post,
    path = "/api/conversations/{id}/typing",
    tag = "live",
    params(ConversationPath),
    responses((status = 204, description = "Accepted. Events are sent only in conversations with at most 100 members.")),
)]
pub async fn send_typing(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<ConversationPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    if let Some(typing) = typing::typing(&state.app, &principal, path.id).await? {
        let event = EphemeralEvent {
            at: typing.at,
            conversation_id: Some(typing.conversation),
            actor_user_name: &typing.user_name,
            data: EphemeralData::Typing { until: typing.until },
        };
        let event = render_ephemeral(&event)?;
        state.live.publish_ephemeral(EphemeralDelivery { to: typing.to, event });
    }
    Ok(no_content())
}
