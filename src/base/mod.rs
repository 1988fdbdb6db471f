//! The code that every layer uses: ids, request ids, time, text, search terms, links, mentions, errors and their codes, metrics
//! and tasks. It imports no other area.

pub mod codes;
pub mod error;
pub mod ids;
pub mod links;
pub mod mentions;
pub mod metrics;
mod process_metrics;
pub mod request_id;
pub mod tasks;
pub mod terms;
pub mod text;
pub mod time;
