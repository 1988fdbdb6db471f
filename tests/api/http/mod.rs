//! Tests of HTTP: conventions, fields, handshakes, rate limits, proxies, encodings, and secrets in logs and answers.

pub mod conventions;
pub mod fields;
pub mod handshake;
pub mod limits;
pub mod proxy;
pub mod representations;
pub mod secrecy;
