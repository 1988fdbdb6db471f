//! The HTTP layer: from the bytes of a request to a call of the domain, and back.
//!
//! Invariant: a handler parses the request, calls one function of the domain and renders the answer. It uses the store only
//! through the domain.

pub mod access;
pub mod bodies;
pub mod routes;
pub mod server;
pub mod socket;
pub mod state;
