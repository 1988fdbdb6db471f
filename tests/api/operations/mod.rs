//! Tests for operators: administration, logs, mail, metrics, tasks, restores and durability.

pub mod admin;
pub mod commands;
pub mod configuration;
pub mod dashboard;
pub mod durability;
pub mod log;
pub mod mail;
pub mod metrics;
pub mod operations;
pub mod restarts;
pub mod restore;
pub mod scheduled_backups;
pub mod start;
pub mod workers;
