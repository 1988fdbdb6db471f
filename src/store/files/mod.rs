//! Rows of uploaded files: attachments, and the blobs that hold their bytes.

pub mod attachments;
pub mod blobs;
pub mod usage;
