//! The session of a WebSocket, and the frames it reads and writes.

pub mod frames;
pub mod session;
