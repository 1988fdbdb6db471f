//! Access control: who sends a request, from where, how often, and what they may call.

pub mod admission;
pub mod client_address;
pub mod host;
pub mod lease;
pub mod limits;
pub mod origin;
pub mod policy;
pub mod request_span;
