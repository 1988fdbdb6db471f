//! Support for tests. Each test starts its own server on its own database.

pub mod accounts;
pub mod callers;
pub mod cluster;
pub mod contract;
pub mod files;
pub mod mail;
pub mod migrations;
pub mod nats;
pub mod nginx;
pub mod people;
pub mod place;
pub mod process;
pub mod server;
pub mod site;
pub mod trace;
pub mod watch;
pub mod wire;

use posthaste::base::ids::Rng;

pub use place::Place;
pub use server::{Answer, Options, Server, answer_of, raw};

/// Defines one test for both databases: `both!(name, async |place| { … })` gives `name::sqlite` and `name::postgres`.
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

/// Whether the tests run under `make soak`, which runs the same tests with larger numbers.
pub fn is_soak() -> bool {
    std::env::var_os("POSTHASTE_SOAK").is_some()
}

/// Returns `usual`, or `in_soak` if the tests run under `make soak`.
pub fn many(usual: usize, in_soak: usize) -> usize {
    if is_soak() { in_soak } else { usual }
}

/// Creates a random generator for a test and prints its seed. The environment variable `POSTHASTE_SEED` sets the seed.
pub fn seeded() -> (u64, Rng) {
    let seed = match std::env::var("POSTHASTE_SEED") {
        Ok(seed) => seed.parse().expect("POSTHASTE_SEED must be a number"),
        Err(_) => u64::from(u32::from_le_bytes(Rng::System.bytes().unwrap())),
    };
    println!("POSTHASTE_SEED={seed}");
    (seed, Rng::Seeded(seed.into()))
}

/// A random number below `below`.
pub fn random(rng: &Rng, below: u64) -> u64 {
    u64::from_le_bytes(rng.bytes().unwrap()) % below
}

/// Runs a test with a new place for its data, and removes the place afterwards.
pub fn run(kind: place::Kind, test: impl AsyncFnOnce(&Place)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let place = Place::new(kind).await;
        test(&place).await;
        place.remove().await;
    });
}
