//! Routes for operators and about the server.

pub mod admin;
pub mod capabilities;
pub mod health;
