//! Sending: queues, batches, what they remember, and what is sent later.

pub mod change_batch;
pub mod change_queue;
pub mod directory;
pub mod draft_people;
pub mod drafts;
pub mod recent_sends;
pub mod scheduled;
pub mod send_batch;
pub mod send_queue;
