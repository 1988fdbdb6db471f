//! Tests of groups, their incoming webhooks, and typing.

pub mod groups;
pub mod incoming_webhooks;
pub mod listing;
pub mod typing;
