//! Tests of live events and webhooks.

pub mod live;
pub mod nodes;
pub mod visibility;
pub mod webhook_management;
pub mod webhooks;
