//! What was sent a moment ago, for the telling of it: who is told needs what the send has just had, so it is not read back.
//!
//! Invariants: nothing is kept while nobody listens, nor more than a few megabytes; what is kept is taken for the event of its
//! own sending alone. What is not here is in the database.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::drafts::{Answer, Sent};
use crate::base::error::Result;
use crate::base::ids::ConversationId;
use crate::domain::events::event_data::{Data, Event};
use crate::domain::identity::names::Names;
use crate::store::events::events::{Kind, Logged};

/// Messages that wait to be told of.
const MESSAGES_LIMIT: usize = 4_096;
/// Bytes of their bodies.
const BODIES_LIMIT_BYTES: usize = 4 << 20;

/// The newest messages of this server.
#[derive(Default)]
pub struct Fresh {
    wanted: AtomicBool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    messages: HashMap<(ConversationId, i64), Sent>,
    bodies_bytes: usize,
}

impl Fresh {
    /// Whether somebody listens.
    pub fn want(&self, wanted: bool) {
        if self.wanted.swap(wanted, Ordering::Relaxed) && !wanted {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
        }
    }

    /// Keeps what was sent. To be called behind the commit.
    pub fn keep(&self, answers: &[Result<Answer>]) {
        if !self.wanted.load(Ordering::Relaxed) {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for answer in answers {
            let Ok(Answer::Sent(sent)) = answer else { continue };
            // What nobody took by now was read from the database.
            if kept.messages.len() >= MESSAGES_LIMIT || kept.bodies_bytes >= BODIES_LIMIT_BYTES {
                *kept = Kept::default();
            }
            kept.bodies_bytes += sent.message.body.len();
            let place = (sent.message.conversation_id, sent.message.seq);
            if let Some(before) = kept.messages.insert(place, Sent::clone(sent)) {
                kept.bodies_bytes -= before.message.body.len();
            }
        }
    }

    /// The event of a send, if what was sent is here.
    pub fn take(&self, logged: &Logged) -> Option<Event> {
        let Logged { position, kind: Kind::MessageCreated, at, conversation_id, seq, actor_id, .. } = *logged else {
            return None;
        };
        let place = (conversation_id?, seq?);
        let sent = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let sent = kept.messages.remove(&place)?;
            kept.bodies_bytes -= sent.message.body.len();
            sent
        };
        let Sent { message, sender_user_name, recipient_user_name, mentioned_user_names } = sent;
        // A database that was put in the place of another one may have another message here.
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
