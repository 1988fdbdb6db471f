//! Statements for the operator: counts, checks and the clock.

pub mod clock;
pub mod health;
pub mod stats;
