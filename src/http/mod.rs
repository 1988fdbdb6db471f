//! The HTTP floor: from bytes to a call of the domain, and back.
//!
//! Invariant: handlers parse, call one domain function, render. They reach the store through the domain alone.

pub mod access;
pub mod bodies;
pub mod routes;
pub mod server;
pub mod socket;
pub mod state;
