//! The types of requests and answers, and the extractors of parameters and bodies.

pub mod answers;
pub mod attachments;
pub mod audit;
pub mod conditions;
pub mod conversations;
pub mod disposition;
pub mod emoji;
pub mod events;
pub mod extract;
pub mod field_errors;
pub mod file_body;
pub mod frames;
pub mod gifs;
pub mod incoming_webhooks;
pub mod invites;
pub mod live_schemas;
pub mod messages;
pub mod parameter_reader;
pub mod parameters;
pub mod problem;
pub mod reports;
pub mod scheduled;
pub mod sessions;
pub mod slack;
pub mod users;
