//! Rows of messages, and of everything that belongs to a message.

pub mod digests;
pub mod edits;
pub mod link_previews;
pub mod mentions;
pub mod messages;
pub mod pins;
pub mod reactions;
pub mod receipts;
pub mod removals;
pub mod scheduled;
pub mod search;
pub mod threads;
pub mod unread;

/// Statements that delete the earlier bodies, mentions, reactions and attachments of the messages of conversation $1 with the `seq`s $2.
/// They run when the messages become tombstones, and when the messages of a deleted conversation are deleted.
const DELETED_WITH_MESSAGES: &[&str] = &[
    // The time of the upload has passed, so the next sweep deletes the attachments that nothing else uses.
    "UPDATE messaging.attachments SET expires_at = created_at
      WHERE id IN (SELECT attachment_id FROM messaging.message_attachments
                    WHERE conversation_id = $1 AND seq = ANY($2))",
    "DELETE FROM messaging.message_attachments WHERE conversation_id = $1 AND seq = ANY($2)",
    "DELETE FROM messaging.message_edits WHERE conversation_id = $1 AND seq = ANY($2)",
    "DELETE FROM messaging.mentions WHERE conversation_id = $1 AND seq = ANY($2)",
    "DELETE FROM messaging.reactions WHERE conversation_id = $1 AND seq = ANY($2)",
];

/// Statements that remove the personal data of person $1 during an erasure. Tables that can have many rows for one person
/// have no statement here. Their rows are deleted in batches afterwards (`domain/people/erasure.rs`). Scheduled messages to the
/// person belong to their senders. They stay, and are refused when they are due.
pub(in crate::store) const DELETED_WITH_PERSON: &[&str] = &[
    "UPDATE messaging.attachments SET expires_at = created_at
      WHERE id IN (SELECT a.attachment_id FROM messaging.scheduled_attachments a
                     JOIN messaging.scheduled_sends s ON s.id = a.scheduled_id WHERE s.sender_id = $1)",
    "DELETE FROM messaging.scheduled_attachments
      WHERE scheduled_id IN (SELECT id FROM messaging.scheduled_sends WHERE sender_id = $1)",
    "DELETE FROM messaging.scheduled_sends WHERE sender_id = $1",
];
