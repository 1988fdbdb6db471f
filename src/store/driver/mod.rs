//! What both drivers are written against: values, the environment, faults and files.

pub mod environment;
pub mod fatal;
pub mod files;
pub mod unit;
pub mod values;
pub mod write_status;
