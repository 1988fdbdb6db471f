//! Services for the operator: health, the shared clock, counts, housekeeping, restores, open data and the demo.

pub mod clock;
pub mod database_clock;
pub mod demo;
pub mod health;
pub mod housekeeping;
pub mod open_data;
pub mod restores;
pub mod stats;
pub mod write_probe;
