//! Code that both drivers share: values, units of work, the environment, the status of writes, the fatal fault, and files.

pub mod environment;
pub mod fatal;
pub mod files;
pub mod unit;
pub mod values;
pub mod write_status;
