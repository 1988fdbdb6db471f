//! Files: uploads, who may see an attachment, and when its bytes are deleted.

pub mod attachments;
pub mod copies;
pub mod avatars;
pub mod file_names;
pub mod files;
pub mod inventory;
pub mod resumable_uploads;
pub mod links;
pub mod sweep;
pub mod uploads;
