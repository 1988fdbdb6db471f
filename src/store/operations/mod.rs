//! Statements for the operator: counts, checks, the clock and the mark of open data.

pub mod clock;
pub mod health;
pub mod open_data;
pub mod stats;
