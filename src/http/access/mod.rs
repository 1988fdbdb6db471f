//! Who calls, from where, and how often.

pub mod admission;
pub mod client_address;
pub mod lease;
pub mod limits;
pub mod origin;
pub mod policy;
pub mod request_span;
