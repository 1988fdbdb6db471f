//! Identifiers, and the randomness behind those that must not be guessed.
//!
//! Invariant: ids are given by the database, rise, stay below 2^53 (so that a JavaScript number holds them) and are never
//! given twice.

use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use serde::Serialize;

/// The largest id: 2^53 - 1.
pub const MAX_ID: i64 = (1 << 53) - 1;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);
    };
}

id!(
    /// Names a user.
    UserId
);
id!(
    /// Names a conversation.
    ConversationId
);
id!(
    /// Names a message in the whole database; its place in a conversation is its `seq`.
    MessageId
);

id!(
    /// Names a session of a user.
    SessionId
);
id!(
    /// Names a webhook.
    WebhookId
);
id!(
    /// Names an incoming webhook.
    IncomingWebhookId
);
id!(
    /// Names an API key.
    ApiKeyId
);

id!(
    /// Names an invite into a group.
    InviteId
);
id!(
    /// Names a report of a message.
    ReportId
);

id!(
    /// Names a message that waits for its time; it is given its id as a message when it is sent.
    ScheduledId
);

/// Where randomness comes from: an input, so that a test can repeat a run.
#[derive(Debug)]
pub enum Rng {
    /// The operating system's generator.
    System,
    /// SplitMix64 from a seed; for tests alone.
    Seeded(AtomicU64),
}

impl Rng {
    /// `N` random bytes.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn bytes<const N: usize>(&self) -> Result<[u8; N], std::io::Error> {
        let mut bytes = [0; N];
        match self {
            #[expect(clippy::disallowed_methods, reason = "the one place that asks the system for randomness")]
            Self::System => getrandom::fill(&mut bytes).map_err(std::io::Error::other)?,
            Self::Seeded(state) => {
                for chunk in bytes.chunks_mut(8) {
                    let mut word = state.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
                    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                    chunk.copy_from_slice(&(word ^ (word >> 31)).to_le_bytes()[..chunk.len()]);
                }
            }
        }
        Ok(bytes)
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}
