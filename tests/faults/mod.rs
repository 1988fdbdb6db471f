//! Faults of storage and network, one file a kind: what is promised against each is in docs/reliability.md.
//!
//! A kind needs a real fault: a disk that fails a call, a peer that falls silent, a server that is stopped. To add one,
//! write a file here that injects the fault into a running server and holds the promise against what clients and the
//! database saw.

mod backup_sync;
mod damage;
mod damaged_rows;
