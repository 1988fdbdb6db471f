//! Limits how often a typing notice is published.

use quick_cache::sync::Cache;

use crate::base::ids::{ConversationId, UserId};
use crate::base::time::Timestamp;

/// The shortest interval between two notices of one user in one conversation.
const INTERVAL_MICROS: i64 = 1_000_000;
/// Maximum number of pairs of a user and a conversation that are remembered.
const CAPACITY: usize = 10_000;

/// When a typing notice of a user in a conversation was last published.
pub struct TypingThrottle(Cache<(UserId, ConversationId), Timestamp>);

impl Default for TypingThrottle {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl TypingThrottle {
    /// Whether a notice may be published now. If so, the interval starts again.
    pub fn admit(&self, person: UserId, conversation: ConversationId, now: Timestamp) -> bool {
        let key = (person, conversation);
        let recent = self.0.get(&key).is_some_and(|last| (last..last.plus_micros(INTERVAL_MICROS)).contains(&now));
        if !recent {
            self.0.insert(key, now);
        }
        !recent
    }
}
