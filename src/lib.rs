//! Posthaste, a self-hosted messaging server.
//!
//! Imports go one way: `main → cli → config, http → workers → live → app → domain → store, mail → base`. Each
//! layer is divided into areas, and an area has the same name in every layer. `ARCHITECTURE.md` has the map and the invariants.

pub mod app;
pub mod base;
pub mod blobs;
pub mod cli;
pub mod config;
pub mod domain;
pub mod http;
pub mod live;
pub mod mail;
pub mod media;
pub mod outbound;
pub mod store;
pub mod workers;
