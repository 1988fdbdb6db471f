//! Tests of conventions, limits and proxies.

pub mod conventions;
pub mod limits;
pub mod proxy;
pub mod secrecy;
