//! A server of its own for each test, on a database of its own.

pub mod accounts;
pub mod callers;
pub mod cluster;
pub mod mail;
pub mod nats;
pub mod nginx;
pub mod people;
pub mod place;
pub mod process;
pub mod server;
pub mod trace;
pub mod watch;
pub mod wire;

pub use place::Place;
pub use server::{Answer, Options, Server, answer_of, raw};

/// Runs one test on both databases: `both!(name, async |place| { … })` gives `name::sqlite` and `name::postgres`.
#[macro_export]
macro_rules! both {
    ($name:ident, $test:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn sqlite() {
                $crate::support::run($crate::support::place::Kind::Sqlite, $test);
            }

            #[test]
            fn postgres() {
                $crate::support::run($crate::support::place::Kind::Postgres, $test);
            }
        }
    };
}

/// Gives the test a place for its data, and removes it afterwards.
pub fn run(kind: place::Kind, test: impl AsyncFnOnce(&Place)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let place = Place::new(kind).await;
        test(&place).await;
        place.remove().await;
    });
}
