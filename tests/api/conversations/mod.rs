//! Tests of groups, their incoming webhooks, and typing.

pub mod groups;
pub mod incoming_webhooks;
pub mod listing;
pub mod lists;
pub mod rights;
pub mod typing;
