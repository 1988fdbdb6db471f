//! The rules, one file a noun. Nothing here knows HTTP; nothing here writes SQL.

pub mod access;
pub mod conversations;
pub mod events;
pub mod identity;
pub mod messages;
pub mod operations;
pub mod people;
pub mod sending;
pub mod shared;
