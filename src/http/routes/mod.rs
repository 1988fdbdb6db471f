//! The routes, one file a noun: request and response types, handlers.

pub mod admin;
pub mod api_keys;
pub mod audit;
pub mod capabilities;

pub mod conversations;
pub mod events;
pub mod export;
pub mod forwards;
pub mod friends;
pub mod health;
pub mod history;
pub mod incoming_webhooks;
pub mod invites;
pub mod members;
pub mod messages;
pub mod mfa;
pub mod passwords;
pub mod pins;
pub mod presence;
pub mod reactions;
pub mod receipts;
pub mod reports;
pub mod scheduled;
pub mod search;
pub mod sessions;
pub mod threads;
pub mod typing;
pub mod users;
pub mod webhooks;
pub mod ws;
