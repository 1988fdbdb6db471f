//! Rows of uploaded files: attachments, custom emoji, GIFs, and the blobs that hold their bytes.

pub mod attachments;
pub mod avatars;
pub mod blobs;
pub mod custom_emoji;
pub mod gifs;
pub mod resumable_uploads;
pub mod usage;

/// Statements that remove the personal data of person $1 during an erasure. The attachments of the user's messages stay as long as
/// the messages.
pub(in crate::store) const DELETED_WITH_PERSON: &[&str] = &[
    "DELETE FROM messaging.file_usage WHERE user_id = $1",
    // The time of the upload has passed, so the next sweep deletes the picture unless something else uses its attachment.
    "UPDATE messaging.attachments SET expires_at = created_at
      WHERE id = (SELECT avatar_id FROM messaging.users WHERE id = $1)",
];
