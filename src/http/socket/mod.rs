//! Open WebSockets. A socket session handles one of them. `frames` has the frames that it reads and writes.

pub mod frames;
pub mod session;
