//! Files: uploads, who may see an attachment, when its bytes are deleted, emoji, and GIFs.

pub mod attachments;
pub mod avatars;
pub mod copies;
pub mod custom_emoji;
pub mod demo_gifs;
pub mod emoji_list;
pub mod file_names;
pub mod files;
pub mod gif_packs;
pub mod gif_provider;
pub mod gif_search;
pub mod gifs;
pub mod inventory;
pub mod links;
pub mod resumable_uploads;
pub mod sweep;
pub mod uploads;
