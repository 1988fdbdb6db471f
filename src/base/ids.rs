//! The types of ids, and the source of randomness for secrets.
//!
//! Invariant: the database assigns ids. They increase, stay below 2^53 (so that a JavaScript number can hold them) and are
//! never assigned twice.

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
    /// The id of a user.
    UserId
);
id!(
    /// The id of a conversation.
    ConversationId
);
id!(
    /// The id of a message, unique in the whole database. The place of a message in its conversation is its `seq`.
    MessageId
);

id!(
    /// The id of a session.
    SessionId
);
id!(
    /// The id of an outgoing webhook.
    WebhookId
);
id!(
    /// The id of an incoming webhook.
    IncomingWebhookId
);
id!(
    /// The id of an API key.
    ApiKeyId
);

id!(
    /// The id of an invite into a group.
    InviteId
);
id!(
    /// The id of an attachment.
    AttachmentId
);
id!(
    /// The id of a blob: the stored bytes of a file.
    BlobId
);
id!(
    /// The id of a resumable upload.
    UploadId
);
id!(
    /// The id of a custom emoji.
    EmojiId
);
id!(
    /// The id of a GIF of the server itself.
    GifId
);
id!(
    /// The id of a report.
    ReportId
);

id!(
    /// The id of a scheduled message. When the message is sent, it gets a [`MessageId`].
    ScheduledId
);

/// The source of randomness. It is an input, so that a test can repeat a run.
#[derive(Debug)]
pub enum Rng {
    /// The operating system's generator.
    System,
    /// SplitMix64 with a seed, for tests only.
    Seeded(AtomicU64),
}

impl Rng {
    /// `N` random bytes.
    ///
    /// # Errors
    /// When the operating system cannot provide random bytes.
    pub fn bytes<const N: usize>(&self) -> Result<[u8; N], std::io::Error> {
        let mut bytes = [0; N];
        match self {
            #[expect(clippy::disallowed_methods, reason = "the only place that takes randomness from the system")]
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

/// Encodes bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}
