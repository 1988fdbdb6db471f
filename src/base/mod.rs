//! What every floor uses: ids, time, text, search terms, errors and metrics. Nothing here imports anything of ours.

pub mod error;
pub mod ids;
pub mod metrics;
pub mod request_id;
pub mod tasks;
pub mod terms;
pub mod text;
pub mod time;
