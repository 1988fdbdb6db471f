//! Values that are measured repeatedly while a fault lasts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::operations::durability::Load;
use crate::support::Place;
use crate::support::wire::{Wire, get_request};

/// A task that takes samples of one value. Each sample has the time at which the value was read.
pub struct Samples<T> {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<(Instant, T)>>,
}

impl<T: Send + 'static> Samples<T> {
    /// Starts to take samples, with a pause of `every` after each of them.
    pub fn take<F>(every: Duration, mut sample: impl FnMut() -> F + Send + 'static) -> Self
    where
        F: Future<Output = T> + Send,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut samples = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                samples.push((Instant::now(), sample().await));
                tokio::time::sleep(every).await;
            }
            samples
        });
        Self { stop, task }
    }

    pub async fn end(self) -> Vec<(Instant, T)> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Samples how many sends of a load have been accepted.
pub fn accepted(load: &Load) -> Samples<usize> {
    let counts = Arc::clone(&load.counts);
    Samples::take(Duration::from_millis(5), move || {
        let accepted = counts.accepted.load(Ordering::Relaxed);
        async move { accepted }
    })
}

/// Samples the status of `/readyz`. The value is 0 if there was no answer.
pub fn readiness(address: SocketAddr) -> Samples<u16> {
    Samples::take(Duration::from_millis(100), move || async move {
        let Ok(mut wire) = Wire::connect(address).await else { return 0 };
        wire.exchange(&get_request("/readyz")).await.map_or(0, |answer| answer.status.as_u16())
    })
}

/// Samples the number of connections of all nodes to the database.
pub async fn connections(place: &Place) -> Samples<i64> {
    let client = Arc::new(place.postgres().await);
    Samples::take(Duration::from_millis(100), move || {
        let client = Arc::clone(&client);
        async move {
            let sql = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name LIKE 'posthaste%'";
            client.query_one(sql, &[]).await.map_or(0, |row| row.get(0))
        }
    })
}

/// The longest time in which a value did not change.
pub fn longest_gap<T: PartialEq>(samples: &[(Instant, T)]) -> Duration {
    let (mut longest, mut since) = (Duration::ZERO, 0);
    for (index, (at, value)) in samples.iter().enumerate() {
        longest = longest.max(*at - samples[since].0);
        if *value != samples[since].1 {
            since = index;
        }
    }
    longest
}

pub fn most<T: Ord + Copy>(samples: &[(Instant, T)]) -> T {
    samples.iter().map(|(_, value)| *value).max().expect("at least one sample")
}
