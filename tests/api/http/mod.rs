//! Tests of HTTP: conventions, fields, rate limits, proxies, and secrets in logs and answers.

pub mod conventions;
pub mod fields;
pub mod limits;
pub mod proxy;
pub mod secrecy;
