//! What both drivers share: the types of values, the environment, the fatal fault, and files.

pub mod environment;
pub mod fatal;
pub mod files;
pub mod unit;
pub mod values;
pub mod write_status;
