//! Posthaste: a messaging API that people run themselves.
//!
//! Imports go one way: `main → cli → config, http → workers → live → app → domain → store, mail → base`. A noun is in the same
//! area on every floor. `ARCHITECTURE.md` has the map and the invariants.

pub mod app;
pub mod base;
pub mod cli;
pub mod config;
pub mod domain;
pub mod http;
pub mod live;
pub mod mail;
pub mod store;
pub mod workers;
