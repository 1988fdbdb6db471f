//! Limits how often it is published that somebody writes in a conversation.

use quick_cache::sync::Cache;

use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;

/// How soon it is published again of one person in one conversation.
const INTERVAL_MICROS: i64 = 1_000_000;
/// Pairs of a person and a conversation that are remembered.
const CAPACITY: usize = 10_000;

/// When it was last published that somebody writes in a conversation.
pub struct TypingThrottle(Cache<(UserId, ConversationId), Timestamp>);

impl Default for TypingThrottle {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl TypingThrottle {
    /// Whether it may be published now; if so, the interval begins anew.
    pub fn admit(&self, person: UserId, conversation: ConversationId, now: Timestamp) -> bool {
        let key = (person, conversation);
        let recent = self.0.get(&key).is_some_and(|last| (last..last.plus_micros(INTERVAL_MICROS)).contains(&now));
        if !recent {
            self.0.insert(key, now);
        }
        !recent
    }
}
