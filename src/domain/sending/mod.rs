//! Sending messages: the queues, the batches, their caches, and scheduled messages. Reactions and receipts have a queue
//! and batches of their own.

pub mod change_batch;
pub mod change_queue;
pub mod directory;
pub mod draft_attachments;
pub mod draft_people;
pub mod drafts;
pub mod recent_sends;
pub mod scheduled;
pub mod send_batch;
pub mod send_queue;
