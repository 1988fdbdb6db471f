//! The HTTP floor: from bytes to a call of the domain, and back.
//!
//! Invariant: handlers parse, call one domain function, render. They reach the store through the domain alone.

pub mod admission;
pub mod answers;
pub mod bodies_audit;
pub mod bodies_conversations;
pub mod bodies_events;
pub mod bodies_incoming_webhooks;
pub mod bodies_invites;
pub mod bodies_messages;
pub mod bodies_reports;
pub mod bodies_scheduled;
pub mod bodies_sessions;
pub mod bodies_users;
pub mod client_address;
pub mod connection;
pub mod edge;
pub mod extract;
pub mod lease;
pub mod limits;
pub mod metrics;
pub mod openapi;
pub mod origin;
pub mod parameter_reader;
pub mod parameters;
pub mod policy;
pub mod problem;
pub mod router;
pub mod routes;
pub mod server;
pub mod state;
pub mod upgrade;
