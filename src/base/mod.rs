//! What every floor uses: ids, request ids, time, text, search terms, errors, metrics and tasks. Nothing here imports another area.

pub mod error;
pub mod ids;
pub mod metrics;
pub mod request_id;
pub mod tasks;
pub mod terms;
pub mod text;
pub mod time;
