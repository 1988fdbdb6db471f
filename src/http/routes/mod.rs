//! The routes, one file a noun: request and response types, handlers.

pub mod conversations;
pub mod events;
pub mod identity;
pub mod messages;
pub mod operations;
pub mod people;
pub mod sending;
