//! The functions of `http` that render values for the domain.
//!
//! Invariant: the domain returns its types and `http` renders them, except for the functions in [`Renderer`] and
//! [`Once::render`](super::idempotency::Once::render). The domain calls `http` in no other way.

use crate::base::error::Result;
use crate::domain::events::event_data::{EphemeralEvent, Event};
use crate::domain::identity::names::Names;
use crate::store::messages::messages::Message;

/// Renders a message with the names of the users in it.
pub type RenderMessage = fn(&Message, &Names) -> Result<Vec<u8>>;

/// The functions of `http` that render domain values as JSON for the layers below it. There is one set of them, which
/// [`App`](crate::app::App) holds.
///
/// They are called below `http` because the bytes are shared there: a tail keeps rendered messages for all readers, and the
/// tailer renders an event once for the queues of all its readers. Two callers render the event again: a reader that catches up
/// from the database, and each delivery to a webhook.
#[derive(Clone, Copy)]
pub struct Renderer {
    /// Renders a message.
    pub message: RenderMessage,
    /// Renders an event. The text is the cursor after the event.
    pub event: fn(&Event, &str) -> Result<Vec<u8>>,
    /// Renders an ephemeral event.
    pub ephemeral_event: fn(&EphemeralEvent<'_>) -> Result<String>,
}
