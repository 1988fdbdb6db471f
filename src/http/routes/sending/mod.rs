//! Routes of what is sent later.

pub mod scheduled;
