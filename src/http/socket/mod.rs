//! The WebSocket: its session, and the frames that it reads and writes.

pub mod frames;
pub mod session;
