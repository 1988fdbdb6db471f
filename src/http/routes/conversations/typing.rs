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
use crate::live::Whisper;

/// Tells the others that the caller writes: they see it for five seconds. Once a second is enough; more is not told.
#[utoipa::path(
    post,
    path = "/api/conversations/{id}/typing",
    tag = "live",
    params(ConversationPath),
    responses((status = 204, description = "Told to those who listen, in conversations of up to 100 members.")),
)]
pub async fn type_in_conversation(
    State(state): State<HttpState>,
    PersonWriting(principal): PersonWriting,
    Path(path): Path<ConversationPath>,
    _query: Query<()>,
) -> Result<Response, Problem> {
    if let Some(told) = typing::typing(&state.app, &principal, path.id).await? {
        let event = EphemeralEvent {
            at: told.at,
            conversation_id: Some(told.conversation),
            actor_user_name: &told.user_name,
            data: EphemeralData::Typing { until: told.until },
        };
        let event = render_ephemeral(&event)?;
        state.live.whisper(Whisper { to: told.to, event });
    }
    Ok(no_content())
}
