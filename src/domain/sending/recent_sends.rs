//! Messages that this process sent in the last moments, without an idempotency key. The live tailer delivers them from
//! here instead of reading them back from the database.
//!
//! Invariants:
//! - Nothing is kept while no reader is connected, and never more than a few megabytes.
//! - A message is taken out for one event only: the event about its sending. A message that is not here is read from the
//!   database.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::drafts::{Answer, Sent};
use crate::base::error::Result;
use crate::base::ids::ConversationId;
use crate::domain::events::event_data::{Data, Event};
use crate::domain::identity::names::Names;
use crate::store::events::events::{Kind, LoggedEvent};

/// Maximum number of messages kept.
const MESSAGES_LIMIT: usize = 4_096;
/// Maximum size of the message bodies kept, in bytes.
const BODIES_LIMIT_BYTES: usize = 4 << 20;

/// The recently sent messages of this process.
#[derive(Default)]
pub struct RecentSends {
    enabled: AtomicBool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    messages: HashMap<(ConversationId, i64), Sent>,
    bodies_bytes: usize,
}

impl RecentSends {
    /// Starts or stops keeping messages. They are kept while a reader is connected.
    pub fn want(&self, enabled: bool) {
        if self.enabled.swap(enabled, Ordering::Relaxed) && !enabled {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
        }
    }

    /// Keeps the messages of a batch that have no idempotency key. Call this after the commit.
    pub fn keep(&self, answers: &[Result<Answer>]) {
        if !self.enabled.load(Ordering::Relaxed) {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for answer in answers {
            let Ok(Answer::Sent(sent)) = answer else { continue };
            // All kept messages are dropped when a limit is reached. The tailer reads those that it still needs from
            // the database.
            if kept.messages.len() >= MESSAGES_LIMIT || kept.bodies_bytes >= BODIES_LIMIT_BYTES {
                *kept = Kept::default();
            }
            kept.bodies_bytes += sent.message.body.len();
            let key = (sent.message.conversation_id, sent.message.seq);
            if let Some(before) = kept.messages.insert(key, Sent::clone(sent)) {
                kept.bodies_bytes -= before.message.body.len();
            }
        }
    }

    /// The event for a log entry about a sent message, if the message is kept here.
    pub fn take(&self, logged: &LoggedEvent) -> Option<Event> {
        let LoggedEvent { position, kind: Kind::MessageCreated, at, conversation_id, seq, actor_id, .. } = *logged
        else {
            return None;
        };
        let key = (conversation_id?, seq?);
        let sent = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let sent = kept.messages.remove(&key)?;
            kept.bodies_bytes -= sent.message.body.len();
            sent
        };
        let Sent { message, sender_user_name, recipient_user_name, mentioned_user_names } = sent;
        // If the database was replaced by another one, it may have a different message with this `seq`.
        if message.timestamp_sent != at || message.sender_id != actor_id {
            return None;
        }
        let mut names: Names = message.mentions.iter().copied().zip(mentioned_user_names).collect();
        names.extend(message.recipient_id.zip(recipient_user_name));
        names.insert(message.sender_id, sender_user_name.clone());
        Some(Event {
            position,
            kind: Kind::MessageCreated,
            at,
            conversation_id,
            actor_user_name: Some(sender_user_name),
            data: Data::Message(Box::new((message, names))),
        })
    }
}
