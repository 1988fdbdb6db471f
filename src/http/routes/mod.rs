//! The routes: the types of requests and answers, and the handlers. Each resource has its own file.

pub mod conversations;
pub mod events;
pub mod files;
pub mod identity;
pub mod messages;
pub mod operations;
pub mod people;
pub mod sending;
