//! Tests of HTTP: conventions, rate limits, proxies, and secrets in logs and answers.

pub mod conventions;
pub mod limits;
pub mod proxy;
pub mod secrecy;
